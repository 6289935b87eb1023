"""Proposals of unperturbed cells, shared by all strategies that answer questions without a treatment.

In: a query, the view, and a function that judges a group of cells. Out: proposals with the control of the design.

The design is the table of :mod:`haystack_kernel.retrieval.cells.matched_control`. An imputation learns from the cell
type asked for in other donors, against a source type in the same donors. A donor prediction learns from the target
donor's other cell types, against the same types in the reference donors.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.retrieval.cells.matched_control import ControlMatch, match_control, match_reference
from haystack_kernel.retrieval.names import need_donors, of_term
from haystack_kernel.retrieval.similarity.cell_types import asked_type
from haystack_kernel.retrieval.strategies.proposal import Evidence, Proposal
from haystack_kernel.retrieval.target import (
    asked_controls,
    choose_source,
    find_reference,
    other_types,
    reference_rows,
)
from haystack_kernel.retrieval.view import TYPE_KEY, cells_of, large_groups

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

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

    Raises
    ------
    NoCandidateError
        The question names no donor, or one that no atlas holds.
    """
    if not query.donor_id:
        msg = "this question asks for the cells of a donor, but names none; name a donor that the atlases hold"
        raise NoCandidateError(msg)
    own = view.controls[view.controls[keys.DONOR].isin(need_donors(query.donor_id, view.controls))]
    reference = find_reference(query, view)
    match = partial(_match_donor, reference=reference, query=query, view=view)
    found = []
    for group in large_groups(other_types(own, query=query, view=view), view=view):
        evidence = judge(group)
        if evidence is None:
            continue
        here = (group[keys.ATLAS].iloc[0], group[keys.DATASET].iloc[0])
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
