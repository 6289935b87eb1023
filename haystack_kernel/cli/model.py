"""Commands about checkpoints: convert, info, generate.

In: arguments. Out: one JSON line each; see the package.

The commands are those of the inference program (``python -m inference.model``, which also works alone in its container)
and run as a process of their own: torch never comes into the kernel, one parser and one help text serve both, and
arguments, progress, the JSON line and the exit code pass through untouched.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from types import FrameType

app = typer.Typer(
    help="Convert and describe STACK checkpoints; predict with one for every value of a column.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_PASS_ON, add_help_option=False)
def convert(context: typer.Context) -> None:
    """Rewrite a checkpoint as safetensors: the model alone, without pickle."""
    _run("convert", context.args)


@app.command(context_settings=_PASS_ON, add_help_option=False)
def info(context: typer.Context) -> None:
    """Sizes, parameters, window, digest, licence, citation, and whether a gene list fits."""
    _run("info", context.args)


@app.command(context_settings=_PASS_ON, add_help_option=False)
def generate(context: typer.Context) -> None:
    """Predict the test cells once for every value of a column of the base cells; takes stack-generation's flags."""
    _run("generate", context.args)


def _run(command: str, arguments: list[str]) -> None:
    """Run the program to its end and leave with its exit code; a request to end is passed on to it.

    ``-P`` keeps a folder ``inference`` that happens to lie in the current directory from taking the program's place.
    """
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
    sys.stdout.write(out)
    raise typer.Exit(process.returncode if process.returncode >= 0 else 128 - process.returncode)
