"""The command `haystack serve`: the web service over runs.

In: arguments. Out: a server until it is stopped.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Annotated

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.runs import Storage
from haystack_kernel.errors import MissingExtraError

_NEEDS = ("fastapi", "uvicorn", "sse_starlette", "jwt", "multipart")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    commands.add(app, serve, group=commands.SYSTEM)


def serve(
    storage: Storage = None,
    host: Annotated[str, typer.Option(metavar="NAME", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 8765,
) -> None:
    """Serve the runs of a storage as web pages and as REST.

    Open the address that is printed; it holds a token. Runs go on when the service stops.
    """
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        msg = f"the service needs {', '.join(missing)}: pip install 'haystack-kernel[service]'"
        raise MissingExtraError(msg, extra="service")
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.service.serve import serve as run_server

    def show(address: str) -> None:
        print(address, flush=True)
        sys.stderr.write("Press Ctrl-C to stop the service; runs that it started go on.\n")

    run_server(load_settings(storage=storage), host=host, port=port, show=show)
