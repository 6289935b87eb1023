"""Strategy semantic: conditions whose description is similar to that of the condition asked for.

In: a query and the view. Out: proposals, most relevant first.

A condition is described by two texts, one for its perturbation and one for its cells. Only distinct texts become
vectors, some hundreds for any number of cells. The vector of a condition is both vectors side by side, scaled to
lengths sqrt(0.7) and sqrt(0.3). The cosine of two conditions is therefore 0.7 times that of the perturbations + 0.3
times that of the cells, and another treatment of the same cells stays below the floor.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.knowledge import perturbation_of
from haystack_kernel.retrieval.cells.matched_control import match_own_type
from haystack_kernel.retrieval.similarity.cell_types import asked_type
from haystack_kernel.retrieval.similarity.descriptions import describe_cells, describe_perturbation
from haystack_kernel.retrieval.similarity.perturbations import (
    asked_mechanism,
    compare_mechanisms,
    distance_of,
    mechanism,
)
from haystack_kernel.retrieval.similarity.vectoriser import make_vectoriser
from haystack_kernel.retrieval.similarity.vectors import described_vectors, vectors_of
from haystack_kernel.retrieval.strategies.observed import donor_proposals, stand_in_proposals
from haystack_kernel.retrieval.strategies.proposal import Evidence, Proposal
from haystack_kernel.retrieval.strategies.treated import asked_rows, asks_perturbation, other_perturbations
from haystack_kernel.retrieval.target import is_asked_type, is_donor_prediction
from haystack_kernel.retrieval.view import CANONICAL, TYPE_KEY, large_groups

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from haystack_kernel.retrieval.similarity.perturbations import MechanismSimilarity
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery

_PERTURBATION, _CELLS = 0.7, 0.3


def semantic(query: StructuredQuery, view: AtlasView) -> Iterator[Proposal]:
    """Propose conditions whose description has a cosine of at least ``settings.semantic_floor`` with the one asked for.

    Relevance is the cosine: of perturbation and cells (0.7 / 0.3) where the question asks for a perturbation, of the
    cells alone where it does not. Perturbations that move the shared pathways in the opposite direction are left out.
    So are other cell types that the same dataset holds under the perturbation asked for, which is better evidence.
    """
    if asks_perturbation(query):
        found = _treated(query, view)
    else:
        near = _cells_cosine(query, view.controls, view=view)

        def judge(rows: pd.DataFrame) -> Evidence | None:
            value = near[rows[TYPE_KEY].iloc[0]]
            if value < view.settings.semantic_floor:
                return None
            words = f"a cell type whose description is similar to that of {asked_type(query)} (cosine {value:.2f})"
            return Evidence("semantic", min(value, 1.0), "text_only", words)

        propose = donor_proposals if is_donor_prediction(query) else stand_in_proposals
        found = propose(query, view, judge)
    yield from sorted(found, key=lambda one: (-one.evidence.relevance, -one.n_cells, one.key))


def _treated(query: StructuredQuery, view: AtlasView) -> list[Proposal]:
    rows = other_perturbations(query, view)
    if rows.empty or query.perturbation is None:
        return []
    asked = asked_mechanism(query, knowledge=view.knowledge)
    names = sorted(rows[CANONICAL].unique())
    texts = [describe_perturbation(name, knowledge=view.knowledge) for name in names]
    text = describe_perturbation(query.perturbation.name, knowledge=view.knowledge, asked=query.perturbation)
    mechanisms = {name: compare_mechanisms(asked, mechanism(name, knowledge=view.knowledge)) for name in names}
    effect = dict(zip(names, _cosines(text, texts, view=view), strict=True))
    effect = {name: value for name, value in effect.items() if _may_tell(name, mechanisms[name], query, view=view)}
    cells = _cells_cosine(query, rows, view=view)
    cosine = _PERTURBATION * rows[CANONICAL].map(effect) + _CELLS * rows[TYPE_KEY].map(cells)
    # Another cell type is left out where its dataset also holds it under the perturbation asked for.
    condition = [keys.ATLAS, keys.DATASET, TYPE_KEY]
    held = set(asked_rows(query, view)[condition].itertuples(index=False, name=None))
    known = pd.Series([one in held for one in rows[condition].itertuples(index=False, name=None)], index=rows.index)
    cosine = cosine[~(known.astype(bool) & ~is_asked_type(rows, query=query, view=view))]
    rows = rows.loc[cosine.index]
    found = []
    for group in large_groups(rows[cosine >= view.settings.semantic_floor], view=view):
        value, similarity = float(cosine[group.index[0]]), mechanisms[group[CANONICAL].iloc[0]]
        distance = distance_of(similarity)
        shared = f"; they share {similarity.words}" if distance == "shared_target" else ""
        words = (
            f"its description is similar to that of {query.perturbation.name} in {asked_type(query)} "
            f"(cosine {value:.2f}){shared}"
        )
        evidence = Evidence("semantic", min(value, 1.0), distance, words)
        found.append(Proposal(group, evidence, partial(match_own_type, view=view)))
    return found


def _may_tell(name: str, found: MechanismSimilarity, query: StructuredQuery, *, view: AtlasView) -> bool:
    """Whether the description of a perturbation may tell of its effect.

    It does not where the effects are opposed, nor of two changes of genes that share no target, pathway or downstream
    gene: their descriptions are similar because both are changes of a gene.
    """
    if found.is_opposed:
        return False
    named = (name, query.perturbation.name if query.perturbation is not None else "")
    entries = [perturbation_of(one, knowledge=view.knowledge) for one in named]
    are_genetic = all(entry is not None and entry.type == "genetic" for entry in entries)
    return not are_genetic or distance_of(found) == "shared_target"


def _cells_cosine(query: StructuredQuery, rows: pd.DataFrame, *, view: AtlasView) -> dict[str, float]:
    """Type key -> cosine of its description with that of the cell type asked for."""
    held = rows.drop_duplicates(TYPE_KEY)
    pairs = held[[keys.CELL_TYPE_ID, keys.CELL_TYPE]].itertuples(index=False, name=None)
    texts = [describe_cells(cl_id, label, knowledge=view.knowledge) for cl_id, label in pairs]
    text = describe_cells(query.cell_type_id or "", asked_type(query), knowledge=view.knowledge)
    return dict(zip(held[TYPE_KEY], _cosines(text, texts, view=view), strict=True))


def _cosines(text: str, others: Sequence[str], *, view: AtlasView) -> list[float]:
    """Cosine of one text with each of the others; descriptions of the tables come from one cached matrix."""
    place, matrix = described_vectors(view.knowledge, view.cache)
    if extra := [one for one in dict.fromkeys([text, *others]) if one not in place]:
        vectoriser = make_vectoriser(view.knowledge)
        place = {**place, **{one: row for row, one in enumerate(extra, start=len(place))}}
        matrix = sparse.vstack([matrix, vectors_of(extra, vectoriser=vectoriser, cache=view.cache)], format="csr")
    wanted = matrix[[place[one] for one in others]] @ matrix[place[text]].T
    return [float(one) for one in wanted.toarray().ravel()]
