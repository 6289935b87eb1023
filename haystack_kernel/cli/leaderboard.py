"""The command leaderboard: which engine is best on an atlas, and which cannot be told apart.

In: arguments. Out: a readable answer or one JSON line, and files; see the package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import format_fields, format_rows, show, wrap
from haystack_kernel.cli.runs import GeneListFile, MaxCost, ModelFile, Storage, Yes
from haystack_kernel.schema import HELD_WORDS, ExecutorName

if TYPE_CHECKING:
    from haystack_kernel.campaign.board import Leaderboard


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    commands.add(app, leaderboard, group=commands.MANY)


def leaderboard(
    atlas: Annotated[str, typer.Argument(metavar="ATLAS", help="Atlas on whose measured pairs engines are ranked.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Engine, of another package too; repeat it for several (default: those back-tested, else the simple "
            "ones and that of a run).",
        ),
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of pairs (default: the largest back-test there is, else 150)."),
    ] = None,
    held: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help=f"What is hidden: {', '.join(HELD_WORDS)}; repeat it for several."),
    ] = None,
    model: ModelFile = None,
    genelist: GeneListFile = None,
    executor: Annotated[
        ExecutorName | None, typer.Option(help="Where predictions are made (default: as configured).")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Random seed of a new back-test.")] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Processes that work at the same time.")] = 1,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Also write a page that opens offline.")] = None,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help="Also write a table of Markdown.")] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Also write the table as CSV.")] = None,
    storage: Storage = None,
    atlas_root: Annotated[
        str | None,
        typer.Option("--atlas-root", metavar="FOLDER", help="Folder of the atlases (default: as configured)."),
    ] = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
) -> None:
    """Rank engines on an atlas, from its back-tests.

    Back-tests that are in the storage are used as they are; engines that they lack are tested on the same pairs. Where
    there is no back-test, one is made: the first line says of what and how long it may take, and on this machine it
    costs nothing. It may be stopped, and the same command goes on.
    """
    from haystack_kernel.backtest.work import HELD
    from haystack_kernel.batches.live import watch_steps
    from haystack_kernel.campaign import leaderboard as rank
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.jobs import SystemClock

    options: dict[str, Any] = {"model": model, "genelist": genelist, "executor": executor, "seed": seed}
    board = rank(
        atlas,
        engines=engine,
        n_pairs=pairs,
        held=tuple(held) if held else HELD,
        workers=workers,
        settings=load_settings(storage=storage, atlas_root=atlas_root),
        approve=yes,
        max_cost=max_cost,
        progress=watch_steps(sys.stderr, clock=SystemClock()),
        **{name: value for name, value in options.items() if value is not None},
    )
    texts = {html: board.to_html, markdown: board.to_markdown, csv: lambda: board.table.to_csv(index=False)}
    for path, make in texts.items():
        if path is not None:
            Path(path).expanduser().write_text(make(), encoding="utf-8")
    value = {
        "atlas": board.atlas,
        "words": board.words,
        "engines": board.table.to_dict("records"),
        "by_evidence": board.by_evidence.to_dict("records"),
        "metrics": list(board.metrics),
        "not_told": list(board.not_told),
        "backtests": list(board.backtests),
        "notes": list(board.notes),
    }
    show(value, lambda: _readable(board))


def _readable(board: Leaderboard) -> str:
    from haystack_kernel.campaign.board import BY_EVIDENCE, SHOWN, legend

    def rows(table: Any, columns: dict[str, str]) -> str:  # noqa: ANN401 - a data frame
        return format_rows([{head: row[name] for name, head in columns.items()} for row in table.to_dict("records")])

    parts = [wrap(f"{board.words}."), rows(board.table, SHOWN)]
    if len(board.by_evidence):
        columns = {name: SHOWN[name] for name in BY_EVIDENCE}
        for evidence, some in board.by_evidence.groupby("evidence", sort=False):
            parts.append(f"Predicted from {evidence}\n{rows(some, columns)}")
    parts += [wrap(one) for one in (legend(board), *board.notes)]
    return "\n\n".join([*parts, format_fields([("back-tests", ", ".join(board.backtests))])])
