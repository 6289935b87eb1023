"""The card of a screen: what was asked, what was found at which false discovery rate, and the ranked table.

In: the ranked table of a screen and facts about it. Out: an HTML fragment with every text escaped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.report.cards import card
from haystack_kernel.report.html import Html, items, number, table
from haystack_kernel.report.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

N_SHOWN = 300
_N_REASONS = 8


def screen_card(
    ranked: pd.DataFrame, *, name: str, found: str, facts: Mapping[str, object], rules: Mapping[str, str]
) -> Html:
    """Return a screen at a glance, for notebooks.

    Parameters
    ----------
    ranked
        From :func:`haystack_kernel.campaign.rank.rank_questions`.
    name
        Id of the screen.
    found
        How many questions are found, and at which false discovery rate, in words.
    facts
        Names and values to show as they are: engines, folder, terms of the weights.
    rules
        Bin -> its rule.

    Returns
    -------
    A card with at most 300 rows, which sort and filter where scripts run.

    Examples
    --------
    >>> screen_card(ranked, name=screen.id, found=words_of(ranked), facts={}, rules=BIN_RULES)  # doctest: +SKIP
    """
    n_treatments, n_types = ranked["perturbation"].nunique(), ranked["cell_type"].nunique()
    title = (
        f"{counted(n_treatments, 'treatment')} in {counted(n_types, 'cell type')}: {counted(len(ranked), 'question')}"
    )
    status = ranked["status"].value_counts()
    bins = ranked["bin"].value_counts()
    shown: dict[str, object] = {
        "status": ", ".join(f"{n} {word}" for word, n in status.items()),
        "found": found,
        **{word: f"{int(bins.get(word, 0))}: {rule}" for word, rule in rules.items()},
        **facts,
        "screen": name,
    }
    return card(shown, title=title, after=_rows(ranked) + items(_reasons(ranked), kind="warning"))


def _rows(ranked: pd.DataFrame) -> str:
    has_donors = bool((ranked["donor"] != "").any())
    has_toward = "toward" in ranked
    columns = {
        "number": "no.",
        "perturbation": "treatment",
        "cell_type": "cell type",
        **({"donor": "donor"} if has_donors else {}),
        "bin": "bin",
        "q": "q",
        **({"toward": "toward the state"} if has_toward else {}),
        "n_called": "genes called",
        "size": "size",
        "composite": "score",
        "expected_r": "expected accuracy (80 %)",
        "why": "what is missing",
    }
    rows = [[_cell(row, column) for column in columns] for row in ranked.head(N_SHOWN).to_dict("records")]
    caption = f"{len(rows)} of {len(ranked)} questions" if len(rows) < len(ranked) else f"{len(rows)} questions"
    kind = "sortable" if len(rows) > 1 else ""
    caption += ", the surest first"
    return table(list(columns.values()), rows, caption=caption, kind=kind, amounts=("expected accuracy (80 %)",))


def _cell(row: Mapping[object, object], column: str) -> object:
    value = row[column]
    if column == "expected_r":
        low, high = (float(str(row[name])) for name in ("expected_low", "expected_high"))
        return "" if math.isnan(low) else f"{number(float(str(value)))} ({number(low)} to {number(high)})"
    if column == "n_called":
        called = float(str(value))
        return math.nan if math.isnan(called) else int(called)
    if column == "number":
        return int(str(value))
    return value if isinstance(value, float) else str(value)


def _reasons(ranked: pd.DataFrame) -> list[str]:
    """Why questions have no prediction, each reason once with what it refuses."""
    without = ranked[ranked["status"].isin(["refused", "failed"])]
    said = []
    for reason, rows in without.groupby("reason", sort=False):
        first = rows.iloc[0]
        which = f"{first['perturbation'] or '?'} in {first['cell_type'] or '?'}"
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        said.append(f"{first['status']}: {which}{more}: {reason}")
    if len(said) > _N_REASONS:
        said = [*said[:_N_REASONS], f"and {len(said) - _N_REASONS} reasons more, in the column reason of the table"]
    return said
