"""The command `haystack mcp`: tools for assistants over the Model Context Protocol.

In: arguments. Out: a server until it is stopped, or the configuration of a client.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Annotated

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.runs import Storage
from haystack_kernel.errors import MissingExtraError

_NEEDS = ("mcp", "uvicorn")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    commands.add(app, mcp, group=commands.SYSTEM)


def mcp(
    storage: Storage = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve clients of this machine over HTTP with a token (default: stdio).")
    ] = False,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port of --http; 0 takes a free one.")
    ] = 8766,
    max_cost: Annotated[
        float | None,
        typer.Option(
            metavar="USD",
            min=0,
            help="Maximum cost of all runs started through this server together, in US dollars (default: as "
            "configured, or 0: only free runs start).",
        ),
    ] = None,
    config: Annotated[
        bool, typer.Option("--config", help="Print the configuration of a client that starts the server, and end.")
    ] = False,
) -> None:
    """Offer the tools to an assistant over MCP.

    The assistant asks, looks and reads results. It starts a run only after its client has asked you; runs go on when
    the server stops.
    """
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        msg = f"the tools for assistants need {', '.join(missing)}: pip install 'haystack-kernel[mcp]'"
        raise MissingExtraError(msg, extra="mcp")
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.mcp import serving

    if config:
        print(serving.stdio_configuration(storage=storage, max_cost=max_cost))
        return
    settings = load_settings(storage=storage)
    if max_cost is not None:
        settings = settings.model_copy(update={"mcp": settings.mcp.model_copy(update={"max_usd": max_cost})})
    if not http:
        serving.serve_stdio(settings, storage=storage)
        return

    def show(configuration: str) -> None:
        print(configuration, flush=True)
        sys.stderr.write("Press Ctrl-C to stop the server; runs that it started go on.\n")

    serving.serve_http(settings, port=port, show=show, storage=storage)
