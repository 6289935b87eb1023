"""The matrix of a campaign, treatments by cell types: a heat map, and dots whose size says how sure a row is.

In: the ranked table of a campaign. Out: Axes with alternative text as their label. Many rows stand in several blocks
beside each other, so that 147 of them fit on a page in letters that can be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.pl.style import GREY, INK, SMALL, cut, finish, in_ink, new_axes, say_nothing_to_draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

VALUES = {  # column -> what the colour says
    "size": "size of the expected response (root mean square)",
    "toward": "movement toward the state",
    "expected_r": "expected accuracy (correlation with the truth)",
    "composite": "score, 1 to 10",
    "n_called": "genes called",
}
_NEEDED = ("number", "perturbation", "cell_type", "donor", "status", "bin", "q")
_ROWS = 50  # of a block
_N_SHOWN = 300
_NAME, _TYPE = 26, 24  # maximum number of characters of a row's and a column's name
_LETTER = 0.062  # inches; the width of a letter of the smallest size
_ROW, _COLUMN, _GAP = 0.165, 0.3, 0.18  # inches
_NARROWEST, _WIDEST = 4.2, 10.5  # inches
_DARK, _LIGHT = "#0a0a0a", "#fcfcfc"  # marks on coloured ground, in either theme
_MOST_SURE = 4.0  # -log10 q of the largest dot
_STEPS = (1.0, 0.1, 0.01, 0.0001)  # q of the dots that are explained


@dataclass(frozen=True, eq=False)
class _Matrix:
    """Values and marks by row and column, and where each cell lies on the axes."""

    rows: list[str]
    columns: list[str]
    values: Floats
    q: Floats
    marks: NDArray[np.str_]  # bin, or "waiting", "absent" (not predicted), "" (not asked)
    n_all: int  # rows before the first so many were taken

    @property
    def n_blocks(self) -> int:
        """Blocks that the rows are dealt into, as many as fit."""
        most = max(1, int((_WIDEST + _GAP) / (self.block_width + _GAP)))
        return min(most, math.ceil(len(self.rows) / _ROWS)) or 1

    @property
    def n_high(self) -> int:
        """Rows of a block."""
        return math.ceil(len(self.rows) / self.n_blocks)

    @property
    def name_width(self) -> float:
        """Inches that the names of the rows take."""
        return max((len(cut(name, width=_NAME)) for name in self.rows), default=0) * _LETTER + 0.08

    @property
    def block_width(self) -> float:
        """Inches of one block with its names."""
        return self.name_width + len(self.columns) * _COLUMN

    @property
    def width(self) -> float:
        """Inches of all blocks."""
        return self.n_blocks * (self.block_width + _GAP) - _GAP

    def places(self) -> tuple[Floats, Floats]:
        """Inches from the left of each cell's column, rows x columns, and from the top of each row."""
        block, place = np.divmod(np.arange(len(self.rows)), self.n_high)
        left = block * (self.block_width + _GAP) + self.name_width
        x = left[:, None] + (np.arange(len(self.columns)) + 0.5) * _COLUMN
        return x, np.broadcast_to(((place + 0.5) * _ROW)[:, None], x.shape)


