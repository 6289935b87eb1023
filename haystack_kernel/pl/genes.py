"""Figures of genes and pathways: volcano, pathway bars.

In: the de and pathways tables of a run. Out: Axes with alternative text as their label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.pl.style import BLUE, GREY, VERMILION, YELLOW, finish, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FLOOR = 1e-300


def volcano(de: pd.DataFrame, *, n_labels: int = 12, ax: Axes | None = None, show: bool = False) -> Axes:
    """Effect against evidence, one mark per tested gene.

    Parameters
    ----------
    de
        Table with ``gene``, ``log2fc`` (predicted over control), ``padj`` and ``is_de``; genes with NaN ``padj`` were
        not tested and are not drawn.
    n_labels
        Genes named in the figure: those called, by effect.
    ax
        Axes to draw on; None makes a figure.
    show
        Whether to show the figure at once.
    """
    ax = new_axes(width=6.4, height=4.2) if ax is None else ax
    tested = de[de[keys.PADJ].notna()]
    height = -np.log10(tested[keys.PADJ].clip(lower=_FLOOR).to_numpy(float))
    effect = tested[keys.LOG2FC].to_numpy(float)
    called = tested[keys.IS_DE].to_numpy(bool)
    for mask, colour, marker, label in (
        (~called, GREY, "o", "not called"),
        (called & (effect > 0), VERMILION, "^", "rises"),
        (called & (effect < 0), BLUE, "v", "falls"),
    ):
        text = f"{label} ({int(mask.sum())})"
        ax.scatter(
            effect[mask], height[mask], s=14, c=colour, marker=marker, label=text, lw=0, alpha=0.8, rasterized=True
        )
    top = tested.assign(height=height)[called].reindex(
        tested.loc[called, keys.DELTA].abs().sort_values(ascending=False).index[:n_labels]
    )
    for _, row in top.iterrows():
        at = (row[keys.LOG2FC], row["height"])
        ax.annotate(row[keys.GENE], at, xytext=(3, 3), textcoords="offset points", fontsize=8)
    ax.axvline(0, color=GREY, lw=0.6)
    ax.set(xlabel="log2 fold change, predicted over control", ylabel="-log10 adjusted p")
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    alt = (
        f"Volcano plot of {len(tested)} tested genes: {int((called & (effect > 0)).sum())} rise and "
        f"{int((called & (effect < 0)).sum())} fall. Largest effects: {', '.join(top[keys.GENE]) or 'none'}."
    )
    return finish(ax, alt=alt, show=show)


def pathway_bars(pathways: pd.DataFrame, *, n_top: int = 14, ax: Axes | None = None, show: bool = False) -> Axes:
    """Signed pathway statistics, the expected ones marked.

    Parameters
    ----------
    pathways
        Table with ``pathway``, ``statistic`` (mean of s_g z_g; positive = activated), ``p_specificity``,
        ``is_expected``. Rows with NaN statistics could not be computed and are not drawn.
    n_top
        Bars at most: all expected ones, then those with the largest absolute statistic.
    """
    table = pathways[pathways["statistic"].notna()]
    order = table["statistic"].abs().sort_values(ascending=False).index
    table = table.loc[order].sort_values("is_expected", ascending=False, kind="stable").head(n_top)
    table = table.sort_values("statistic")
    ax = new_axes(width=6.4, height=1.1 + 0.27 * len(table)) if ax is None else ax
    expected = table["is_expected"].to_numpy(bool)
    bars = ax.barh(
        [str(name) for name in table["pathway"]],
        table["statistic"].to_numpy(float),
        color=np.where(expected, YELLOW, GREY),
        edgecolor="black",
        linewidth=0.4,
    )
    for bar, is_expected in zip(bars, expected, strict=True):
        bar.set_hatch("//" if is_expected else "")
    for bar, p in zip(bars, table["p_specificity"].to_numpy(float), strict=True):
        x = bar.get_width()
        side = 1 if x >= 0 else -1
        text = f"p {p:.2g}" if np.isfinite(p) else ""
        at = (x, bar.get_y() + bar.get_height() / 2)
        ha = "left" if side > 0 else "right"
        ax.annotate(text, at, xytext=(3 * side, 0), textcoords="offset points", va="center", ha=ha, fontsize=7)
    ax.axvline(0, color="black", lw=0.8)
    ax.margins(x=0.15)
    ax.set(xlabel="pathway statistic: mean signed z (hatched: expected by the question)")
    leading = table.iloc[-1]["pathway"] if len(table) else "none"
    named = ", ".join(table.loc[expected, "pathway"]) or "none"
    alt = f"Bars of {len(table)} signed pathway statistics; highest: {leading}; expected by the question: {named}."
    return finish(ax, alt=alt, show=show)
