"""Map of the cells: where predicted cells lie among prompt, control and query cells.

In: a run, an AnnData or a table of cells. Out: Axes with alternative text as their label.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from haystack_kernel import get, keys
from haystack_kernel.pl.style import (
    INK,
    PAPER,
    ROLE_COLOURS,
    ROLE_MARKERS,
    SMALL,
    finish,
    new_axes,
    say_nothing_to_draw,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SIZES = {keys.PROMPT: 13, keys.CONTROL: 11, keys.QUERY: 22, keys.PREDICTED: 20}
_NAMED = {keys.QUERY: (-16, "top"), keys.PREDICTED: (16, "bottom")}  # offset in points, so that both stay readable


def umap(cells: Any, *, ax: Axes | None = None, show: bool = False) -> Axes:  # noqa: ANN401 - a Run, an AnnData or a table
    """Draw prompt, control, query and predicted cells on one two-dimensional map.

    Parameters
    ----------
    cells
        A Run, an AnnData, or a table with one row per cell: ``role`` and, as the last two columns, the coordinates
        (without unit). Distances on such a map are not evidence.
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
    >>> haystack.pl.umap(run)  # doctest: +SKIP
    """
    embedding = get.cells(cells)
    ax = new_axes(width=6.6, height=4.2) if ax is None else ax
    first, second = (str(name) for name in embedding.columns[-2:])
    counts = {}
    for role in (keys.CONTROL, keys.PROMPT, keys.QUERY, keys.PREDICTED):
        shown = embedding[embedding[keys.ROLE] == role]
        if len(shown):
            counts[role] = len(shown)
            _scatter(ax, shown[[first, second]], role=role)
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(_axis_name(first), fontsize=SMALL + 1)
    ax.set_ylabel(_axis_name(second), fontsize=SMALL + 1)
    if counts:
        ax.legend(frameon=False, fontsize=SMALL, markerscale=1.4, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    else:
        say_nothing_to_draw(ax, "no cells to draw")
    listed = ", ".join(f"{n} {role}" for role, n in counts.items()) or "no"
    axes = f"{_axis_name(first)}, {_axis_name(second)}"
    return finish(ax, alt=f"Map of {listed} cells in two dimensions ({axes}).", show=show)


def _scatter(ax: Axes, cells: pd.DataFrame, *, role: str) -> None:
    from matplotlib.patheffects import withStroke

    x, y = cells.to_numpy(float).T
    named = role in _NAMED
    ax.scatter(
        x,
        y,
        s=_SIZES[role],
        c=ROLE_COLOURS[role],
        marker=ROLE_MARKERS[role],
        label=f"{role} ({len(cells)})",
        edgecolors=INK if named else "none",
        linewidths=0.4 if named else 0,
        alpha=0.9 if named else 0.55,
        rasterized=True,
    )
    if named:
        offset, side = _NAMED[role]
        ax.annotate(
            role,
            (float(cells.iloc[:, 0].median()), float(cells.iloc[:, 1].median())),
            xytext=(0, offset),
            textcoords="offset points",
            ha="center",
            va=side,
            fontsize=SMALL + 1,
            weight="bold",
            path_effects=[withStroke(linewidth=3, foreground=PAPER)],
        )


def _axis_name(column: str) -> str:
    """``umap1`` -> ``UMAP 1``, ``pc1`` -> ``PC 1``; other columns as they are."""
    found = re.fullmatch(r"(umap|pc)(\d)", column)
    return f"{found[1].upper()} {found[2]}" if found else column
