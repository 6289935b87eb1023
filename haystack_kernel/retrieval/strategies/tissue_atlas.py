"""Strategy tissue_atlas: healthy references of the tissue asked about.

In: a query and the view. Out: proposals, most relevant first.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.matched_control import match_own_type
from haystack_kernel.retrieval.similarity.cell_types import compare_cell_type
from haystack_kernel.retrieval.similarity.donors import target_facts
from haystack_kernel.retrieval.strategies.observed import impute
from haystack_kernel.retrieval.strategies.proposal import Evidence, Proposal
from haystack_kernel.retrieval.strategies.treated import asked_rows, asks_perturbation
from haystack_kernel.retrieval.target import (
    choose_source,
    is_asked_type,
    is_donor_prediction,
    is_healthy,
    measured_outside,
)
from haystack_kernel.retrieval.view import large_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery

_REFERENCE = 0.8  # of any donor: above one that differs in a fact, below one that agrees in all
_NOT_RECORDED = 0.9  # where no disease is recorded, the donor is only assumed to be healthy


def tissue_atlas(query: StructuredQuery, view: AtlasView) -> Iterator[Proposal]:
    """Propose the cell type asked for in healthy donors of the tissue asked for (or of the target donor).

    Relevance is 0.8, times 0.9 for a label or subtype, times 0.9 where the disease is not recorded. Nothing is proposed
    where the tissue is not known, nor for a donor prediction, where the reference donors are the control.

    References
    ----------
    Relevance defined here.
    """
    tissues = target_facts(query, view)["tissue"]
    if not tissues or is_donor_prediction(query):
        return
    rows = asked_rows(query, view) if asks_perturbation(query) else measured_outside(query, view)
    rows = rows[is_asked_type(rows, query=query, view=view)]
    there = rows[keys.TISSUE_ID].str.casefold().isin(tissues) | rows[keys.TISSUE].str.casefold().isin(tissues)
    recorded = (rows[keys.DISEASE_ID] != "") | (rows[keys.DISEASE] != "")
    healthy = is_healthy(rows)
    source = None if asks_perturbation(query) else choose_source(query, view)
    found = []
    for variant, state, factor, kept in (
        ("healthy", "healthy", 1.0, healthy),
        ("reference", "(disease not recorded)", _NOT_RECORDED, ~recorded),
    ):
        for group in large_groups(rows[there & kept], view=view):
            similarity = compare_cell_type(query, group, knowledge=view.knowledge)
            tissue = group[keys.TISSUE].iloc[0] or group[keys.TISSUE_ID].iloc[0]
            words = f"{similarity.words}, in {state} {tissue} of the reference donors"
            relevance = _REFERENCE * similarity.relevance * factor
            if asks_perturbation(query):
                evidence = Evidence("tissue_atlas", relevance, "same_pair", words)
                one = Proposal(group, evidence, partial(match_own_type, view=view))
            else:
                evidence = Evidence("tissue_atlas", relevance, "same_cell_type", words)
                one = impute(group, evidence, source=source, query=query, view=view)
            found.append(replace(one, variant=variant))
    yield from sorted(found, key=lambda one: (-one.evidence.relevance, -one.n_cells, one.key))
