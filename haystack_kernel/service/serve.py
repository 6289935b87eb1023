"""Run the service: on this machine's loopback with a token that is printed, or as the settings say.

In: settings, host and port. Out: a server that runs until it is stopped; the runs it started go on.
"""

from __future__ import annotations

import logging
import secrets
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn
from pydantic import SecretStr

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.service.app import create

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.schema import Settings

PORT = 8765
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_GRACE_S = 3
_MAX_OPEN = 2000  # connections; more are refused at once
_HEADERS_S = 10  # an idle connection is closed


def serve(settings: Settings, *, host: str, port: int, show: Callable[[str], object]) -> None:
    """Serve until stopped.

    Parameters
    ----------
    settings
        Of the installation; without a token one is made.
    host, port
        Where to listen; port 0 takes a free one. Beyond the loopback only with IAP in front.
    show
        Called with the address to open.

    Raises
    ------
    InvalidInputError
        The place cannot be listened at, or would be open to other machines without Identity-Aware Proxy.
    """
    service = settings.service
    if host not in _LOOPBACK and service.identity != "iap" and not service.hosts:
        msg = (
            f"--host {host} opens the service to other machines, where the token would travel unencrypted: put "
            "Identity-Aware Proxy in front (HAYSTACK_SERVICE__IDENTITY=iap), or an encrypting proxy whose name stands "
            "in HAYSTACK_SERVICE__HOSTS"
        )
        raise InvalidInputError(msg, host=host)
    if service.identity == "token" and service.token is None:
        service = service.model_copy(update={"token": SecretStr(secrets.token_urlsafe(32))})
        settings = settings.model_copy(update={"service": service})
    app = create(settings)
    listener = listen(host, port)
    address = f"http://{'127.0.0.1' if host == 'localhost' else host}:{listener.getsockname()[1]}"
    app.state.address = app.state.address or address
    if service.token is not None and service.identity == "token":
        show(f"{address}/sign-in?token={service.token.get_secret_value()}")
    else:
        show(address)
    _log_to_stderr()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,  # a line of it would hold what stands in addresses
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=_HEADERS_S,
            limit_concurrency=_MAX_OPEN,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=32 * 1024,
        )
    )
    server.run(sockets=[listener])


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
    return listener


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    root = logging.getLogger("haystack")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
