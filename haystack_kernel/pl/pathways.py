"""Bars of pathways: which ones move, in which direction, and which the question expects to move.

In: a run, an AnnData or a table of pathways. Out: Axes with alternative text as their label.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from haystack_kernel import get
from haystack_kernel.pl.style import GREY, INK, SMALL, YELLOW, finish, fold, new_axes, say_nothing_to_draw

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def pathway_bars(
    pathways: Any,  # noqa: ANN401 - a Run, an AnnData or a table
    *,
    n_top: int = 14,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Draw signed pathway statistics as bars, the expected ones hatched, each with its score.

    Parameters
    ----------
    pathways
        A Run, an AnnData of predictions, or a table with ``pathway``, ``statistic`` (mean of s_g z_g; positive =
        activated), ``score`` (1 = chance, to 10; NaN: not computed) and ``is_expected``. Rows with a NaN statistic are
        not drawn.
    n_top
        Maximum number of bars: expected pathways first, then those with the largest absolute statistic.
    ax
        Axes to draw on; None makes a new figure.
    show
        Whether to show the figure immediately.

    Returns
    -------
    Axes
        The axes drawn on; their label is the alternative text.

    Examples
    --------
    >>> haystack.pl.pathway_bars(run)  # doctest: +SKIP
    """
    table = get.pathways(pathways)
    table = table[table["statistic"].notna()]
    order = table["statistic"].abs().sort_values(ascending=False).index
    table = table.loc[order].sort_values("is_expected", ascending=False, kind="stable").head(n_top)
    table = table.sort_values("statistic")
    ax = new_axes(width=6.6, height=1.2 + 0.27 * max(len(table), 2)) if ax is None else ax
    expected = table["is_expected"].to_numpy(bool)
    statistics = table["statistic"].to_numpy(float)
    names = [str(name) for name in table["pathway"]]
    for wanted, colour, hatch, label in (
        (True, YELLOW, "///", "expected by the question"),
        (False, GREY, "", "not expected"),
    ):
        rows = [row for row, is_expected in enumerate(expected) if is_expected == wanted]
        if rows:
            ax.barh(rows, statistics[rows], height=0.72, color=colour, hatch=hatch, ec=INK, lw=0.5, label=label)
    _write_scores(ax, statistics.tolist(), scores=table["score"].tolist())
    ax.set_yticks(range(len(names)), [fold(name, width=36, lines=2) for name in names], fontsize=SMALL)
    for tick in ax.get_yticklabels():
        tick.set_parse_math(False)
    ax.axvline(0, color=INK, lw=0.8)
    ax.margins(x=0.2, y=0.02)
    ax.tick_params(axis="x", labelsize=SMALL)
    ax.set_xlabel("pathway statistic (mean signed z)", fontsize=SMALL + 1)
    if names:
        ax.legend(frameon=False, fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    else:
        say_nothing_to_draw(ax, "no pathway could be tested")
    return finish(ax, alt=_alt(table), show=show)


def _write_scores(ax: Axes, statistics: list[float], *, scores: list[float]) -> None:
    for row, (statistic, score) in enumerate(zip(statistics, scores, strict=True)):
        side = 1 if statistic >= 0 else -1
        ax.annotate(
            "not scored" if math.isnan(score) else f"score {score:.1f}",
            (statistic, row),
            xytext=(3 * side, 0),
            textcoords="offset points",
            va="center",
            ha="left" if side > 0 else "right",
            fontsize=SMALL,
        )


def _alt(table: pd.DataFrame) -> str:
    if table.empty:
        return "No pathway could be tested."
    highest, lowest = table.iloc[-1], table.iloc[0]
    expected = table[table["is_expected"].astype(bool)]
    named = ", ".join(f"{row.pathway} {row.statistic:+.2f}" for row in expected.iloc[::-1].itertuples()) or "none"
    return (
        f"Bars of {len(table)} signed pathway statistics; highest: {highest['pathway']} {highest['statistic']:+.2f}; "
        f"lowest: {lowest['pathway']} {lowest['statistic']:+.2f}; expected by the question: {named}."
    )
