"""Strategy ontology: cell types close to the one asked for in the cell ontology.

In: a query and the view. Out: candidates, nearest first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.knowledge import neighbours
from haystack_kernel.retrieval.control import match_control
from haystack_kernel.retrieval.nearness import asked_type
from haystack_kernel.retrieval.observational import donor_candidates, is_donor_prediction, nearby_candidates
from haystack_kernel.retrieval.proposal import Evidence, build_candidate
from haystack_kernel.retrieval.treated import asked_rows, asks_perturbation
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY, groups

if TYPE_CHECKING:
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import Candidate, StructuredQuery


def ontology(query: StructuredQuery, view: AtlasView) -> list[Candidate]:
    """Propose nearby cell types up to ``settings.ontology_hops`` steps away; relevance 1 / (steps + 1).

    Perturbational: nearby types under the perturbation asked for, none where no atlas holds it. Observational:
    nearby types of other donors, or of the target donor for donor prediction.
    """
    steps = _near(query, view)
    if asks_perturbation(query):
        found = _treated(query, view, steps=steps)
    elif is_donor_prediction(query):
        found = donor_candidates(query, view, steps=steps)
    else:
        found = nearby_candidates(query, view, steps=steps)
    return sorted(found, key=lambda one: (-one.relevance, one.key))


def _near(query: StructuredQuery, view: AtlasView) -> dict[str, int]:
    if query.cell_type_id is None or query.cell_type_id not in view.knowledge.cell_types:
        return {}
    return neighbours(query.cell_type_id, hops=view.settings.ontology_hops, knowledge=view.knowledge)


def _treated(query: StructuredQuery, view: AtlasView, *, steps: dict[str, int]) -> list[Candidate]:
    found = []
    rows = asked_rows(query, view)
    for group in groups(rows[rows[keys.CELL_TYPE_ID].isin(steps)]):
        if int(group[N_CELLS].sum()) < view.settings.min_cells:
            continue
        away = steps[group[keys.CELL_TYPE_ID].iloc[0]]
        words = (
            f"the perturbation asked for, in a cell type {away} {'step' if away == 1 else 'steps'} from "
            f"{asked_type(query)} in the cell ontology"
        )
        match = match_control(
            group, controls=view.controls, type_key=group[TYPE_KEY].iloc[0], min_cells=view.settings.min_cells
        )
        found.append(build_candidate(match, Evidence("ontology", 1 / (away + 1), "other_cell_type", words)))
    return found
