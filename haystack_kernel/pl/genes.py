"""Volcano plot: effect size of every tested gene against how sure its direction is.

In: a run, an AnnData or a DE table. Out: Axes with alternative text as their label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel import get, keys
from haystack_kernel.pl.style import BLUE, GREY, SMALL, VERMILION, cut, finish, new_axes, say_nothing_to_draw

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_MANY = 500  # marks of one kind; more are drawn as points of an image, which is smaller
_FLOOR = 1e-300  # smaller p values are drawn here, because their logarithm would be infinite
_GAP = 0.052  # distance between two names, as a fraction of the height of the axes
_WIDTH = 14  # maximum number of characters of a name
_ROOM = 0.24  # room for the names beside the marks, as a fraction of the width of the data


def volcano(
    de: Any,  # noqa: ANN401 - a Run, an AnnData or a table
    *,
    n_labels: int = 16,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Draw effect size against local false sign rate, one mark per tested gene, with the names of the largest effects.

    Parameters
    ----------
    de
        A Run, an AnnData with differential expression, or a table with ``gene``, ``log2fc`` (predicted over control),
        ``delta``, ``padj``, ``is_de`` and ``lfsr``; genes with NaN ``lfsr`` are not drawn. Without ``lfsr``, as in runs
        of earlier versions and of AnnData that scanpy tested, or where nothing is known of it, the height is the
        adjusted p. Values below 1e-300 are drawn at 1e-300.
    n_labels
        Maximum number of genes to name: called genes with the largest ``delta``, half of them falling where there are
        enough.
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
    >>> haystack.pl.volcano(run)  # doctest: +SKIP
    """
    table = get.de(de)
    ax = new_axes(width=6.6, height=4.4) if ax is None else ax
    column, height_label, _ = get.doubt(table)
    tested = table[table[column].notna()]
    effect = tested[keys.LOG2FC].to_numpy(float)
    height = -np.log10(tested[column].clip(lower=_FLOOR).to_numpy(float))
    called = tested[keys.IS_DE].to_numpy(bool)
    rises, falls = called & (effect > 0), called & (effect < 0)
    for mask, colour, marker, label in (
        (~called, GREY, "o", "not called"),
        (rises, VERMILION, "^", "rises"),
        (falls, BLUE, "v", "falls"),
    ):
        text = f"{label} ({int(mask.sum()):,})"
        is_many = int(mask.sum()) > _MANY
        ax.scatter(
            effect[mask], height[mask], s=16, c=colour, marker=marker, label=text, lw=0, alpha=0.8, rasterized=is_many
        )
    up, down = _named(tested, rises=rises, falls=falls, n=n_labels)
    if len(tested):
        _frame(ax, effect, height, sides=(bool(len(down)), bool(len(up))))
        for rows, side in ((up, 1), (down, -1)):
            _write(ax, tested[keys.GENE].to_numpy()[rows], at=(effect[rows], height[rows]), side=side)
        ax.legend(
            frameon=False, fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, handletextpad=0.2
        )
    else:
        say_nothing_to_draw(ax, "no gene was tested")
    ax.axvline(0, color=GREY, lw=0.6)
    ax.set_xlabel("log2 fold change, predicted over control", fontsize=SMALL + 1)
    ax.set_ylabel(height_label, fontsize=SMALL + 1)
    ax.tick_params(labelsize=SMALL)
    named = [f"{word} {', '.join(tested[keys.GENE].iloc[rows])}" for word, rows in (("up", up), ("down", down))]
    largest = "; ".join(text for text, rows in zip(named, (up, down), strict=True) if len(rows)) or "none"
    alt = (
        f"Volcano plot of {len(tested):,} tested genes: {int(rises.sum()):,} rise and {int(falls.sum()):,} fall. "
        f"Largest effects: {largest}."
    )
    return finish(ax, alt=alt, show=show)


def _named(
    tested: pd.DataFrame, *, rises: NDArray[np.bool_], falls: NDArray[np.bool_], n: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of the genes to name, rising and falling, largest ``delta`` first."""
    size = np.abs(tested[keys.DELTA].to_numpy(float))
    order = np.argsort(-size, kind="stable")
    up, down = order[rises[order]], order[falls[order]]
    n_down = min(len(down), max(n // 2, n - len(up)))
    return up[: n - n_down], down[:n_down]


def _frame(ax: Axes, effect: NDArray[np.float64], height: NDArray[np.float64], *, sides: tuple[bool, bool]) -> None:
    """Set limits that leave room for names on the sides where genes are named."""
    low, high = min(effect.min(), -1.0), max(effect.max(), 1.0)
    room = _ROOM * (high - low)
    ax.set_xlim(low - (room if sides[0] else 0.05 * room), high + (room if sides[1] else 0.05 * room))
    top = max(float(height.max()), 2.0)
    ax.set_ylim(-0.03 * top, 1.06 * top)


def _write(
    ax: Axes, names: NDArray[np.object_], *, at: tuple[NDArray[np.float64], NDArray[np.float64]], side: int
) -> None:
    """Write names in a column at the edge, in the order of their marks, each with a line to its mark; none overlap."""
    low, high = ax.get_ylim()
    order = np.argsort(-at[1], kind="stable")
    places = _spread([(at[1][row] - low) / (high - low) for row in order])
    edge = 0.87 if side > 0 else 0.13
    # beginning just beside the name: cutting each line where it meets the name took most of the drawing
    beside = {"relpos": (-0.04 if side > 0 else 1.04, 0.5), "patchA": None, "shrinkA": 0, "shrinkB": 1}
    line = {"arrowstyle": "-", "color": GREY, "lw": 0.5, **beside}
    for row, place in zip(order, places, strict=True):
        ax.annotate(
            cut(str(names[row]), width=_WIDTH),
            (at[0][row], at[1][row]),
            xytext=(edge, place),
            textcoords="axes fraction",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=SMALL,
            parse_math=False,
            arrowprops=line,
        )


def _spread(wanted: list[float]) -> list[float]:
    """Heights in [0, 1] close to the ``wanted`` ones (descending), at least a gap apart.

    Names are pushed down from the top first, then up from the bottom where they would leave the axes.
    """
    places: list[float] = []
    for height in wanted:
        highest = places[-1] - _GAP if places else 0.98
        places.append(min(height, highest))
    floor = 0.02
    for index in range(len(places) - 1, -1, -1):
        places[index] = max(places[index], floor)
        floor = places[index] + _GAP
    return places
