"""Walks over the cell-type graph: who is above, below and beside a cell type.

In: CL ids and a ``Knowledge``. Out: sets of ids and distances in steps along is_a.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from haystack_kernel.errors import NotFoundError

if TYPE_CHECKING:
    from haystack_kernel.knowledge.tables import Knowledge

MAX_DISTANCE = 4


def ancestors(id: str, *, knowledge: Knowledge) -> frozenset[str]:
    """Every cell type above this one, itself excluded.

    Raises
    ------
    NotFoundError
        The id is not in the cell-type table.
    """
    _check_known(id, knowledge=knowledge)
    return frozenset(_steps_up(id, knowledge=knowledge)) - {id}


def descendants(id: str, *, knowledge: Knowledge) -> frozenset[str]:
    """Every cell type below this one, itself excluded.

    Raises
    ------
    NotFoundError
        The id is not in the cell-type table.
    """
    _check_known(id, knowledge=knowledge)
    return frozenset(term for term in knowledge.cell_types if id in _steps_up(term, knowledge=knowledge)) - {id}


def distance(a: str, b: str, *, knowledge: Knowledge) -> int | None:
    """Count the steps from one cell type up to the nearest shared one and down to the other.

    Parent and child are 1 apart, siblings 2. Paths go up first and down afterwards, never down and up again, so two
    cell types are not called near because one rare type has both as parents.

    Returns
    -------
    0 for the same id; None where the shortest path is longer than 4 steps or turns at the root, which relates
    everything to everything.

    Raises
    ------
    NotFoundError
        An id is not in the cell-type table.
    """
    for term in (a, b):
        _check_known(term, knowledge=knowledge)
    up_a, up_b = _steps_up(a, knowledge=knowledge), _steps_up(b, knowledge=knowledge)
    shared = [term for term in up_a.keys() & up_b.keys() if knowledge.cell_types[term].parents or term in (a, b)]
    steps = min((up_a[term] + up_b[term] for term in shared), default=MAX_DISTANCE + 1)
    return steps if steps <= MAX_DISTANCE else None


def neighbours(id: str, *, hops: int, knowledge: Knowledge) -> dict[str, int]:
    """Cell types within ``hops`` steps (at most 4), nearest first, itself excluded: id -> distance.

    Raises
    ------
    NotFoundError
        The id is not in the cell-type table.
    """
    found = {term: distance(id, term, knowledge=knowledge) for term in knowledge.cell_types if term != id}
    near = {term: steps for term, steps in found.items() if steps is not None and steps <= hops}
    return dict(sorted(near.items(), key=lambda pair: (pair[1], pair[0])))


@functools.lru_cache(maxsize=4096)
def _steps_up(term: str, *, knowledge: Knowledge) -> dict[str, int]:
    """Itself and everything above it -> steps of the shortest way up."""
    steps, frontier = {term: 0}, [term]
    while frontier:
        reached = [parent for child in frontier for parent in knowledge.cell_types[child].parents]
        level = max(steps.values()) + 1
        frontier = [parent for parent in dict.fromkeys(reached) if parent not in steps]
        steps.update(dict.fromkeys(frontier, level))
    return steps


def _check_known(term: str, *, knowledge: Knowledge) -> None:
    if term not in knowledge.cell_types:
        message = f"{term!r} is not a known cell type id. Give a CL id, or resolve the name first."
        raise NotFoundError(message, id=term)
