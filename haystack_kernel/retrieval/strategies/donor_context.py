"""Strategy donor_context: the donors most similar in tissue, disease, age and sex.

In: a query and the view. Out: proposals, most relevant first.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.matched_control import match_own_type
from haystack_kernel.retrieval.similarity.cell_types import compare_cell_type
from haystack_kernel.retrieval.similarity.donors import (
    FACTS,
    agreement,
    donor_similarity,
    similarity_words,
    target_facts,
)
from haystack_kernel.retrieval.strategies.observed import donor_proposals, impute
from haystack_kernel.retrieval.strategies.proposal import Evidence, Proposal
from haystack_kernel.retrieval.strategies.treated import asked_rows, asks_perturbation
from haystack_kernel.retrieval.target import (
    asked_controls,
    choose_source,
    is_asked_type,
    is_donor_prediction,
    reference_rows,
)
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import EvidenceDistance, StructuredQuery

_SET = [keys.ATLAS, keys.DATASET, keys.PERTURBATION, TYPE_KEY]


def donor_context(query: StructuredQuery, view: AtlasView) -> Iterator[Proposal]:
    """Propose the cell type asked for in the most similar donors, or the target donor's own other cells.

    For an imputation, and for a treatment transferred to another dataset, relevance is the similarity of the donors
    (mean over tissue, disease, age and sex: 1 same, 0 different, 0.5 not recorded) times 1 for the exact cell type, 0.9
    for a label or subtype. Donors that agree in the same facts form one set. For a donor prediction the donor itself is
    the context, and the relevance of each of its cell types is 0.9 / (1 + ontology steps), at least 0.2.
    """
    if asks_perturbation(query):
        rows = asked_rows(query, view)
        rows = rows[is_asked_type(rows, query=query, view=view)]
        found = [
            Proposal(part, evidence, partial(match_own_type, view=view), variant=variant)
            for part, evidence, variant in _by_similarity(rows, query=query, view=view)
        ]
    elif is_donor_prediction(query):

        def judge(rows: pd.DataFrame) -> Evidence:
            similarity = compare_cell_type(query, rows, knowledge=view.knowledge)
            whose = (
                f"cells of patients with {query.disease_name}"
                if query.compared_disease
                else "the target donor's own cells"
            )
            words = f"{whose}, {similarity.words}"
            return Evidence("donor_context", similarity.relevance, "other_cell_type", words)

        found = donor_proposals(query, view, judge)
    else:
        rows = reference_rows(query, view, wanted=asked_controls(query, view))
        source, found = choose_source(query, view), []
        for part, evidence, variant in _by_similarity(rows, query=query, view=view):
            one = impute(part, evidence, source=source, query=query, view=view)
            found.append(replace(one, variant=variant))
    yield from sorted(found, key=lambda one: (-one.evidence.relevance, -one.n_cells, one.key))


def _by_similarity(
    rows: pd.DataFrame, *, query: StructuredQuery, view: AtlasView
) -> Iterator[tuple[pd.DataFrame, Evidence, str]]:
    """Groups of each dataset and cell type whose donors agree in the same facts; a group too small joins the next."""
    signs = {1.0: "+", 0.0: "-"}
    agreed = agreement(rows, facts=target_facts(query, view))
    similarity = donor_similarity(agreed)
    for _, held in rows.groupby(_SET, sort=True):
        pattern = agreed.loc[held.index].astype(str).agg("|".join, axis=1)
        levels = sorted(pattern.unique(), key=lambda one: (-similarity[held.index[pattern == one][0]], one))
        waiting = held.iloc[:0]
        for level in levels:
            waiting = pd.concat([waiting, held[pattern == level]])
            if int(waiting[N_CELLS].sum()) < view.settings.min_cells:
                continue
            least = agreed.loc[waiting.index[-1]]  # the least similar of those joined
            cell_type = compare_cell_type(query, waiting, knowledge=view.knowledge)
            distance: EvidenceDistance = "same_pair" if asks_perturbation(query) else "same_cell_type"
            words = f"{cell_type.words}, of other donors: {similarity_words(least)}"
            relevance = float(similarity[waiting.index[-1]]) * cell_type.relevance
            variant = ""
            if len(levels) > 1:  # several sets of one condition need distinct keys: "donors+tissue-age"
                variant = "donors" + "".join(f"{signs[least[name]]}{name}" for name in FACTS if least[name] in signs)
            yield waiting, Evidence("donor_context", relevance, distance, words), variant
            waiting = held.iloc[:0]
