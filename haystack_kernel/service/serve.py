"""Run the service: on this machine's loopback with a token that is printed, or as the settings say.

In: settings, host and port. Out: a server that runs until it is stopped; the runs it started go on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import sys
from typing import TYPE_CHECKING

import h11
import uvicorn
from pydantic import SecretStr
from uvicorn.protocols.http.h11_impl import H11Protocol

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.service.app import create

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from haystack_kernel.schema import ServiceSettings, Settings

PORT = 8765
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_EVERYWHERE = ("0.0.0.0", "::")  # the name of no machine, so that no message may send anybody there
_GRACE_S = 3
_BACKLOG = 2048  # connections that wait while the server starts
_MAX_OPEN = 2000  # connections; more are refused at once
_HEAD_S = 10.0  # then a connection whose request has not said what it wants is closed
_MAX_HEAD = 32 * 1024  # bytes of the headers of a request
_IDLE_S = 75  # then an idle connection is closed; later than browsers and proxies do, so that none is closed under them


def serve(settings: Settings, *, host: str, port: int, show: Callable[[str], object]) -> None:
    """Serve until stopped.

    Parameters
    ----------
    settings
        Of the installation; without a token one is made.
    host, port
        Where to listen; port 0 takes a free one. Beyond the loopback only with IAP in front.
    show
        Called with the address to open. It holds the token where that was made here, and on the loopback.

    Raises
    ------
    InvalidInputError
        The place cannot be listened at, or would be open to other machines without Identity-Aware Proxy.
    """
    service = settings.service
    _check_place(host, service)
    is_shown = service.token is None or host in _LOOPBACK  # elsewhere what is printed ends in the log of a container
    if service.identity == "token" and service.token is None:
        service = service.model_copy(update={"token": SecretStr(secrets.token_urlsafe(32))})
        settings = settings.model_copy(update={"service": service})
    app = create(settings)
    listener = listen(host, port)
    address = f"http://{'127.0.0.1' if host == 'localhost' else host}:{listener.getsockname()[1]}"
    if host not in _EVERYWHERE:
        app.state.address = app.state.address or address
    if service.token is not None and service.identity == "token" and is_shown:
        show(f"{address}/sign-in?token={service.token.get_secret_value()}")
    else:
        show(address)
    _log_to_stderr()
    server_of(app).run(sockets=[listener])


def _check_place(host: str, service: ServiceSettings) -> None:
    """Refuse to let a token travel unencrypted to other machines."""
    if host not in _LOOPBACK and service.identity != "iap" and not service.hosts:
        msg = (
            f"--host {host} opens the service to other machines, where the token would travel unencrypted: put "
            "Identity-Aware Proxy in front (HAYSTACK_SERVICE__IDENTITY=iap), or an encrypting proxy whose name stands "
            "in HAYSTACK_SERVICE__HOSTS"
        )
        raise InvalidInputError(msg, host=host)


def server_of(app: FastAPI) -> uvicorn.Server:
    """The server of an application, as `haystack serve` runs it."""
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        access_log=False,  # a line of it would hold what stands in addresses
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_IDLE_S,
        limit_concurrency=_MAX_OPEN,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_MAX_HEAD,
    )
    return uvicorn.Server(config)


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose next request does not say what it wants in time.

    uvicorn itself waits for ever, so that slow clients could hold every connection there is. Bodies have a limit of
    their own, in the guard.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Wait on while the head of a request is not complete."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and data:
            self._wait()
        else:
            self._stop_waiting()

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(_HEAD_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at a place, or InvalidInputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        msg = f"cannot listen at {host}:{port} ({error.strerror or error}); choose another --port, or 0 for a free one"
        raise InvalidInputError(msg, port=port) from error
    listener.listen(_BACKLOG)  # who is told the address may connect at once
    return listener


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    root = logging.getLogger("haystack")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
