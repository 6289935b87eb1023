"""Chooses the cells to be transformed: unperturbed cells of the type, donor and tissue asked for.

In: a query, the atlas and the ranked candidates. Out: one :class:`CellSet`, and a sentence about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.knowledge import neighbours
from haystack_kernel.retrieval.names import need_dataset, need_donors, of_term
from haystack_kernel.retrieval.refusal import describe_types
from haystack_kernel.retrieval.similarity.cell_types import asked_labels, asked_type, subtypes
from haystack_kernel.retrieval.strategies.treated import asks_perturbation
from haystack_kernel.retrieval.target import (
    choose_source,
    find_reference,
    healthy_rows,
    is_asked_type,
    is_donor_prediction,
    target_rows,
)
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY, build_view, cell_set, cells_of
from haystack_kernel.schema import RetrievalSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import Candidate, CellSet, RunConfig, StructuredQuery

_ENOUGH = 20  # cells, with which the dataset of the best candidate is preferred to a larger one


def choose_query_cells(
    query: StructuredQuery,
    *,
    atlas: Atlas,
    knowledge: Knowledge,
    candidates: Sequence[Candidate],
    config: RunConfig,
) -> CellSet:
    """Choose the unperturbed cells that the engine transforms.

    For a perturbational question these are cells of the type (exact id, otherwise subtypes, otherwise a parent) and of
    the donor, tissue, disease and dataset asked for. Tissue and disease are dropped where nothing fits, donor and
    dataset are not. For an imputation they are cells of the source type in the target; for a donor prediction, cells of
    the type asked for in the reference donors. The dataset of the best candidate is preferred, otherwise the one with
    the most such cells. Control cells are never hidden.

    Parameters
    ----------
    query
        The parsed question.
    atlas
        Cells of one or several atlases; only their conditions are read.
    knowledge
        Tables with the cell ontology.
    candidates
        Ranked candidates; may be empty.
    config
        Names the atlas of the query cells, where the user chose one.

    Returns
    -------
    The cell set to be transformed.

    Raises
    ------
    NoCandidateError
        No atlas holds such cells, or the donor is unknown; the message says what the atlases hold.

    Examples
    --------
    >>> chosen = choose_query_cells(query, atlas=atlas, knowledge=knowledge, candidates=candidates, config=config)
    ... # doctest: +SKIP
    >>> describe_query_cells(chosen, query=query, knowledge=knowledge)  # doctest: +SKIP
    '420 unperturbed monocytes from dataset kang'
    """
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=config)
    return query_cells_in(view, query=query, candidates=candidates)


def query_cells_in(view: AtlasView, *, query: StructuredQuery, candidates: Sequence[Candidate]) -> CellSet:
    """Choose as :func:`choose_query_cells` does, in a view that serves several queries.

    Parameters
    ----------
    view
        From :func:`build_view`.
    query
        The parsed question.
    candidates
        Ranked candidates; may be empty.

    Returns
    -------
    The cell set to be transformed.
    """
    if asks_perturbation(query):
        rows = _perturbational(query, view)
    elif is_donor_prediction(query):
        rows = _of_reference_donors(query, view)
    else:
        rows = _of_source_type(query, view, candidates=candidates)
    rows = _one_dataset(rows, candidates=candidates)
    restricted = bool(_of(query.tissue_id, rows[keys.TISSUE_ID], view=view).all())
    chosen = cell_set(rows, by_tissue=restricted, by_disease=query.compared_disease is not None)
    if _of(query.disease_id, rows[keys.DISEASE_ID], view=view).all():
        chosen = chosen.model_copy(update={"disease_ids": tuple(sorted(set(rows[keys.DISEASE_ID])))})
    if query.donor_id or is_donor_prediction(query):
        return chosen
    return chosen.model_copy(update={"donor_ids": (), "n_cells": int(rows[N_CELLS].sum())})


def describe_query_cells(query_set: CellSet, *, query: StructuredQuery, knowledge: Knowledge) -> str:
    """Describe in one sentence which cells are transformed, and how they differ from those asked for.

    Parameters
    ----------
    query_set
        From :func:`choose_query_cells`.
    query
        The parsed question.
    knowledge
        Tables with the names of cell types.

    Returns
    -------
    One sentence without a full stop.

    Examples
    --------
    >>> describe_query_cells(chosen, query=query, knowledge=knowledge)  # doctest: +SKIP
    '500 unperturbed fibroblasts from dataset s; not restricted to lung, from which none are held'
    """
    ids = query_set.cell_type_ids
    names = [knowledge.cell_types[one].name if one in knowledge.cell_types else one for one in ids]
    label = ", ".join(names or query_set.cell_type_names) or "any type"
    donors = f" of {', '.join(query_set.donor_ids)}" if query_set.donor_ids else ""
    sentence = f"{query_set.n_cells} unperturbed {cells_of(label)}{donors} from dataset {query_set.dataset}"
    if not (asks_perturbation(query) or is_donor_prediction(query)):
        sentence += f"; the imputation of {cells_of(asked_type(query))} starts from them"
    return "; ".join([sentence, *query_differences(query_set, query=query, knowledge=knowledge)])


def query_differences(query_set: CellSet, *, query: StructuredQuery, knowledge: Knowledge) -> tuple[str, ...]:
    """Say how the query cells differ from those asked for, one phrase each; none where they do not.

    Parameters
    ----------
    query_set
        From :func:`choose_query_cells`.
    query
        The parsed question.
    knowledge
        Tables with the names of cell types.

    Returns
    -------
    Phrases without a full stop.

    Examples
    --------
    >>> query_differences(chosen, query=query, knowledge=knowledge)  # doctest: +SKIP
    ('the query cells are not restricted to lung, from which none are held',)
    """
    notes = [_type_note(query_set.cell_type_ids, query=query, knowledge=knowledge)]
    places = [(query.tissue_id, query.tissue_name, query_set.tissue_ids)]
    if not query.compared_disease:  # there they are of healthy donors
        places.append((query.disease_id, query.disease_name, query_set.disease_ids))
    for asked_id, name, restricted_to in places:
        if asked_id and not restricted_to:
            notes.append(f"the query cells are not restricted to {name or asked_id}, from which none are held")
    return tuple(filter(None, notes))


def _type_note(ids: Sequence[str], *, query: StructuredQuery, knowledge: Knowledge) -> str:
    """How the type of the query cells relates to the one asked for; empty where they are the same, or are to differ."""
    if not (asks_perturbation(query) or is_donor_prediction(query)) or not ids or query.cell_type_id in ids:
        return ""
    why = f"because no control cells are labelled {asked_type(query)}"
    if set(ids) <= subtypes(query.cell_type_id, knowledge=knowledge):
        return f"the query cells are subtypes of {asked_type(query)}, {why} itself"
    return f"the query cells are of the nearest broader type, {why}"


def _of(term: str | None, ids: pd.Series, *, view: AtlasView) -> pd.Series:
    return of_term(term, ids, knowledge=view.knowledge)


# --- perturbational -----------------------------------------------------------------------------------------------


def _perturbational(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Rows of the best match that has any: the exact type before subtypes and tissue, a broader type last."""
    rows = _asked_place(query, view)
    anywhere = pd.Series(data=True, index=rows.index)
    tissue = _of(query.tissue_id, rows[keys.TISSUE_ID], view=view) if query.tissue_id else anywhere
    disease = _of(query.disease_id, rows[keys.DISEASE_ID], view=view) if query.disease_id else anywhere
    own_type = is_asked_type(rows, query=query, view=view)
    exact = (rows[keys.CELL_TYPE_ID] == query.cell_type_id) | (
        (rows[keys.CELL_TYPE_ID] == "") & rows[keys.CELL_TYPE].str.casefold().isin(asked_labels(query))
    )
    parents: set[str] = set()
    if query.cell_type_id is not None and query.cell_type_id in view.knowledge.cell_types:
        near = neighbours(query.cell_type_id, hops=1, knowledge=view.knowledge)
        parents = set(near) & set(view.knowledge.cell_types[query.cell_type_id].parents)
    broader = rows[keys.CELL_TYPE_ID].isin(parents)
    for wanted in ((exact, own_type), (broader,)):
        for place in (tissue & disease, tissue, disease, anywhere):
            for kind in wanted:
                if (kind & place).any():
                    return rows[kind & place]
    raise NoCandidateError(_none_of_type(query, view, rows=rows), cell_type=asked_type(query))


