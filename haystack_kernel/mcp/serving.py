"""Serve the tools: over stdio to the client that started this process, or over HTTP on the loopback with a token.

In: settings. Out: a server until it is stopped, and what a client's configuration has to hold.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import SecretStr

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.mcp.bench import Bench
from haystack_kernel.mcp.server import HaystackServer, build_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from haystack_kernel.schema import Settings

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PORT = 8766
PATH = "/mcp"
_HOST = "127.0.0.1"
_GRACE_S = 3
_TOKEN_VARIABLE = "${HAYSTACK_MCP__TOKEN}"


def serve_stdio(settings: Settings, *, storage: str | None = None) -> None:
    """Serve the client that started this process, until it closes the connection; runs go on."""
    build_server(Bench(settings, storage=storage)).run("stdio")


def serve_http(settings: Settings, *, port: int, show: Callable[[str], object], storage: str | None = None) -> None:
    """Serve clients of this machine over HTTP until stopped; runs go on.

    Parameters
    ----------
    settings
        Of the installation; without ``mcp.token`` a token is made.
    port
        Where to listen on the loopback; 0 takes a free one.
    show
        Called with the configuration of a client, once the server listens. It holds a token that was made here.
    storage
        As it was given to the command line.

    Raises
    ------
    InvalidInputError
        The port cannot be listened at.
    """
    token, shown = settings.mcp.token, _TOKEN_VARIABLE
    if token is None:
        token = SecretStr(secrets.token_urlsafe(32))
        shown = token.get_secret_value()
    try:
        listener = socket.create_server((_HOST, port), backlog=128)
    except OSError as error:
        msg = f"cannot listen at {_HOST}:{port} ({error.strerror or error}); choose another --port, or 0 for a free one"
        raise InvalidInputError(msg, port=port) from error
    port = listener.getsockname()[1]
    app = guarded(build_server(Bench(settings, storage=storage)), port=port, token=token)
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", timeout_graceful_shutdown=_GRACE_S, server_header=False
    )
    show(http_configuration(f"http://{_HOST}:{port}{PATH}", token=shown))
    uvicorn.Server(config).run(sockets=[listener])


def guarded(server: HaystackServer, *, port: int, token: SecretStr) -> Guard:
    """The HTTP application of a server: for this machine's own names alone, and for whoever has the token."""
    names = [f"{host}:{port}" for host in (_HOST, "localhost")]
    security = TransportSecuritySettings(allowed_hosts=names, allowed_origins=[f"http://{name}" for name in names])
    return Guard(server.streamable_http_app(streamable_http_path=PATH, transport_security=security), token=token)


class Guard:
    """Lets nobody in without the token: the loopback alone does not tell one program of this machine from another."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, token: SecretStr) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] == "http" and not self._knows(scope):
            body = b'{"error": "send the token as Authorization: Bearer TOKEN; `haystack mcp --http` shows it"}'
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"www-authenticate", b"Bearer"),
            ]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        wanted = b"Bearer " + self._token.get_secret_value().encode()
        return len(given) == 1 and hmac.compare_digest(given[0], wanted)


def stdio_configuration(*, storage: str | None, max_cost: float | None) -> str:
    """What the configuration of a client holds that starts the server itself, as JSON."""
    words = ["-m", "haystack_kernel", "mcp"]
    words += ["--storage", storage] if storage else []
    words += ["--max-cost", f"{max_cost:g}"] if max_cost is not None else []
    return _configuration({"command": sys.executable, "args": words})


def http_configuration(url: str, *, token: str) -> str:
    """What the configuration of a client holds that connects to a server which runs, as JSON."""
    return _configuration({"type": "http", "url": url, "headers": {"Authorization": f"Bearer {token}"}})


def _configuration(entry: dict[str, Any]) -> str:
    return json.dumps({"mcpServers": {"haystack": entry}})