def heat_map(
    table: Any,  # noqa: ANN401 - a Screen or its ranked table
    *,
    value: str = "size",
    n_top: int = _N_SHOWN,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Draw treatments by cell types as coloured fields, each with a mark for its bin.

    Parameters
    ----------
    table
        A screen, or its ranked table: ``number``, ``perturbation``, ``cell_type``, ``donor`` (a column each where it is
        named), ``status``, ``bin``, ``q`` and the value. Treatments stand in the order of their first row, cell types
        in that of their first number.
    value
        Column that the colour shows: ``size``, ``toward``, ``expected_r``, ``composite`` or ``n_called``. NaN has no
        colour.
    n_top
        Maximum number of treatments; the title says how many there are.
    ax
        Axes to draw on; None makes a new figure, as large as the matrix needs.
    show
        Whether to show the figure immediately.

    Returns
    -------
    Axes
        The axes drawn on; their label is the alternative text.

    Raises
    ------
    MissingKeyError
        A column is missing.
    InvalidInputError
        The value is none of the columns that can be shown, or a treatment stands twice in the same cells.

    Examples
    --------
    >>> haystack.pl.heat_map(screen)  # doctest: +SKIP
    """
    table = table.ranked() if hasattr(table, "ranked") else table
    matrix = _matrix(table, value=value, n_top=n_top)
    ax = _axes(matrix) if ax is None else ax
    if not matrix.rows:
        say_nothing_to_draw(ax, "no question was asked")
        return finish(ax, alt="A matrix of treatments by cell types without a question.", show=show)
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    x, y = matrix.places()
    colours, scale = _colours(matrix, value=value)
    corner = -np.array([_COLUMN, _ROW]) / 2
    known = ~np.isnan(matrix.values)
    fields = [Rectangle((left, top), _COLUMN, _ROW) for left, top in np.c_[x[known] + corner[0], y[known] + corner[1]]]
    drawn = PatchCollection(fields, cmap=colours, norm=scale, edgecolor="none")
    drawn.set_array(matrix.values[known])
    ax.add_collection(drawn)
    on = _contrast(matrix.values, colours=colours, scale=scale)
    for name, filled in (("grounded", True), ("open", False)):
        at = matrix.marks == name
        ax.scatter(x[at], y[at], facecolors=on[at] if filled else "none", edgecolors=on[at], s=13, lw=0.9, marker="o")
    _cross_out(ax, matrix)
    _write_names(ax, matrix)
    _explain_marks(ax)
    _explain_colours(ax, drawn, value=value)
    return finish(ax, alt=_alt("Heat map", matrix, table=table, value=value), show=show)


def dot_plot(
    table: Any,  # noqa: ANN401 - a Screen or its ranked table
    *,
    value: str = "size",
    n_top: int = _N_SHOWN,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Draw treatments by cell types as dots: the colour is the value, the size says how small ``q`` is.

    Parameters
    ----------
    table, value, n_top, ax, show
        As of :func:`heat_map`. A question that was not tested has a small square; those in the bin ``grounded`` have a
        rim.

    Returns
    -------
    Axes
        The axes drawn on; their label is the alternative text.

    Raises
    ------
    MissingKeyError, InvalidInputError
        As of :func:`heat_map`.

    Examples
    --------
    >>> haystack.pl.dot_plot(screen, value="expected_r")  # doctest: +SKIP
    """
    table = table.ranked() if hasattr(table, "ranked") else table
    matrix = _matrix(table, value=value, n_top=n_top)
    ax = _axes(matrix) if ax is None else ax
    if not matrix.rows:
        say_nothing_to_draw(ax, "no question was asked")
        return finish(ax, alt="A matrix of treatments by cell types without a question.", show=show)
    x, y = matrix.places()
    colours, scale = _colours(matrix, value=value)
    known, tested = ~np.isnan(matrix.values), ~np.isnan(matrix.q)
    rim = np.where(matrix.marks == "grounded", INK, GREY)
    width = np.where(matrix.marks == "grounded", 1.4, 0.4)
    drawn = None
    for marker, at in (("o", known & tested), ("s", known & ~tested)):
        area = _area(matrix.q[at]) if marker == "o" else np.full(int(at.sum()), 12.0)
        points = ax.scatter(x[at], y[at], s=area, c=matrix.values[at], marker=marker, cmap=colours, norm=scale)
        points.set(edgecolors=rim[at], linewidths=width[at])
        drawn = points if drawn is None or at.any() else drawn
    _cross_out(ax, matrix)
    _write_names(ax, matrix)
    _explain_dots(ax)
    _explain_colours(ax, drawn, value=value)
    return finish(ax, alt=_alt("Dot plot", matrix, table=table, value=value), show=show)


# --- the matrix -----------------------------------------------------------------------------------------------------


def _matrix(table: pd.DataFrame, *, value: str, n_top: int) -> _Matrix:
    _check(table, value=value)
    treatments = [str(name) or "?" for name in table["perturbation"]]  # a row that was not understood may have none
    asked = zip(table["cell_type"].astype(str), table["donor"].fillna("").astype(str), strict=True)
    cells = [f"{cell_type or '?'}, {donor}" if donor else cell_type or "?" for cell_type, donor in asked]
    every = list(dict.fromkeys(treatments))
    columns = list(dict.fromkeys(name for _, name in sorted(zip(table["number"], cells, strict=True))))
    shape = len(every), len(columns)
    at = np.array([every.index(one) for one in treatments], int), np.array([columns.index(one) for one in cells], int)
    status, is_predicted = table["status"].to_numpy(str), (table["status"] == "predicted").to_numpy(bool)
    n_predicted = np.zeros(shape, int)
    np.add.at(n_predicted, (at[0][is_predicted], at[1][is_predicted]), 1)
    if (n_predicted > 1).any():
        row, column = np.argwhere(n_predicted > 1)[0]
        msg = f"{every[row]} in {columns[column]} stands twice in the table; draw each campaign or engine on its own"
        raise InvalidInputError(msg, perturbation=every[row], cells=columns[column])
    values, q, marks = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, "", dtype="<U12")
    kinds = np.where(is_predicted, table["bin"], np.where(status == "waiting", "waiting", "absent"))
    for some in (~is_predicted, is_predicted):  # where a row is refused and another predicted, the latter counts
        place = at[0][some], at[1][some]
        values[place], q[place] = table[value].to_numpy(float)[some], table["q"].to_numpy(float)[some]
        marks[place] = kinds[some]
    return _Matrix(every[:n_top], columns, values[:n_top], q[:n_top], marks[:n_top], n_all=len(every))


