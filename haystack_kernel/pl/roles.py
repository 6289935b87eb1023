"""Diagram of the cells used, by role: prompt, control, query, predicted.

In: a run, its record or an AnnData of its predictions. Out: Axes with alternative text as their label.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel import get, keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.pl.style import INK, ROLE_COLOURS, SMALL, finish, fold, fold_list, new_axes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes

    from haystack_kernel.schema import Candidate, Round, RunRecord

_QUERY = re.compile(r"^[\d,]+ (.+?) of \d+ donors? from .*", re.DOTALL)  # rounds describes the query cells this way
_COMPARED = {
    "synthetic_control": "Compared with: a second prediction\nthat takes the control cells as prompt.",
    "query_as_control": "Compared with: the query cells\nas they were measured.",
}


@dataclass(frozen=True)
class _Box:
    """Lower left corner and width as fractions of the axes, and characters per line."""

    x: float
    y: float
    width: float
    n_letters: int

    @property
    def middle(self) -> float:
        return self.y + _HEIGHT / 2


_HEIGHT = 0.45
_BOXES = {
    keys.PROMPT: _Box(0.0, 0.54, 0.35, 38),
    keys.CONTROL: _Box(0.0, 0.01, 0.35, 38),
    keys.QUERY: _Box(0.42, 0.36, 0.25, 26),
    keys.PREDICTED: _Box(0.75, 0.36, 0.25, 26),
}


def roles(run: Any, *, ax: Axes | None = None, show: bool = False) -> Axes:  # noqa: ANN401 - a Run, a record, an AnnData
    """Draw the cells used in the best round, by role, with their numbers.

    Parameters
    ----------
    run
        A Run or its record with at least one round, or the AnnData of its predictions. The best round is drawn, or the
        newest one before any is scored.
    ax
        Axes to draw on; None makes a new figure.
    show
        Whether to show the figure immediately.

    Returns
    -------
    Axes
        The axes drawn on; their label is the alternative text.

    Raises
    ------
    InvalidInputError
        The run has no round yet.

    Examples
    --------
    >>> haystack.pl.roles(run)  # doctest: +SKIP
    """
    record = get.record_of(run, what="the cells used, by role")
    if not record.rounds:
        msg = f"run {record.run_id} has no round yet ({record.status}), so no cells to draw; call run.work() first"
        raise InvalidInputError(msg, run_id=record.run_id)
    chosen = record.best or record.rounds[-1]
    ax = new_axes(width=8.0, height=3.5) if ax is None else ax
    contents = _box_texts(record, chosen)
    for role, box in _BOXES.items():
        _draw(ax, box, role=role, content=contents[role])
    prompt, control, query, predicted = (_BOXES[role] for role in _BOXES)
    _arrow(ax, (prompt.width, prompt.middle), (query.x, query.middle + 0.08))
    if chosen.n_control:
        _arrow(ax, (control.width, control.middle), (query.x, query.middle - 0.08))
    _arrow(ax, (query.x + query.width, query.middle), (predicted.x, predicted.middle))
    between = (query.x + query.width + predicted.x) / 2
    ax.text(between, query.middle + 0.04, f"engine\n{record.config.engine}", ha="center", fontsize=SMALL)
    ax.text((query.x + 1) / 2, 0.14, _COMPARED[chosen.control_strategy], ha="center", va="center", fontsize=SMALL)
    ax.set(xlim=(-0.01, 1.01), ylim=(0, 1))
    ax.axis("off")
    said = " ".join(f"{role.capitalize()}: {', '.join(content.words)}." for role, content in contents.items())
    compared = " ".join(_COMPARED[chosen.control_strategy].split())
    return finish(ax, alt=f"Roles of the cells. {said} {compared}", show=show)


@dataclass(frozen=True)
class _BoxText:
    """Text of one box: names of cell types, then lines about them."""

    names: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return (*(("; ".join(self.names),) if self.names else ()), *self.lines)


def _box_texts(record: RunRecord, chosen: Round) -> dict[str, _BoxText]:
    names = _unique(_cell_types(item) for item in chosen.candidates)
    treatments = _unique(item.prompt.perturbation or "" for item in chosen.candidates)
    datasets = ", ".join(_unique(item.prompt.dataset for item in chosen.candidates))
    donors = "of the same donors" if all(item.donor_matched for item in chosen.candidates) else "donors not matched"
    treated = f"treated with {', '.join(treatments)}" if treatments else "as they are"
    control: tuple[str, ...] = ("none: no matched control",)
    if chosen.n_control:
        control = ("the same cell types, unperturbed", f"{chosen.n_control:,} cells {donors}")
    query = (_query_cells(record, chosen),)
    as_if = f"as if {treated}" if treatments else "as the prompt suggests"
    return {
        keys.PROMPT: _BoxText(names, (treated, f"{chosen.n_prompt:,} cells of {datasets}")),
        keys.CONTROL: _BoxText((), control),
        keys.QUERY: _BoxText(query, ("to be transformed", f"{chosen.n_query:,} cells")),
        keys.PREDICTED: _BoxText(query, (as_if, f"{chosen.n_query:,} generated cells")),
    }


def _cell_types(item: Candidate) -> str:
    prompt = item.prompt
    return prompt.label or ", ".join(prompt.cell_type_names or prompt.cell_type_ids) or "any cell type"


def _query_cells(record: RunRecord, chosen: Round) -> str:
    if record.query_set is not None and record.query_set.label:
        return record.query_set.label
    return _QUERY.sub(r"\1", chosen.query_cells) or "query cells"


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))


def _draw(ax: Axes, box: _Box, *, role: str, content: _BoxText) -> None:
    from matplotlib.patches import FancyBboxPatch

    edge = ROLE_COLOURS[role]
    shape = "round,pad=0,rounding_size=0.02"
    ax.add_patch(FancyBboxPatch((box.x, box.y), box.width, _HEIGHT, boxstyle=shape, fc="none", ec=edge, lw=2))
    middle = box.x + box.width / 2
    top = box.y + _HEIGHT - 0.035
    ax.text(middle, top, role.upper(), ha="center", va="top", fontsize=SMALL + 1, weight="bold")
    names = [fold_list(content.names, width=box.n_letters, lines=3)] if content.names else []
    lines = [fold(line, width=box.n_letters, lines=2) for line in content.lines]
    text = "\n".join([*names, *lines])
    ax.text(middle, box.middle - 0.035, text, ha="center", va="center", fontsize=SMALL + 0.7, parse_math=False)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.2})
