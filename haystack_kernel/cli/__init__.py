"""The command line: a readable answer on a terminal, one JSON line in a pipe; progress and errors go to stderr.

In: arguments. Out: exit code 0 done, 1 failed, 2 wrong input or usage, 3 an outside service refused, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from haystack_kernel import __version__, errors
from haystack_kernel.cli import (
    atlas,
    backtest,
    drill,
    engine,
    knowledge,
    leaderboard,
    manage,
    mcp,
    model,
    next,
    outcome,
    runs,
    screen,
    seal,
    seek,
    service,
)
from haystack_kernel.cli.commands import DATA, new_group
from haystack_kernel.cli.output import prepare_streams
from haystack_kernel.texts import visible

app = new_group(
    "Ask in plain words how cells would respond, and get a grounded prediction in an executed notebook.",
    name="haystack",
    epilog="Answers are readable text on a terminal and one JSON line in a pipe or with --json. "
    "`haystack COMMAND --help` explains a command.",
    pretty_exceptions_enable=False,
)
runs.register(app)
manage.register(app)
service.register(app)
mcp.register(app)
screen.register(app)
drill.register(app)
backtest.register(app)
seek.register(app)
next.register(app)
seal.register(app)
outcome.register(app)
leaderboard.register(app)
app.add_typer(atlas.app, name="atlas", rich_help_panel=DATA)
app.add_typer(knowledge.app, name="knowledge", rich_help_panel=DATA)
app.add_typer(engine.app, name="engine", rich_help_panel=DATA)
app.add_typer(model.app, name="model", rich_help_panel=DATA)

_INPUT_ERRORS = (
    errors.ApprovalNeededError,
    errors.InvalidInputError,
    errors.MissingKeyError,
    errors.MissingExtraError,
    errors.NotFoundError,
    errors.NoCandidateError,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"haystack {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """What is accepted before the command."""


def exit_code(error: errors.HaystackError) -> int:
    """Exit code of an error: 2 the reader changes the input, 3 an outside service, 1 anything else."""
    if isinstance(error, _INPUT_ERRORS):
        return 2
    return 3 if isinstance(error, errors.ServiceError) else 1


def main() -> None:
    """Entry point of the ``haystack`` command."""
    prepare_streams()
    try:
        for word in sys.argv[1:]:
            # Bytes that are no text in this locale could be neither stored nor sent; as the name of a file they serve.
            if any("\ud800" <= character <= "\udfff" for character in word) and not Path(word).exists():
                msg = f"{word!r} holds bytes that are no text in this locale; type it again, or set LC_ALL=C.UTF-8"
                raise errors.InvalidInputError(msg)
        app()
    except errors.HaystackError as error:
        sys.stderr.write(f"error: {visible(str(error))}\n")
        for note in getattr(error, "__notes__", ()):
            sys.stderr.write(f"note: {visible(note)}\n")
        sys.exit(exit_code(error))
