"""The command seek: which treatment moves cells toward a state.

In: arguments. Out: a readable table or one JSON line; see the package.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import format_rows, show, wrap
from haystack_kernel.cli.runs import MaxCost, Storage, Yes

_SHOWN = {  # column of the table -> its heading
    "rank": "rank",
    "perturbation": "treatment",
    "cell_type": "cells",
    "source": "source",
    "toward": "toward",
    "toward_low": "low",
    "toward_high": "high",
    "p_toward": "p",
    "q_toward": "q",
}
_LEGEND = (
    "toward: cosine between the effect and the way to the state (1: straight there, 0: no part of it, -1: away), with "
    "its 80 % interval; p: share of random states of the same size and structure that the effect moves toward as much; "
    "q: expected share of false rows among this one and those above."
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    commands.add(app, seek, group=commands.MANY)


def seek(
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help='Such as "Which drug moves B cells toward TNF-treated B cells?"')
    ],
    state: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Target state: cells (h5ad), a gene set (GMT), or a table of genes (CSV)."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="H5AD", help="Cells that those of --state are compared with.")
    ] = None,
    gene_set: Annotated[
        str | None, typer.Option("--gene-set", metavar="NAME", help="Set of the GMT file with several.")
    ] = None,
    screen: Annotated[
        str | None, typer.Option(metavar="ID", help="Screen whose predictions are searched beside what was measured.")
    ] = None,
    predict: Annotated[
        bool, typer.Option("--predict", help="Predict treatments that were measured in other cells only, as a screen.")
    ] = False,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes of this machine that predict at the same time.")
    ] = 1,
    atlas: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Atlas; repeat it for several (default: as configured)."),
    ] = None,
    hide: Annotated[
        list[str] | None,
        typer.Option(metavar="CELLS:TREATMENT", help="Pair that is not searched; repeat it for several."),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Rows that are printed.")] = 15,
    out: Annotated[str | None, typer.Option(metavar="CSV", help="File that takes the whole table.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Random seed.")] = None,
    storage: Storage = None,
    atlas_root: Annotated[
        str | None,
        typer.Option("--atlas-root", metavar="FOLDER", help="Folder of the atlases (default: as configured)."),
    ] = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
) -> None:
    """Search which treatment moves cells toward a state.

    Responses that were measured in these cells and predicted effects are compared with the way to the state, and with
    random states. Only with --predict are predictions made.
    """
    from haystack_kernel.campaign.seeking import seek as search
    from haystack_kernel.config.connect import connect
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.ports import Consent
    from haystack_kernel.progress import stream_progress

    settings = load_settings(storage=storage, atlas_root=atlas_root)

    def tell(message: str, fraction: float) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{message}\033[K" if fraction < 1 else "\r\033[K")

    found = search(
        question,
        state=state,
        against=against,
        gene_set=gene_set,
        screen=screen,
        predict=predict,
        workers=workers,
        atlases=atlas,
        hide=tuple(hide or ()),
        seed=seed,
        ports=connect(settings, progress=stream_progress(sys.stderr), consent=Consent.given(yes, max_cost)),
        progress=tell,
    )
    if out is not None:
        found.table.to_csv(out, index=False)
    value: dict[str, Any] = {
        "reading": found.query.words,
        "state": found.state.name,
        "query": found.query.model_dump(mode="json"),
        "table": found.table.to_dict("records"),
        "words": list(found.words),
        "left_out": list(found.left_out),
    }
    show(value, lambda: _readable(value, top=top))


def _readable(value: dict[str, Any], *, top: int) -> str:
    rows = [{heading: row[name] for name, heading in _SHOWN.items()} for row in value["table"][:top]]
    for row in rows:
        for name in ("p", "q"):
            row[name] = "" if row[name] != row[name] else f"{row[name]:.2g}"
    more = len(value["table"]) - len(rows)
    lines = [wrap(f"Read as: {value['reading']}"), "", format_rows(rows)]
    if more > 0:
        lines.append(f"and {more} more rows; --out FILE writes them all")
    return "\n".join([*lines, "", wrap(_LEGEND), "", *(wrap(one) for one in value["words"])])
