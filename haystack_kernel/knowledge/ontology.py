"""Walk over the graphs of cell types, tissues and diseases: terms above, below and beside a term.

In: ids of one ontology and a ``Knowledge``. Out: sets of ids and distances in steps along the links.

:func:`ancestors` and :func:`descendants` follow is_a alone unless told otherwise. :func:`distance` and
:func:`neighbours` follow is_a, part_of and develops_from, as far as the tables know them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

from haystack_kernel.errors import NotFoundError
from haystack_kernel.knowledge.packed import TermTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.knowledge.terms import CellType, Disease, Knowledge, Tissue

    Table = Mapping[str, CellType] | Mapping[str, Tissue] | Mapping[str, Disease]

Relation = Literal["is_a", "part_of", "develops_from"]

MAX_DISTANCE = 4
IS_A: tuple[Relation, ...] = ("is_a",)
ALL_RELATIONS: tuple[Relation, ...] = ("is_a", "part_of", "develops_from")


def ancestors(id: str, *, knowledge: Knowledge, relations: tuple[Relation, ...] = IS_A) -> frozenset[str]:
    """Return every term above this one along ``relations``, itself excluded.

    Parameters
    ----------
    id
        Id of a term, such as ``CL:0000236``.
    knowledge
        Tables with the terms.
    relations
        Kinds of edges that are followed.

    Returns
    -------
    Ids of the terms above; empty at a root.

    Raises
    ------
    NotFoundError
        The id is in no table.
    """
    return frozenset(_steps_up(id, knowledge=knowledge, relations=relations)) - {id}


def descendants(id: str, *, knowledge: Knowledge, relations: tuple[Relation, ...] = IS_A) -> frozenset[str]:
    """Return every term below this one along ``relations``, itself excluded.

    Parameters
    ----------
    id
        Id of a term, such as ``CL:0000236``.
    knowledge
        Tables with the terms.
    relations
        Kinds of edges that are followed.

    Returns
    -------
    Ids of the terms below; empty at a leaf.

    Raises
    ------
    NotFoundError
        The id is in no table.
    """
    below = _below(_kind_of(id, knowledge=knowledge), knowledge=knowledge, relations=relations, is_whole=True)
    found, frontier = set[str](), [id]
    while frontier:
        frontier = [low for high in frontier for low in below.get(high, ()) if low not in found]
        found.update(frontier)
    return frozenset(found) - {id}


def distance(a: str, b: str, *, knowledge: Knowledge, relations: tuple[Relation, ...] = ALL_RELATIONS) -> int | None:
    """Count the steps from one term up to the nearest shared one and down to the other.

    Parent and child are 1 apart, siblings 2. Paths go up first and down afterwards, never down and up again, so two
    cell types are not called near because one rare type has both as parents.

    Parameters
    ----------
    a
        Id of a term.
    b
        Id of another term of the same ontology.
    knowledge
        Tables with the terms.
    relations
        Kinds of edges that are followed.

    Returns
    -------
    0 for the same id; None where the shortest path is longer than 4 steps or turns at a root, which relates
    everything to everything, and between terms of two ontologies.

    Raises
    ------
    NotFoundError
        An id is in no table.
    """
    kind, other = (_kind_of(term, knowledge=knowledge) for term in (a, b))
    if kind != other:
        return None
    table: Table = getattr(knowledge, kind)
    up_a, up_b = (_steps_up(term, knowledge=knowledge, relations=relations) for term in (a, b))
    shared = [term for term in up_a.keys() & up_b.keys() if term in (a, b) or _up(table, term, relations=relations)]
    steps = min((up_a[term] + up_b[term] for term in shared), default=MAX_DISTANCE + 1)
    return steps if steps <= MAX_DISTANCE else None


def neighbours(
    id: str, *, hops: int, knowledge: Knowledge, relations: tuple[Relation, ...] = ALL_RELATIONS
) -> dict[str, int]:
    """Return terms of the same ontology within ``hops`` steps (at most 4), nearest first: id -> distance.

    Parameters
    ----------
    id
        Id of a term, such as ``CL:0000236``.
    hops
        Largest distance, at most 4.
    knowledge
        Tables with the terms.
    relations
        Kinds of edges that are followed.

    Returns
    -------
    Id of each neighbour and its distance, the nearest first.

    Raises
    ------
    NotFoundError
        The id is in no table.
    """
    kind = _kind_of(id, knowledge=knowledge)
    table: Table = getattr(knowledge, kind)
    below = _below(kind, knowledge=knowledge, relations=relations)
    most = min(hops, MAX_DISTANCE)
    near: dict[str, int] = {}
    for turn, up in _steps_up(id, knowledge=knowledge, relations=relations).items():
        if up > most:
            continue
        near[turn] = min(up, near.get(turn, up))
        if turn != id and not _up(table, turn, relations=relations):
            continue  # no path turns at a root
        frontier = [turn]
        for steps in range(up + 1, most + 1):
            reached = dict.fromkeys(low for high in frontier for low in below.get(high, ()))
            frontier = [low for low in reached if steps < near.get(low, steps + 1)]
            near.update(dict.fromkeys(frontier, steps))
    near.pop(id, None)
    return dict(sorted(near.items(), key=lambda pair: (pair[1], pair[0])))


def _up(table: Table, term: str, *, relations: tuple[Relation, ...]) -> list[str]:
    """Return the terms directly above a term; links to terms that the table lacks are ignored."""
    links = _links(table, term)
    return [high for relation in relations for high in links.get(relation, ()) if high in table]


def _links(table: Table, term: str) -> dict[Relation, tuple[str, ...]]:
    """Return the terms directly above a term by relation."""
    if isinstance(table, TermTable) and term not in table.over and term in table.packed:
        # most terms; no row is made for them
        return {"is_a": table.packed.parents_of(term)}
    entry = table[term]
    parents = entry.parents
    if not parents and isinstance(table, TermTable) and term in table.packed:
        parents = table.packed.parents_of(term)  # rows of tissues and diseases written by hand state none
    return {"is_a": parents, "part_of": entry.part_of, "develops_from": entry.develops_from}


@functools.lru_cache(maxsize=4096)
def _steps_up(term: str, *, knowledge: Knowledge, relations: tuple[Relation, ...]) -> dict[str, int]:
    """Return the term and everything above it -> steps of the shortest way up."""
    table = getattr(knowledge, _kind_of(term, knowledge=knowledge))
    steps, frontier, level = {term: 0}, [term], 0
    while frontier:
        level += 1
        reached = [high for low in frontier for high in _up(table, low, relations=relations)]
        frontier = [high for high in dict.fromkeys(reached) if high not in steps]
        steps.update(dict.fromkeys(frontier, level))
    return steps


@functools.lru_cache(maxsize=16)
def _below(
    kind: str, *, knowledge: Knowledge, relations: tuple[Relation, ...], is_whole: bool = False
) -> dict[str, tuple[str, ...]]:
    """Return each term -> the terms directly below it.

    With ``is_whole`` also those that rows written by hand leave out, which name the nearest parents of their table.
    """
    table: Table = getattr(knowledge, kind)
    below: dict[str, list[str]] = {}
    for term in table:
        high_ones = _up(table, term, relations=relations)
        if is_whole and isinstance(table, TermTable) and term in table.over and term in table.packed:
            high_ones += [high for high in table.packed.parents_of(term) if high not in table.over]
        for high in dict.fromkeys(high_ones):
            below.setdefault(high, []).append(term)
    return {high: tuple(low) for high, low in below.items()}


def _kind_of(term: str, *, knowledge: Knowledge) -> str:
    """Return the name of the table that contains the id."""
    for kind in ("cell_types", "tissues", "diseases"):
        if term in getattr(knowledge, kind):
            return kind
    retired = knowledge.obsolete.get(term)
    use = f" It is obsolete; use {', '.join(retired.replaced_by)}." if retired and retired.replaced_by else ""
    message = (
        f"{term!r} is not a known cell type id, nor one of a tissue or disease.{use} Give a CL, UBERON or MONDO id, or "
        "resolve the name first."
    )
    raise NotFoundError(message, id=term)
