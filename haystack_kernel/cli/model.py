"""Commands about checkpoints: convert, info, generate.

In: arguments. Out: a readable answer or one JSON line each; see the package.

The commands are those of the inference program (``python -m inference.model``, which also works alone in its container)
and run in a process of their own: torch is never imported into the kernel, one parser and one help text serve both, and
arguments, progress and the exit code pass through unchanged.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from haystack_kernel.cli import output
from haystack_kernel.cli.commands import new_group

if TYPE_CHECKING:
    from types import FrameType

app = new_group("Convert and describe STACK checkpoints; predict with one.")


class _PassedOn(TyperCommand):
    """A command of another program: every word is passed on as it was typed, ``--`` included."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click, which typer hides
        """Keep the words for the program's own parser."""
        ctx.args = list(args)
        return ctx.args


@app.command(cls=_PassedOn, add_help_option=False)
def convert(context: typer.Context) -> None:
    """Rewrite a checkpoint as safetensors, without pickle."""
    _run("convert", context.args)


@app.command(cls=_PassedOn, add_help_option=False)
def info(context: typer.Context) -> None:
    """Describe a checkpoint, and check a gene list against it."""
    _run("info", context.args)


@app.command(cls=_PassedOn, add_help_option=False)
def generate(context: typer.Context) -> None:
    """Predict cells with the options of stack-generation."""
    _run("generate", context.args)


def _run(command: str, arguments: list[str]) -> None:
    """Run the program to its end and leave with its exit code; a request to end is passed on to it.

    ``-P`` keeps a folder ``inference`` that happens to lie in the current directory from taking the program's place.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = {word for word in ("--json", "--table") if word in arguments[:end]}  # of ours, which the program has not
    output.choose_form(json="--json" in own, table="--table" in own)
    arguments = [word for word in arguments[:end] if word not in own] + arguments[end:]
    import subprocess

    sys.stdout.flush()
    program = [sys.executable, "-P", "-m", "inference.model", command, *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:

        def pass_on(number: int, _frame: FrameType | None) -> None:
            process.send_signal(number)

        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),  # a terminal sends it to both
        }
        try:
            out, _ = process.communicate()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    try:
        found = json.loads(out)
    except ValueError:  # its help, which is text anyway
        sys.stdout.write(out)
    else:
        output.show(found, lambda: output.format_fields((key.replace("_", " "), item) for key, item in found.items()))
    raise typer.Exit(process.returncode if process.returncode >= 0 else 128 - process.returncode)