def _asked_place(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    rows = view.controls
    if view.config.query_atlas is not None:
        rows = rows[rows[keys.ATLAS] == view.config.query_atlas]
    if query.target_dataset:
        rows = rows[need_dataset(query.target_dataset, rows)]
    return rows[rows[keys.DONOR].isin(need_donors(query.donor_id, rows))] if query.donor_id else rows


def _none_of_type(query: StructuredQuery, view: AtlasView, *, rows: pd.DataFrame) -> str:
    where = f" of donor {query.donor_id}" if query.donor_id else ""
    where += f" in dataset {query.target_dataset}" if query.target_dataset else ""
    where += f" in atlas {view.config.query_atlas}" if view.config.query_atlas else ""
    held = describe_types(rows, query=query, view=view)
    return (
        f"no unperturbed {cells_of(asked_type(query))}{where} to transform. There are {held}. Ask about one of these, "
        "give your own cells as query h5ad, or add an atlas with `haystack atlas build`."
    )


# --- observational ------------------------------------------------------------------------------------------------


def _of_source_type(query: StructuredQuery, view: AtlasView, *, candidates: Sequence[Candidate]) -> pd.DataFrame:
    rows = target_rows(query, view)
    used = next((one.control for one in candidates if one.control is not None), None)
    if used is not None:
        wanted = {*used.cell_type_ids, *used.cell_type_names}
        same = rows[rows[TYPE_KEY].isin(wanted)]
        if len(same):
            return same
    source = choose_source(query, view)
    if source is None:
        held = describe_types(rows, query=query, view=view)
        msg = (
            f"to impute {cells_of(asked_type(query))} the target needs another cell type to start from; it holds "
            f"{held}. Ask about another donor or tissue, or give your own cells as query h5ad."
        )
        raise NoCandidateError(msg, cell_type=asked_type(query))
    return rows[rows[TYPE_KEY] == source.key]


def _of_reference_donors(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    reference = find_reference(query, view)
    whose = f"donor {query.donor_id} some other donor"
    if query.compared_disease:
        whose = f"patients with {query.disease_name} some healthy donor of their data set"
    if reference is None:
        held = describe_types(view.controls, query=query, view=view)
        msg = (
            f"to predict {cells_of(asked_type(query))} of {whose} must have them, but "
            f"none has; the atlases hold {held}. Ask about one of these, or add an atlas with `haystack atlas build`."
        )
        raise NoCandidateError(msg, cell_type=asked_type(query))
    rows = view.controls
    if query.compared_disease:  # a donor may be healthy in one sample and a patient in another
        rows = healthy_rows(query, view, dataset=(reference.atlas, reference.dataset))
    rows = rows[(rows[keys.ATLAS] == reference.atlas) & (rows[keys.DATASET] == reference.dataset)]
    return rows[rows[keys.DONOR].isin(reference.donors) & is_asked_type(rows, query=query, view=view)]


def _one_dataset(rows: pd.DataFrame, *, candidates: Sequence[Candidate]) -> pd.DataFrame:
    """Rows of the best candidate's dataset where it has enough cells, otherwise of the dataset with the most."""
    sizes = rows.groupby([keys.ATLAS, keys.DATASET], sort=True)[N_CELLS].sum()
    best = (candidates[0].prompt.atlas, candidates[0].prompt.dataset) if candidates else None
    chosen = min(sizes.index, key=lambda pair: (not (pair == best and sizes[pair] >= _ENOUGH), -int(sizes[pair]), pair))
    here = rows[(rows[keys.ATLAS] == chosen[0]) & (rows[keys.DATASET] == chosen[1])]
    mapped = here[keys.CELL_TYPE_ID] != ""
    return here[mapped] if mapped.any() else here  # a cell set selects by id or by label, not by both
