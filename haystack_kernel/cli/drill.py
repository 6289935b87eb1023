"""The command drill: a full run of one question of a screen, without predicting it again.

In: arguments. Out: a readable answer or one JSON line; see the package.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import show
from haystack_kernel.cli.runs import MaxCost, Storage, Yes, go_on, spending_of, status_text
from haystack_kernel.schema import ExecutorName


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    commands.add(app, drill, group=commands.MANY)


def drill(
    screen: Annotated[str, typer.Argument(metavar="SCREEN", help="Id of a screen.", show_default=False)],
    number: Annotated[
        int, typer.Argument(metavar="NUMBER", help="Number of a question in its table.", show_default=False)
    ],
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Make the run without starting it; `haystack resume` starts it.")
    ] = False,
    executor: Annotated[
        ExecutorName | None,
        typer.Option(help="Where the predictions are made that the screen did not make (default: as the screen's)."),
    ] = None,
    storage: Storage = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
) -> None:
    """Make a full run of one question of a screen.

    It has a notebook, a report and baselines. Cells and predictions are taken over from the screen. The same command
    again shows the same run.
    """
    from haystack_kernel.campaign import drill as make_run
    from haystack_kernel.progress import stream_progress

    made = make_run(
        screen,
        number,
        storage=storage,
        executor=executor,
        approve=yes or None,
        max_cost=max_cost,
        progress=stream_progress(sys.stderr),
    )
    if made.record.status == "done" or no_run:
        found = made.leave().status()
        show(found, lambda: status_text(found, question=made.record.question, storage=storage))
        return
    sys.stderr.write(f"run {made.run_id} takes over the cells and predictions of question {number} of {screen}\n")
    go_on(made, storage=storage, spending=spending_of(yes, max_cost))