def _check(table: pd.DataFrame, *, value: str) -> None:
    if value not in VALUES:
        msg = f"value is {value!r}; possible: {', '.join(VALUES)}"
        raise InvalidInputError(msg, given=value)
    if absent := [name for name in (*_NEEDED, value) if name not in table.columns]:
        held = ", ".join(map(str, table.columns))
        msg = f"the table has no column {absent[0]!r}; rank it first (screen.ranked()). It has {held}"
        raise MissingKeyError(msg, absent=absent)


def _area(q: Floats) -> Floats:
    """Area of a dot in points squared, by -log10 q."""
    sure = np.clip(-np.log10(np.maximum(q, 10.0**-_MOST_SURE)), 0.0, _MOST_SURE)
    return np.asarray(10 + 22 * sure)


def _colours(matrix: _Matrix, *, value: str) -> tuple[Any, Normalize]:
    """Colours of the values: signed ones from blue over white to red, others from dark to light."""
    import matplotlib as mpl
    from matplotlib.colors import Normalize

    known = matrix.values[~np.isnan(matrix.values)]
    if value == "expected_r":
        return mpl.colormaps["RdBu_r"], Normalize(-1.0, 1.0)
    if value == "toward":
        most = float(np.abs(known).max()) if known.size else 1.0
        return mpl.colormaps["RdBu_r"], Normalize(-(most or 1.0), most or 1.0)
    low, high = (1.0, 10.0) if value == "composite" else (0.0, float(known.max()) if known.size else 1.0)
    return mpl.colormaps["viridis"], Normalize(low, high if high > low else low + 1.0)


def _contrast(values: Floats, *, colours: Any, scale: Normalize) -> NDArray[np.str_]:  # noqa: ANN401 - a colour map
    """Dark marks on light fields, light ones on dark fields; fields without colour have the grey of both themes."""
    filled = colours(scale(np.nan_to_num(values)))[..., :3]
    light = filled @ np.array([0.2126, 0.7152, 0.0722]) > 0.45
    return np.where(np.isnan(values), GREY, np.where(light, _DARK, _LIGHT))


# --- drawing --------------------------------------------------------------------------------------------------------


def _axes(matrix: _Matrix) -> Axes:
    heads = max((len(cut(name, width=_TYPE)) for name in matrix.columns), default=0) * _LETTER
    height = matrix.n_high * _ROW + heads + 1.25
    return new_axes(width=max(matrix.width, _NARROWEST) + 0.2, height=height)


def _write_names(ax: Axes, matrix: _Matrix) -> None:
    """Names of treatments left of their rows, of cell types above each block; limits and no frame."""
    x, y = matrix.places()
    for row, name in enumerate(matrix.rows):
        left = x[row, 0] - _COLUMN / 2 - 0.05
        ax.text(left, y[row, 0], cut(name, width=_NAME), fontsize=SMALL, ha="right", va="center", parse_math=False)
    for block in range(math.ceil(len(matrix.rows) / matrix.n_high)):
        first = x[block * matrix.n_high]
        for place, name in zip(first, matrix.columns, strict=True):
            head = ax.text(place, -0.05, cut(name, width=_TYPE), fontsize=SMALL, ha="center", va="bottom")
            head.set(rotation=90, parse_math=False)
    spare = max(_NARROWEST - matrix.width, 0.0) / 2  # a narrow matrix stands in the middle, as wide as any other
    ax.set_xlim(-spare, matrix.width + spare)
    ax.set_ylim(matrix.n_high * _ROW, 0)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if len(matrix.rows) < matrix.n_all:
        ax.set_xlabel(f"the first {len(matrix.rows)} of {matrix.n_all:,} treatments", fontsize=SMALL)


