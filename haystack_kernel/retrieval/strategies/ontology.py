"""Strategy ontology: cell types near the one asked for in the cell ontology.

In: a query and the view. Out: proposals, nearest first.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.knowledge import neighbours
from haystack_kernel.retrieval.cells.matched_control import match_own_type
from haystack_kernel.retrieval.similarity.cell_types import asked_type
from haystack_kernel.retrieval.similarity.perturbations import asked_mechanism, compare_mechanisms, mechanism
from haystack_kernel.retrieval.strategies.observed import donor_proposals, stand_in_proposals
from haystack_kernel.retrieval.strategies.proposal import Evidence, Proposal
from haystack_kernel.retrieval.strategies.treated import asked_rows, asks_perturbation, other_perturbations
from haystack_kernel.retrieval.target import is_donor_prediction
from haystack_kernel.retrieval.view import CANONICAL, large_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import EvidenceDistance, StructuredQuery


def ontology(query: StructuredQuery, view: AtlasView) -> Iterator[Proposal]:
    """Propose cell types up to ``settings.ontology_hops`` steps away, with relevance 1 / (steps + 1).

    For a perturbational question these are cells under the perturbation asked for or, where no atlas holds it, under
    the most similar one. For an observational question they come from other donors, or from the target donor in a donor
    prediction.
    """
    steps: dict[str, int] = {}
    if query.cell_type_id is not None and query.cell_type_id in view.knowledge.cell_types:
        steps = neighbours(query.cell_type_id, hops=view.settings.ontology_hops, knowledge=view.knowledge)
    if asks_perturbation(query):
        found = _treated(query, view, steps=steps)
    else:

        def judge(rows: pd.DataFrame) -> Evidence | None:
            away = steps.get(rows[keys.CELL_TYPE_ID].iloc[0])
            if away is None:
                return None
            return Evidence("ontology", 1 / (away + 1), "other_cell_type", _steps_words(away, query))

        propose = donor_proposals if is_donor_prediction(query) else stand_in_proposals
        found = propose(query, view, judge)
    yield from sorted(found, key=lambda one: (-one.evidence.relevance, -one.n_cells, one.key))


def _treated(query: StructuredQuery, view: AtlasView, *, steps: dict[str, int]) -> list[Proposal]:
    rows, what = asked_rows(query, view), "the perturbation asked for"
    distance: EvidenceDistance = "other_cell_type"
    if rows.empty:
        rows, distance = _most_similar_perturbation(query, view), "shared_target"
        what = f"{rows[CANONICAL].iloc[0]}, which is the most similar in targets and pathways" if len(rows) else ""
    found = []
    for group in large_groups(rows[rows[keys.CELL_TYPE_ID].isin(steps)], view=view):
        away = steps[group[keys.CELL_TYPE_ID].iloc[0]]
        words = f"{what}, in {_steps_words(away, query)}"
        evidence = Evidence("ontology", 1 / (away + 1), distance, words)
        found.append(Proposal(group, evidence, partial(match_own_type, view=view)))
    return found


def _most_similar_perturbation(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Rows of the perturbation most similar to the one asked for; none where all are below the mechanistic floor."""
    asked, rows = asked_mechanism(query, knowledge=view.knowledge), other_perturbations(query, view)
    scores = {}
    for name in sorted(rows[CANONICAL].unique()):
        mechanisms = compare_mechanisms(asked, mechanism(name, knowledge=view.knowledge))
        if not mechanisms.is_opposed:
            scores[name] = mechanisms.score
    best = max(scores, key=lambda name: scores[name], default="")
    return rows[rows[CANONICAL] == best] if scores.get(best, 0) >= view.settings.mechanistic_floor else rows.iloc[:0]


def _steps_words(away: int, query: StructuredQuery) -> str:
    return f"a cell type {away} {'step' if away == 1 else 'steps'} from {asked_type(query)} in the cell ontology"
