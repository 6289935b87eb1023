"""Strategy mechanistic: other perturbations that act on the same targets and pathways.

In: a query and the view. Out: proposals, most relevant first.

Why there is a floor, and why only cell types similar to the one asked for are used: over the published drug signatures
of blood cells (OpenProblems 2023, 120 known drugs), two drugs with a score of 0.8 or more correlate with a median of
0.51 in the same cell type, drugs with a score of 0.3 to 0.6 with 0.11, drugs that share nothing with 0.08, and one drug
in two cell types with 0.15.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.matched_control import match_own_type
from haystack_kernel.retrieval.similarity.cell_types import compare_cell_type
from haystack_kernel.retrieval.similarity.perturbations import (
    asked_mechanism,
    compare_mechanisms,
    distance_of,
    mechanism,
)
from haystack_kernel.retrieval.strategies.proposal import Evidence, Proposal
from haystack_kernel.retrieval.strategies.treated import other_perturbations
from haystack_kernel.retrieval.view import CANONICAL, large_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from haystack_kernel.retrieval.similarity.cell_types import TypeSimilarity
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery


def mechanistic(query: StructuredQuery, view: AtlasView) -> Iterator[Proposal]:
    """Propose perturbations that share targets and pathways with the one asked for.

    Relevance in the cell type asked for is 0.6 x Jaccard index of the targets + 0.4 x Jaccard index of the signed
    pathways, or of two changes of genes the cosine of their walks on the gene network where that is larger; below
    ``settings.mechanistic_floor`` nothing is proposed. A dataset that lacks this cell type under such a perturbation is
    represented by its nearest type within ``settings.ontology_hops``, with relevance times 0.9 / (1 + steps).
    Perturbations that move the shared pathways or genes in the opposite direction are left out.
    """
    asked = asked_mechanism(query, knowledge=view.knowledge)
    if query.perturbation is None or not asked.is_known:
        return
    similar = {}
    for name in view.treated[CANONICAL].unique():
        mechanisms = compare_mechanisms(asked, mechanism(name, knowledge=view.knowledge))
        if mechanisms.score >= view.settings.mechanistic_floor and not mechanisms.is_opposed:
            similar[name] = mechanisms
    rows = other_perturbations(query, view)
    rows = rows[rows[CANONICAL].isin(similar)]
    found = []
    for _, held in rows.groupby([keys.ATLAS, keys.DATASET, CANONICAL], sort=True):
        mechanisms = similar[held[CANONICAL].iloc[0]]
        for group, cell_type in _nearest(held, query=query, view=view):
            where = cell_type.words if cell_type.same_type else f"another cell type, {cell_type.words}"
            shared = f"{group[CANONICAL].iloc[0]} shares {mechanisms.words} with {query.perturbation.name}"
            relevance, words = mechanisms.score * cell_type.relevance, f"{shared}; in {where}"
            evidence = Evidence("mechanistic", relevance, distance_of(mechanisms), words)
            found.append(Proposal(group, evidence, partial(match_own_type, view=view)))
    yield from sorted(found, key=lambda one: (-one.evidence.relevance, -one.n_cells, one.key))


def _nearest(
    held: pd.DataFrame, *, query: StructuredQuery, view: AtlasView
) -> Iterator[tuple[pd.DataFrame, TypeSimilarity]]:
    """Groups of the cell type asked for, otherwise those at the smallest ontology distance."""
    groups = [
        (rows, compare_cell_type(query, rows, knowledge=view.knowledge)) for rows in large_groups(held, view=view)
    ]
    steps = [0 if one.same_type else one.steps for _, one in groups]
    best = min((one for one in steps if one is not None), default=view.settings.ontology_hops + 1)
    if best <= view.settings.ontology_hops:
        yield from (pair for pair, away in zip(groups, steps, strict=True) if away == best)
