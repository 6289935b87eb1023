"""Strategy mechanistic: other perturbations that act on the same targets and pathways.

In: a query and the view. Out: proposals, most relevant first.

Why a floor, and why only cell types like the one asked for: over the published drug signatures of blood cells
(OpenProblems 2023, 120 known drugs), two drugs with a score of 0.8 or more correlate with a median of 0.51 in the same
cell type, those of 0.3 to 0.6 with 0.11, unrelated ones with 0.08, and one drug in two cell types with 0.15.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.matched_control import match_own_type
from haystack_kernel.retrieval.similarity.cell_types import find_nearness
from haystack_kernel.retrieval.similarity.perturbations import asked_mechanism, distance_of, mechanism, relate
from haystack_kernel.retrieval.strategies.proposal import Evidence, Proposal
from haystack_kernel.retrieval.strategies.treated import other_perturbations
from haystack_kernel.retrieval.view import CANONICAL, large_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from haystack_kernel.retrieval.similarity.cell_types import Nearness
    from haystack_kernel.retrieval.similarity.perturbations import Relation
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery


def mechanistic(query: StructuredQuery, view: AtlasView) -> Iterator[Proposal]:
    """Propose perturbations that share targets and pathways with the one asked for.

    Relevance: 0.6 Jaccard of the targets + 0.4 Jaccard of the signed pathways, where that is at least
    ``settings.mechanistic_floor``; in the cell type asked for. A data set that lacks this type under such a
    perturbation is represented by its nearest one within ``settings.ontology_hops``, with relevance times
    0.9 / (1 + steps). Perturbations that move the shared pathways the other way are left out.
    """
    related = _related(query, view)
    rows = other_perturbations(query, view)
    rows = rows[rows[CANONICAL].isin(related)]
    found = []
    for _, held in rows.groupby([keys.ATLAS, keys.DATASET, CANONICAL], sort=True):
        relation = related[held[CANONICAL].iloc[0]]
        for group, near in _nearest(held, query=query, view=view):
            found.append(_propose(group, near=near, relation=relation, query=query, view=view))
    yield from sorted(found, key=lambda one: (-one.evidence.relevance, -one.n_cells, one.key))


def _related(query: StructuredQuery, view: AtlasView) -> dict[str, Relation]:
    asked = asked_mechanism(query, knowledge=view.knowledge)
    if not asked.is_known:
        return {}
    relations = {
        name: relate(asked, mechanism(name, knowledge=view.knowledge)) for name in view.treated[CANONICAL].unique()
    }
    floor = view.settings.mechanistic_floor
    return {name: one for name, one in relations.items() if one.score >= floor and not one.is_opposed}


def _nearest(held: pd.DataFrame, *, query: StructuredQuery, view: AtlasView) -> Iterator[tuple[pd.DataFrame, Nearness]]:
    """Groups of the type asked for, else those at the smallest ontology distance."""
    near = [(rows, find_nearness(query, rows, knowledge=view.knowledge)) for rows in large_groups(held, view=view)]
    steps = [0 if one.same_type else one.steps for _, one in near]
    best = min((one for one in steps if one is not None), default=view.settings.ontology_hops + 1)
    if best <= view.settings.ontology_hops:
        yield from (pair for pair, away in zip(near, steps, strict=True) if away == best)


def _propose(
    rows: pd.DataFrame, *, near: Nearness, relation: Relation, query: StructuredQuery, view: AtlasView
) -> Proposal:
    asked = query.perturbation.name if query.perturbation is not None else ""
    where = near.words if near.same_type else f"another cell type, {near.words}"
    words = f"{rows[CANONICAL].iloc[0]} shares {relation.words} with {asked}; in {where}"
    evidence = Evidence("mechanistic", relation.score * near.relevance, distance_of(relation), words)
    return Proposal(rows, evidence, partial(match_own_type, view=view))
