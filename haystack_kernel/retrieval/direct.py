"""Strategy direct: cells that show the very effect asked for, here or in other cell types or donors.

In: a query and the view. Out: candidates, most relevant first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.retrieval.control import match_control
from haystack_kernel.retrieval.nearness import BY_LABEL, find_nearness
from haystack_kernel.retrieval.observational import donor_candidates, imputation_candidates, is_donor_prediction
from haystack_kernel.retrieval.proposal import Evidence, build_candidate
from haystack_kernel.retrieval.treated import asked_rows, asks_perturbation
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY, groups

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import Candidate, EvidenceDistance, StructuredQuery


def direct(query: StructuredQuery, view: AtlasView) -> list[Candidate]:
    """Propose the perturbation asked for in every cell type, or for observational tasks the cells asked for.

    Relevance: exact perturbation and cell type 1; through another name of either or a subtype 0.9; other cell types
    0.9 / (1 + ontology steps), at least 0.2. Imputation proposes the asked cell type in other donors, donor
    prediction the target donor's other cell types.
    """
    if asks_perturbation(query):
        found = _treated(query, view)
    elif is_donor_prediction(query):
        found = donor_candidates(query, view)
    else:
        found = imputation_candidates(query, view)
    return sorted(found, key=lambda one: (-one.relevance, one.key))


def _treated(query: StructuredQuery, view: AtlasView) -> list[Candidate]:
    sets = groups(asked_rows(query, view))
    return [_propose(one, query=query, view=view) for one in sets if int(one[N_CELLS].sum()) >= view.settings.min_cells]


def _propose(rows: pd.DataFrame, *, query: StructuredQuery, view: AtlasView) -> Candidate:
    near = find_nearness(query, rows, knowledge=view.knowledge)
    relevance, words = near.relevance, f"the perturbation asked for, in {near.words}" if near.same_type else ""
    if not near.same_type:
        words = f"the perturbation asked for, in another cell type, {near.words}"
    stored = rows[keys.PERTURBATION].iloc[0]
    if query.perturbation is not None and stored.casefold() != query.perturbation.name.casefold():
        relevance, words = min(relevance, BY_LABEL), f"{words} ({stored} is another name of {query.perturbation.name})"
    match = match_control(
        rows, controls=view.controls, type_key=rows[TYPE_KEY].iloc[0], min_cells=view.settings.min_cells
    )
    distance: EvidenceDistance = "same_pair" if near.same_type else "other_cell_type"
    return build_candidate(match, Evidence("direct", relevance, distance, words))
