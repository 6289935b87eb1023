"""The command line: one JSON line on stdout (tables with ``--table``), progress and errors on stderr.

In: arguments. Out: exit code 0 done, 1 failed, 2 wrong input or usage, 3 outside service.
"""

from __future__ import annotations

import sys

import typer

from haystack_kernel import errors
from haystack_kernel.cli import atlas, control, knowledge, model, runs

app = typer.Typer(
    name="haystack",
    help="Ask in plain words how cells would respond; get a grounded prediction in an executed notebook.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
runs.register(app)
control.register(app)
app.add_typer(atlas.app, name="atlas")
app.add_typer(model.app, name="model")
app.add_typer(knowledge.app, name="knowledge")

_INPUT_ERRORS = (
    errors.InvalidInputError,
    errors.MissingKeyError,
    errors.MissingExtraError,
    errors.NotFoundError,
    errors.NoCandidateError,
)


def exit_code(error: errors.HaystackError) -> int:
    """Exit code of an error: 2 the reader changes the input, 3 an outside service, 1 anything else."""
    if isinstance(error, _INPUT_ERRORS):
        return 2
    return 3 if isinstance(error, errors.ServiceError) else 1


def main() -> None:
    """Entry point of the ``haystack`` command."""
    try:
        app()
    except errors.HaystackError as error:
        sys.stderr.write(f"error: {error}\n")
        for note in getattr(error, "__notes__", ()):
            sys.stderr.write(f"note: {note}\n")
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.stderr.write("stopped; `haystack resume RUN_ID` goes on from the last finished step\n")
        sys.exit(130)
