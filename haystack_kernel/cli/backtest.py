"""The command backtest: how good are predictions from this atlas, measured on pairs that it holds.

In: arguments. Out: a readable table or one JSON line; see the package.
"""

from __future__ import annotations

import itertools
import sys
from typing import Annotated, Any

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import format_fields, format_rows, show, wrap
from haystack_kernel.cli.runs import GeneListFile, MaxCost, ModelFile, Storage, Yes
from haystack_kernel.schema import EVIDENCE_WORDS, HELD_WORDS, ExecutorName

_SHOWN = {  # column of the summary -> its heading
    "engine": "engine",
    "n": "pairs",
    "pearson": "r",
    "clean": "clean r",
    "overlap": "top 50",
    "direction": "direction",
    "discrimination": "discrimination",
    "anchored_r": "0-1",
}
_LEGEND = (
    "r: mean correlation with the measured response; clean r: without its noise; top 50: overlap of the genes that "
    "change most; 0-1: 0 is the mean response, 1 the most that the noise allows; decoy: from the prompt of another "
    "treatment; replicate: one half of the measured cells against the other."
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    commands.add(app, backtest, group=commands.MANY)


def backtest(
    atlas: Annotated[str, typer.Argument(metavar="ATLAS", help="Atlas whose measured pairs are hidden and predicted.")],
    pairs: Annotated[int, typer.Option(metavar="N", min=1, help="Number of pairs of cell type and treatment.")] = 150,
    held: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help=f"What is hidden: {', '.join(HELD_WORDS)}; repeat it for several (default: all possible).",
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Engine; repeat it for several (default: the simple ones and that of a run)."
        ),
    ] = None,
    model: ModelFile = None,
    genelist: GeneListFile = None,
    no_decoy: Annotated[
        bool, typer.Option("--no-decoy", help="Leave out predictions from prompts of other treatments.")
    ] = False,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes of this machine that work at the same time.")
    ] = 1,
    executor: Annotated[
        ExecutorName | None, typer.Option(help="Where the predictions are made (default: as configured).")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Random seed, also of the choice of pairs.")
    ] = None,
    storage: Storage = None,
    atlas_root: Annotated[
        str | None,
        typer.Option("--atlas-root", metavar="FOLDER", help="Folder of the atlases (default: as configured)."),
    ] = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
) -> None:
    """Hide measured pairs of an atlas, predict them, and compare.

    Every engine predicts every pair. What comes out is kept with the atlas, and reports of later runs quote it. The
    same command goes on where it was stopped.
    """
    from haystack_kernel.backtest.work import HELD, run_backtest
    from haystack_kernel.batches.live import watch_steps
    from haystack_kernel.config.connect import connect
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.jobs import SystemClock
    from haystack_kernel.ports import Consent

    settings = load_settings(storage=storage, atlas_root=atlas_root)
    seen = watch_steps(sys.stderr, clock=SystemClock())
    ports = connect(settings, progress=seen, consent=Consent.given(yes, max_cost))
    options: dict[str, Any] = {"model": model, "genelist": genelist, "executor": executor, "seed": seed}
    tested = run_backtest(
        atlas,
        n_pairs=pairs,
        held=tuple(held) if held else HELD,
        engines=engine,
        decoy=not no_decoy,
        workers=workers,
        ports=ports,
        **{name: value for name, value in options.items() if value is not None},
    )
    summary = tested.summary
    value = {
        "id": tested.id,
        "folder": tested.folder,
        "atlas": tested.plan.atlas,
        "n_pairs": len(tested.plan.pairs),
        "summary": summary.to_dict("records"),
        "failures": tested.failures.to_dict("records"),
        "calibrations": [one.model_dump(mode="json") for one in tested.calibrations.values()],
    }
    show(value, lambda: _readable(value, tested.words))


def _readable(value: dict[str, Any], words: tuple[str, ...]) -> str:
    lines: list[str] = []
    for evidence, rows in itertools.groupby(value["summary"], key=lambda row: row["evidence"]):
        shown = [{heading: row[name] for name, heading in _SHOWN.items()} for row in rows]
        lines += [f"Predicted from {EVIDENCE_WORDS[evidence]}", format_rows(shown), ""]
    lines += [wrap(_LEGEND), ""]
    lines += [wrap(sentence) for sentence in words]
    fields = [("back-test", value["id"]), ("folder", value["folder"]), ("not predicted", len(value["failures"]) or "")]
    return "\n".join([*lines, "", format_fields(fields)])
