"""The command next: which measurements would most likely change the top of a campaign's list.

In: arguments. Out: a readable table or one JSON line; see the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import format_rows, show, wrap
from haystack_kernel.cli.runs import Storage

if TYPE_CHECKING:
    from haystack_kernel.campaign.next import NextExperiments

_SHOWN = {  # column of the table -> its heading
    "rank": "rank",
    "perturbation": "treatment",
    "cell_type": "cells",
    "place": "place now",
    "value": "value",
    "low": "low",
    "high": "high",
    "p_change": "chance of a change",
    "narrowing": "interval narrower by",
    "gain": "gain",
    "enough": "enough (donors x cells)",
}
_LEGEND = (
    "place now: in the present list; low to high: 80 % interval; chance of a change: that the measurement moves it "
    "over the edge of the top; gain: by how much the sum of the top's true values can be expected to grow; enough: the "
    "smallest experiment that brings 90 % of what eight donors of 100 cells would."
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    commands.add(app, propose, name="next", group=commands.MANY)


def propose(
    campaign: Annotated[
        str,
        typer.Argument(metavar="SCREEN", help="Id of a screen, or a CSV file, such as that of `haystack seek --out`."),
    ],
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What the list is ordered by (default: toward, else size).")
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Rows of the list that matter.")] = 10,
    donors: Annotated[int, typer.Option(metavar="N", min=1, help="Donors of the experiment that is considered.")] = 4,
    cells: Annotated[int, typer.Option(metavar="N", min=1, help="Its cells of each donor and arm.")] = 50,
    storage: Storage = None,
) -> None:
    """Propose measurements that could change the top of a list.

    Each question has an expected value and an error. A measurement is worth how far the new order of the list can be
    expected to be better than the present one. Nothing is predicted and nothing is spent.
    """
    from haystack_kernel.campaign import next_experiments, open_screen
    from haystack_kernel.campaign.next import read_list

    given = read_list(campaign) if campaign.lower().endswith(".csv") else open_screen(campaign, storage=storage)
    found = next_experiments(given, by=by, top=top, n_donors=donors, n_cells=cells)
    show(_value(found), lambda: _readable(found, top))


def _value(found: NextExperiments) -> dict[str, Any]:
    return {
        "by": found.by,
        "top": found.top,
        "n_donors": found.n_donors,
        "n_cells": found.n_cells,
        "assumed": list(found.assumed),
        "table": found.table.to_dict("records"),
    }


def _readable(found: NextExperiments, n: int) -> str:
    rows = [{heading: row[name] for name, heading in _SHOWN.items()} for row in found.table.head(n).to_dict("records")]
    for row in rows:
        for heading in ("chance of a change", "interval narrower by"):
            row[heading] = f"{100 * row[heading]:.0f} %"
    return "\n".join([format_rows(rows), "", *map(wrap, (*found.words[:1], _LEGEND, *found.assumed))])
