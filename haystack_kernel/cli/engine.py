"""Commands about engines: list, check.

In: arguments. Out: a readable answer or one JSON line each; see the package.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import format_fields, format_rows, show
from haystack_kernel.errors import HaystackError, InvalidInputError

app = commands.new_group("List engines, and check one of another package.")


def list_() -> None:
    """List every engine: HAYSTACK's own, and those of installed packages and of images."""
    from haystack_kernel.config.engines import list_engines
    from haystack_kernel.config.settings import load_settings

    found = list_engines(load_settings())
    shown = ("name", "says", "package", "licence", "fault")
    rows = [{name: value for name, value in one.to_dict().items() if name in shown} for one in found]
    if not any(row["fault"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "fault"} for row in rows]
    show({"engines": [one.to_dict() for one in found]}, lambda: format_rows(rows))


def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Engine of an installed package.", show_default=False)],
    limit_s: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Time the engine has to answer.")] = 120.0,
) -> None:
    """Have an engine predict small made-up cells, and check what it answers.

    The engine's code runs with your rights, as it does in a run.
    """
    from haystack_kernel.config.engines import check_engine
    from haystack_kernel.config.settings import load_settings

    check_engine(name, settings=load_settings(), executor="local")
    command = [sys.executable, "-P", "-m", "inference.engine_check", name, str(limit_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        msg = f"the check of engine {name!r} ended without a result: {last}"
        raise HaystackError(msg)
    found = json.loads(done.stdout)
    if not found["ok"]:
        raise InvalidInputError(found["fault"], engine=name)
    show(found, lambda: format_fields((key.replace("_", " "), value) for key, value in found.items() if key != "ok"))


commands.add(app, list_, name="list")
commands.add(app, check)
