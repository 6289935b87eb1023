"""Proposals of unperturbed cells, shared by all strategies that answer questions without a treatment.

In: a query, the view, and a function that judges a group of cells. Out: proposals with the control of the design.

The design is the table of :mod:`haystack_kernel.retrieval.cells.matched_control`. An imputation learns from the cell
type asked for in other donors, against a source type in the same donors. A donor prediction learns from the target
donor's other cell types, against the same types in the reference donors; where the donor is all patients with a
disease, the reference donors are the healthy ones of the same data set.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.matched_control import (
    ControlMatch,
    match_control,
    match_healthy,
    match_reference,
)
from haystack_kernel.retrieval.names import of_term
from haystack_kernel.retrieval.similarity.cell_types import asked_type
from haystack_kernel.retrieval.strategies.proposal import Evidence, Proposal
from haystack_kernel.retrieval.target import (
    asked_controls,
    choose_source,
    find_reference,
    healthy_rows,
    is_asked_type,
    other_types,
    own_rows,
    reference_rows,
)
from haystack_kernel.retrieval.view import TYPE_KEY, cells_of, large_groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.retrieval.target import Reference, Source
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery

    Judge = Callable[[pd.DataFrame], Evidence | None]

_OTHER_DATASET = 0.9  # factor on the relevance in a donor prediction: the difference then also contains a batch effect


def stand_in_proposals(query: StructuredQuery, view: AtlasView, judge: Judge) -> list[Proposal]:
    """Propose other cell types of other donors for an imputation, in case the type asked for is missing.

    The source type is never proposed, because the query cells are of this type.
    """
    source = choose_source(query, view)
    rows = reference_rows(query, view, wanted=~asked_controls(query, view))
    rows = rows[rows[TYPE_KEY] != source.key] if source else rows
    judged = [(group, judge(group)) for group in large_groups(rows, view=view)]
    return [
        impute(group, evidence, source=source, query=query, view=view)
        for group, evidence in judged
        if evidence is not None
    ]


def impute(
    rows: pd.DataFrame, evidence: Evidence, *, source: Source | None, query: StructuredQuery, view: AtlasView
) -> Proposal:
    """Propose rows with the source type of the same donors as their control."""
    match = partial(_match_source, source=source, query=query, view=view)
    elsewhere = not of_term(query.tissue_id, rows[keys.TISSUE_ID], knowledge=view.knowledge).any()
    return Proposal(rows, evidence, match, by_tissue=bool(query.tissue_id) and not query.donor_id and elsewhere)


def donor_proposals(query: StructuredQuery, view: AtlasView, judge: Judge) -> list[Proposal]:
    """Propose the target donor's other cell types, each with the same type of the reference donors as its control.

    Where a disease is asked about, the donor is all its patients and the reference donors are healthy. Then every other
    data set that holds both may show the cell type asked for itself.

    Raises
    ------
    NoCandidateError
        The question names no donor and no disease, or one that no atlas holds.
    """
    own, reference = own_rows(query, view), find_reference(query, view)
    rows = other_types(own, query=query, view=view)
    match = partial(_match_donor, reference=reference, query=query, view=view)
    if query.compared_disease:
        if reference is not None:  # what other data sets show of the type itself is no answer to this question
            asked = own[asked_controls(query, view)[own.index]]
            is_answer = (asked[keys.ATLAS] == reference.atlas) & (asked[keys.DATASET] == reference.dataset)
            rows = pd.concat([rows, asked[~is_answer]])
        match = partial(_match_healthy, query=query, view=view)
    found = []
    for group in large_groups(rows, view=view):
        evidence = judge(group)
        if evidence is None:
            continue
        here = (group[keys.ATLAS].iloc[0], group[keys.DATASET].iloc[0])
        if query.compared_disease and is_asked_type(group, query=query, view=view).all():
            evidence = replace(evidence, distance="same_cell_type")
        if reference is not None and (reference.atlas, reference.dataset) != here:
            words = f"{evidence.words}; in another dataset than the reference donors"
            evidence = replace(evidence, relevance=evidence.relevance * _OTHER_DATASET, words=words)
        found.append(Proposal(group, evidence, match))
    return found


def _match_source(
    rows: pd.DataFrame, *, source: Source | None, query: StructuredQuery, view: AtlasView
) -> ControlMatch:
    if source is None:
        reason = f"no control: the target holds no cell type other than {asked_type(query)} to start from"
        return ControlMatch(rows, None, reason)
    return match_control(rows, controls=view.controls_of(rows), type_key=source.key, min_cells=view.settings.min_cells)


def _match_healthy(rows: pd.DataFrame, *, query: StructuredQuery, view: AtlasView) -> ControlMatch:
    here = (str(rows[keys.ATLAS].iloc[0]), str(rows[keys.DATASET].iloc[0]))
    return match_healthy(rows, controls=healthy_rows(query, view, dataset=here), min_cells=view.settings.min_cells)


def _match_donor(
    rows: pd.DataFrame, *, reference: Reference | None, query: StructuredQuery, view: AtlasView
) -> ControlMatch:
    if reference is None:
        return ControlMatch(rows, None, f"no control: no other donor has {cells_of(asked_type(query))}")
    return match_reference(
        rows,
        controls=view.controls,
        dataset=(reference.atlas, reference.dataset),
        donors=reference.donors,
        min_cells=view.settings.min_cells,
    )
