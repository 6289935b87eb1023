"""Strategy direct: cells under the perturbation asked for, in the same or in other cell types and donors.

In: a query and the view. Out: proposals, most relevant first.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.matched_control import match_own_type
from haystack_kernel.retrieval.similarity.cell_types import BY_LABEL, compare_cell_type
from haystack_kernel.retrieval.strategies.proposal import Evidence, Proposal
from haystack_kernel.retrieval.strategies.treated import asked_rows, asks_perturbation
from haystack_kernel.retrieval.view import large_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import EvidenceDistance, StructuredQuery


def direct(query: StructuredQuery, view: AtlasView) -> Iterator[Proposal]:
    """Propose the perturbation asked for in every cell type; nothing where the question asks for none.

    Relevance: exact perturbation and cell type 1; through another name of either or a subtype 0.9; other cell types
    0.9 / (1 + ontology steps), at least 0.2.
    """
    if not asks_perturbation(query):
        return
    found = []
    for rows in large_groups(asked_rows(query, view), view=view):
        similarity = compare_cell_type(query, rows, knowledge=view.knowledge)
        relevance = similarity.relevance
        other = "" if similarity.same_type else "another cell type, "
        words = f"the perturbation asked for, in {other}{similarity.words}"
        stored = rows[keys.PERTURBATION].iloc[0]
        asked = query.perturbation
        if asked is not None and stored.casefold() != asked.name.casefold():
            relevance, words = min(relevance, BY_LABEL), f"{words} ({stored} is another name of {asked.name})"
        distance: EvidenceDistance = "same_pair" if similarity.same_type else "other_cell_type"
        evidence = Evidence("direct", relevance, distance, words)
        found.append(Proposal(rows, evidence, partial(match_own_type, view=view)))
    yield from sorted(found, key=lambda one: (-one.evidence.relevance, one.key))