def _cross_out(ax: Axes, matrix: _Matrix) -> None:
    x, y = matrix.places()
    for name, marker in (("absent", "x"), ("waiting", "_")):
        at = matrix.marks == name
        ax.scatter(x[at], y[at], marker=marker, c=GREY, s=14, lw=0.9)


def _explain_marks(ax: Axes) -> None:
    _legend(
        ax,
        [
            _handle("grounded", marker="o", color=INK),
            _handle("open", marker="o", mfc="none", mec=INK),
            _handle("unsupported (no mark)", marker="s", mfc="none", mec=GREY, ms=6),
            _handle("not predicted", marker="x", color=GREY),
        ],
    )


def _explain_dots(ax: Axes) -> None:
    dots = [_handle(f"q = {q:g}", marker="o", color=GREY, ms=math.sqrt(float(_area(np.array([q]))[0]))) for q in _STEPS]
    _legend(
        ax,
        [
            *dots,
            _handle("not tested", marker="s", color=GREY, ms=math.sqrt(12)),
            _handle("grounded", marker="o", mfc="none", mec=INK, mew=1.4, ms=6),
            _handle("not predicted", marker="x", color=GREY),
        ],
    )


def _handle(label: str, **look: Any) -> Line2D:  # noqa: ANN401 - properties of a mark
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **{"ls": "", "ms": 4, **look})


def _legend(ax: Axes, handles: Sequence[Line2D]) -> None:
    figure = cast("Figure", ax.get_figure(root=True))
    n = 4 if figure.get_figwidth() < 6.5 else len(handles)
    ax.legend(
        handles=handles,
        frameon=False,
        fontsize=SMALL,
        ncols=n,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2 / figure.get_figheight()),
        handletextpad=0.1,
        columnspacing=1.0,
    )


def _explain_colours(ax: Axes, drawn: Any, *, value: str) -> None:  # noqa: ANN401 - what has colours
    figure = cast("Figure", ax.get_figure(root=True))
    width, height = figure.get_size_inches()
    share = min(1.0, 3.2 / width)
    bar = figure.colorbar(drawn, ax=ax, location="bottom", shrink=share, aspect=share * width / 0.09, pad=0.3 / height)
    bar.set_label(VALUES[value], fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)
    in_ink(bar.ax)


def _alt(kind: str, matrix: _Matrix, *, table: pd.DataFrame, value: str) -> str:
    counts = {name: int((matrix.marks == name).sum()) for name in ("grounded", "open", "unsupported", "absent")}
    said = ", ".join(f"{n} {'not predicted' if name == 'absent' else name}" for name, n in counts.items() if n)
    order = np.argsort(-np.nan_to_num(np.abs(matrix.values), nan=-1).ravel(), kind="stable")[:3]
    largest = [
        f"{matrix.rows[row]} in {matrix.columns[column]} {matrix.values[row, column]:.2g}"
        for row, column in zip(*np.unravel_index(order, matrix.values.shape), strict=True)
        if not math.isnan(matrix.values[row, column])
    ]
    grounded = [
        f"{row['perturbation']} in {row['cell_type']}" for row in table[table["bin"] == "grounded"].to_dict("records")
    ]
    first = f" First of the bin grounded: {'; '.join(grounded[:5])}." if grounded else ""
    some = f"the first {len(matrix.rows)} of {matrix.n_all}" if len(matrix.rows) < matrix.n_all else str(matrix.n_all)
    n, n_columns = matrix.n_all, len(matrix.columns)
    what = f"{some} treatment{'s' * (n != 1)} by {n_columns} cell type{'s' * (n_columns != 1)}"
    return (
        f"{kind} of {what}: {said}. Colour: {VALUES[value]}. Largest: {'; '.join(largest) or 'none is known'}.{first}"
    )
