"""Figures of cells: who plays which role, and where the predicted cells lie.

In: a run record, the embedding table. Out: Axes with alternative text as their label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.pl.style import ROLE_COLOURS, ROLE_MARKERS, finish, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from haystack_kernel.schema import Round, RunRecord

_BOXES = {keys.PROMPT: (0.0, 0.56), keys.CONTROL: (0.0, 0.06), keys.QUERY: (0.37, 0.31), keys.PREDICTED: (0.74, 0.31)}
_SIZE = (0.26, 0.38)


def roles(record: RunRecord, *, ax: Axes | None = None, show: bool = False) -> Axes:
    """Who is prompt, control, query and predicted in the best round, with numbers of cells.

    Parameters
    ----------
    record
        A run with at least one round; the best one is drawn, or the newest before any was scored.
    """
    chosen = record.best or record.rounds[-1]
    ax = new_axes(width=7.6, height=3.0) if ax is None else ax
    texts = _role_texts(chosen)
    for role, (x, y) in _BOXES.items():
        _box(ax, role, at=(x, y), text=texts[role])
    arrow = {"arrowstyle": "-|>", "color": "black", "lw": 1.2}
    middle = _SIZE[1] / 2
    for start, end in (
        ((_SIZE[0], 0.56 + middle), (0.37, 0.31 + _SIZE[1] * 0.75)),
        ((_SIZE[0], 0.06 + middle), (0.37, 0.31 + _SIZE[1] * 0.25)),
        ((0.37 + _SIZE[0], 0.31 + middle), (0.74, 0.31 + middle)),
    ):
        ax.annotate("", xy=end, xytext=start, arrowprops=arrow)
    ax.text(0.685, 0.31 + middle + 0.05, record.config.engine, ha="center", fontsize=8)
    ax.set(xlim=(-0.01, 1.01), ylim=(0, 1))
    ax.axis("off")
    alt = "Roles of the cells. " + " ".join(f"{role.capitalize()}: {texts[role]}." for role in _BOXES)
    return finish(ax, alt=alt.replace("\n", ", "), show=show)


def umap(embedding: pd.DataFrame, *, ax: Axes | None = None, show: bool = False) -> Axes:
    """Prompt, control, query and predicted cells in one two-dimensional embedding.

    Parameters
    ----------
    embedding
        One row per cell: ``role`` and the two coordinate columns (the last two).
    """
    ax = new_axes(width=6.4, height=4.6) if ax is None else ax
    first, second = embedding.columns[-2:]
    counts = {}
    for role in (keys.QUERY, keys.CONTROL, keys.PROMPT, keys.PREDICTED):
        cells = embedding[embedding["role"] == role]
        if len(cells):
            counts[role] = len(cells)
            ax.scatter(
                cells[first],
                cells[second],
                s=13,
                c=ROLE_COLOURS[role],
                marker=ROLE_MARKERS[role],
                label=f"{role} ({len(cells)})",
                lw=0,
                alpha=0.7,
                rasterized=True,
            )
    ax.set(xlabel=first, ylabel=second, xticks=[], yticks=[])
    ax.legend(frameon=False, fontsize=8, markerscale=1.6, loc="best")
    listed = ", ".join(f"{n} {role}" for role, n in counts.items())
    return finish(ax, alt=f"Embedding of {listed} cells in two dimensions ({first}, {second}).", show=show)


def _role_texts(chosen: Round) -> dict[str, str]:
    treated = chosen.candidates[0].prompt
    names = sorted({name for item in chosen.candidates for name in item.prompt.cell_type_names})
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    condition = treated.perturbation or "as they are"
    control = (
        f"{shown}\nunperturbed, same dataset\n{chosen.n_control} cells" if chosen.n_control else "no matched\ncontrol"
    )
    query = chosen.query_cells.split(" cells of ")[0].split(" ", 1)[-1]
    return {
        keys.PROMPT: f"{shown}\n{condition}, {treated.dataset}\n{chosen.n_prompt} cells",
        keys.CONTROL: control,
        keys.QUERY: f"{query}\nto be transformed\n{chosen.n_query} cells",
        keys.PREDICTED: f"{query}\nas if {condition}\n{chosen.n_query} cells",
    }


def _box(ax: Axes, role: str, *, at: tuple[float, float], text: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = at
    edge = ROLE_COLOURS[role]
    ax.add_patch(FancyBboxPatch((x, y), *_SIZE, boxstyle="round,pad=0,rounding_size=0.02", fc="white", ec=edge, lw=2))
    middle = x + _SIZE[0] / 2
    ax.text(middle, y + _SIZE[1] - 0.03, role.upper(), ha="center", va="top", fontsize=8, weight="bold", color=edge)
    wrapped = "\n".join(_wrap(line) for line in text.split("\n"))
    ax.text(middle, y + _SIZE[1] / 2 - 0.04, wrapped, ha="center", va="center", fontsize=7.5)


def _wrap(line: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(line, 32))
