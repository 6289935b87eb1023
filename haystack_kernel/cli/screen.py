"""The command screen: many questions as one job and one table.

In: arguments. Out: the plan on stderr, then a readable table or one JSON line; see the package.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import format_fields, format_rows, is_readable, show, wrap
from haystack_kernel.cli.runs import (
    Atlases,
    GeneListFile,
    Hide,
    MaxCost,
    ModelFile,
    QueryCells,
    QueryH5ad,
    Storage,
    Yes,
)
from haystack_kernel.schema import ExecutorName

if TYPE_CHECKING:
    from collections.abc import Collection

    import pandas as pd

    from haystack_kernel.campaign.screening import Preview, Screen

_SHOWN = {  # column of the table -> its heading
    "number": "no.",
    "perturbation": "treatment",
    "cell_type": "cell type",
    "donor": "donor",
    "status": "status",
    "bin": "bin",
    "q": "q",
    "n_called": "genes",
    "size": "size",
    "composite": "score",
    "expected_r": "r",
}
_OF_ALL = ("cell_type", "donor", "status")  # said once where it is the same in all rows
_LEGEND = (
    "q: false discovery rate at which the row is found; genes: that are called; r: expected correlation with the true "
    "response. `screen.ranked()` says for each row what keeps it from being grounded."
)
_N_SHOWN = 20
_N_LINES = 40


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    commands.add(app, screen, group=commands.MANY)


def screen(
    perturbation: Annotated[
        list[str] | None,
        typer.Option("--perturbation", "-p", metavar="NAME", help="Treatment; repeat it for several."),
    ] = None,
    cell_type: Annotated[
        list[str] | None,
        typer.Option("--cell-type", "-c", metavar="NAME", help="Cell type; every treatment is asked for in each."),
    ] = None,
    donor: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Donor; every question is asked for each (default: any).")
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(
            "--questions",
            metavar="FILE",
            help="TSV or CSV file with columns perturbation, cell_type and, if wanted, donor.",
        ),
    ] = None,
    data_set: Annotated[
        str | None,
        typer.Option(
            "--all-of",
            metavar="DATA_SET",
            help="All treatments of a data set or atlas (in all its cell types, by default).",
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="Of these only the cytokine, drug or genetic ones.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="GENE", help="All treatments that are known to act on a gene, e.g. JAK1.")
    ] = None,
    pathway: Annotated[
        str | None, typer.Option(metavar="NAME", help="All treatments that are known to change a pathway.")
    ] = None,
    storage: Storage = None,
    atlas: Atlases = None,
    atlas_root: Annotated[
        str | None,
        typer.Option("--atlas-root", metavar="FOLDER", help="Folder of the atlases (default: as configured)."),
    ] = None,
    query_h5ad: QueryH5ad = None,
    query_cells: QueryCells = None,
    hide: Hide = None,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Method of prediction (default: as of `haystack run`).")
    ] = None,
    model: ModelFile = None,
    genelist: GeneListFile = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also predict with the simple engines, to compare with.")
    ] = False,
    resamples: Annotated[
        int, typer.Option(metavar="N", min=0, max=20, help="Predictions from resampled prompts, of engine stack.")
    ] = 0,
    n_prompt: Annotated[
        int | None, typer.Option(metavar="CELLS", help="Maximum number of prompt cells.", **commands.limits("n_prompt"))
    ] = None,
    n_query: Annotated[
        int | None, typer.Option(metavar="CELLS", help="Maximum number of query cells.", **commands.limits("n_query"))
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Random seed.", **commands.limits("seed"))] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes of this machine that work at the same time.")
    ] = 1,
    executor: Annotated[
        ExecutorName | None, typer.Option(help="Where the predictions are made (default: as configured).")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan, and do nothing.")] = False,
    yes: Yes = False,
    max_cost: MaxCost = None,
) -> None:
    """Ask many questions as one job.

    Every treatment is asked for in every cell type, and each answer is scored as a run is. The plan is printed first;
    on a terminal it asks once before it starts, unless --yes is given. The same command goes on where it was stopped,
    and reads the result where it is finished.
    """
    from haystack_kernel.campaign.live import watch_in_terminal
    from haystack_kernel.campaign.screening import matrix_of, plan_screen, preview, run_screen
    from haystack_kernel.config.connect import connect
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.ports import Consent
    from haystack_kernel.progress import stream_progress

    settings = load_settings(storage=storage, atlas_root=atlas_root)
    ports = connect(settings, progress=stream_progress(sys.stderr), consent=Consent.given(yes, max_cost))
    made = plan_screen(
        perturbation or (),
        cell_type or (),
        ports=ports,
        donors=donor or (),
        table=questions,
        data_set=data_set,
        kind=kind,
        target=target,
        pathway=pathway,
        atlases=atlas,
        query_h5ad=query_h5ad,
        query_cells=query_cells,
        hide=hide,
        engine=engine,
        model=model,
        genelist=genelist,
        baselines=baselines,
        resamples=resamples,
        n_prompt=n_prompt,
        n_query=n_query,
        seed=seed,
        executor=executor,
    )
    found = preview(made, ports=ports, workers=workers)
    if plan:
        show(_plan_value(found), lambda: "\n".join(_plan_lines(found)))
        return
    sys.stderr.write("\n".join(_plan_lines(found)) + "\n")
    is_approved = yes
    if is_readable() and sys.stdin.isatty() and not yes and found.n_left:
        is_approved = typer.confirm("Start?", default=made.executor == "local", err=True)
        if not is_approved:
            raise typer.Exit
        ports = connect(settings, progress=ports.progress, consent=Consent.given(is_approved, max_cost))
    seen = watch_in_terminal(matrix_of(made, ports=ports), sys.stderr, clock=ports.clock)
    done = run_screen(made, ports=replace(ports, progress=seen), workers=workers)
    show(_value(done), lambda: _readable(done))


def _plan_lines(found: Preview) -> list[str]:
    lines = [wrap(one, indent="" if place == 0 else "  ") for place, one in enumerate(found.lines[:_N_LINES])]
    if len(found.lines) > _N_LINES:
        lines.append(f"  … and {len(found.lines) - _N_LINES} lines more: --plan --json has all")
    return lines


def _plan_value(found: Preview) -> dict[str, Any]:
    return {
        "id": found.id,
        "folder": found.folder,
        "n_questions": len(found.plan.questions),
        "n_predicted": found.n_predicted,
        "n_left": found.n_left,
        "n_tasks": found.n_tasks,
        "not_understood": list(found.plan.not_understood),
        "questions": [one.model_dump(mode="json") for one in found.plan.questions],
        "cost": found.cost.model_dump(mode="json"),
    }


def _value(done: Screen) -> dict[str, Any]:
    counts = done.table["status"].value_counts().to_dict()
    return {
        "id": done.id,
        "folder": done.folder,
        "n_questions": len(done.table),
        "status": {str(name): int(n) for name, n in counts.items()},
        "not_understood": list(done.plan.not_understood),
        "table": done.ranked().to_dict("records"),
    }


def _readable(done: Screen) -> str:
    from haystack_kernel.campaign.rank import BIN_RULES, words_of

    table: pd.DataFrame = done.ranked()
    same = {name: str(table[name].iloc[0]) for name in _OF_ALL if table[name].nunique() == 1}
    lines = [_rows(table, left_out=same)]
    if len(table) > _N_SHOWN:
        lines.append(f"… and {len(table) - _N_SHOWN} more in {done.folder}")
    counts = done.table["status"].value_counts()
    bins = table["bin"].value_counts()
    fields = [
        *((_SHOWN[name], text) for name, text in same.items() if name != "status" and text),
        ("found", words_of(table)),
        *((name, f"{int(bins.get(name, 0))}: {rule}") for name, rule in BIN_RULES.items()),
        ("why not", _reasons(table["why"])),
        ("screen", done.id),
        ("folder", done.folder),
        *((str(name), int(n)) for name, n in counts.items()),
    ]
    return "\n".join([*lines, "", wrap(_LEGEND), "", format_fields(fields)])


def _rows(table: pd.DataFrame, *, left_out: Collection[str]) -> str:
    columns = {name: heading for name, heading in _SHOWN.items() if name not in left_out}
    shown = table.head(_N_SHOWN).to_dict("records")
    rows = [{heading: one[name] for name, heading in columns.items()} for one in shown]
    for row in rows:
        row["genes"] = "" if row["genes"] != row["genes"] else int(row["genes"])
    return format_rows(rows)


def _reasons(texts: pd.Series) -> str:
    """What keeps rows from being grounded, each reason once with its number of rows."""
    reasons = Counter(re.sub(r" \([^)]*\)$", "", one) for text in texts if text for one in text.split("; "))
    return "; ".join(f"{n} {reason}" for reason, n in reasons.most_common())
