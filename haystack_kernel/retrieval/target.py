"""The target of a question, and the donors that can stand in for what the target lacks.

In: a query and the view. Out: rows of the target, the source type of an imputation, and reference rows and donors.
The design is the table of :mod:`haystack_kernel.retrieval.cells.matched_control`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.knowledge import ancestors
from haystack_kernel.knowledge.terms import NORMAL
from haystack_kernel.retrieval.names import in_dataset, match_donors, nearest, need_dataset, need_donors, of_term
from haystack_kernel.retrieval.similarity.cell_types import asked_labels, steps_between, subtypes
from haystack_kernel.retrieval.similarity.donors import agreement, donor_similarity, target_facts
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY, has_donor, type_label

if TYPE_CHECKING:
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery

_SHOWN = 6
_FAR = 99  # sorts behind every ontology distance
_HEALTHY = frozenset({"normal", "healthy", "control"})  # names of a disease where it has no id
_ENOUGH = 20  # reference cells; once there are so many, less similar donors are left out


@dataclass(frozen=True)
class Source:
    """The cell type that an imputation starts from: ``key`` is its CL id or label."""

    key: str
    label: str


@dataclass(frozen=True)
class Reference:
    """Donors in whom the cell type asked for is measured, all of one dataset; healthy ones where a disease is asked."""

    atlas: str
    dataset: str
    donors: tuple[str, ...]


def is_donor_prediction(query: StructuredQuery) -> bool:
    """Whether the question asks for a cell type of a donor, to be predicted from the donor's other cells.

    The donor may be all patients with a disease, who are compared with healthy donors.
    """
    return query.task_type == "donor_expression_prediction"


def is_healthy(rows: pd.DataFrame) -> pd.Series:
    """Whether each row is recorded as free of disease; a row without a disease is not recorded as anything."""
    named = rows[keys.DISEASE].str.casefold().isin(_HEALTHY) & (rows[keys.DISEASE_ID] == "")
    return (rows[keys.DISEASE_ID] == NORMAL) | named


def is_patient(query: StructuredQuery, rows: pd.DataFrame, *, view: AtlasView) -> pd.Series:
    """Whether each row is of the disease asked about, or of a kind of it."""
    return of_term(query.disease_id, rows[keys.DISEASE_ID], knowledge=view.knowledge)


def own_rows(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Unperturbed rows of the donor asked about, or of the patients whose disease is asked about.

    Patients count in data sets that hold healthy donors of the tissue, too, because the difference between two data
    sets would pass for that of the disease.

    Raises
    ------
    NoCandidateError
        The question names neither a donor nor a disease, or the atlases do not hold what it takes; the message says
        what they hold.
    """
    return view.once("own rows", query, lambda: _own_rows(query, view))


def _own_rows(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    if query.donor_id:
        return view.controls[view.controls[keys.DONOR].isin(need_donors(query.donor_id, view.controls))]
    if not query.disease_id:
        msg = "this question asks for the cells of a donor, but names none; name a donor that the atlases hold"
        raise NoCandidateError(msg)
    rows = _compared_rows(query, view)
    patients, healthy = rows[is_patient(query, rows, view=view)], rows[is_healthy(rows)]
    sets = set(zip(healthy[keys.ATLAS], healthy[keys.DATASET], strict=True))
    shared = pd.Series([pair in sets for pair in zip(patients[keys.ATLAS], patients[keys.DATASET], strict=True)])
    if not shared.any():
        raise NoCandidateError(
            _not_comparable(query, rows, patients=patients, healthy=healthy), disease=query.disease_id
        )
    return patients[shared.to_numpy(bool)]


def _compared_rows(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Unperturbed rows of the tissue that the question names, of donors that are recorded."""
    rows = view.controls
    if query.tissue_id:
        rows = _of_tissue(rows, query=query, view=view)
    return rows[has_donor(rows)]


def _not_comparable(
    query: StructuredQuery, rows: pd.DataFrame, *, patients: pd.DataFrame, healthy: pd.DataFrame
) -> str:
    """Why no data set compares patients with healthy donors, and which diseases could be asked about."""
    name = query.disease_name or query.disease_id

    def where(some: pd.DataFrame) -> str:
        return ", ".join(sorted(set(some[keys.DATASET]))[:_SHOWN]) or "no data set"

    both = []
    for dataset, held in rows.groupby([keys.ATLAS, keys.DATASET], sort=True):
        diseases = set(held.loc[~is_healthy(held) & (held[keys.DISEASE] != ""), keys.DISEASE])
        if diseases and is_healthy(held).any():
            both += [f"{one} in {dataset[1]}" for one in sorted(diseases)]
    possible = f"compared could be: {nearest(str(name), both)}" if both else "no data set there records both"
    return (
        f"a comparison of patients with {name} and healthy donors needs one data set that records both: patients are "
        f"in {where(patients)}, donors recorded as healthy in {where(healthy)}; {possible}. Ask about one of these, or "
        f"what the cells look like in {name}, or add such a data set with `haystack atlas build`."
    )


def target_rows(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Unperturbed rows of the donor, tissue, dataset (and where possible disease) the question is about.

    Raises
    ------
    NoCandidateError
        The atlases hold no such donor, tissue or dataset.
    """
    return view.once("target rows", query, lambda: _target_rows(query, view))


def _target_rows(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    rows = view.controls
    if view.config.query_atlas is not None:
        rows = rows[rows[keys.ATLAS] == view.config.query_atlas]
    if query.target_dataset:
        rows = rows[need_dataset(query.target_dataset, rows)]
    if query.donor_id:
        rows = rows[rows[keys.DONOR].isin(need_donors(query.donor_id, rows))]
    if query.tissue_id:
        rows = _of_tissue(rows, query=query, view=view)
    diseased = of_term(query.disease_id, rows[keys.DISEASE_ID], knowledge=view.knowledge)
    return rows[diseased] if diseased.any() else rows


def reference_rows(query: StructuredQuery, view: AtlasView, *, wanted: pd.Series) -> pd.DataFrame:
    """Unperturbed rows where ``wanted`` (boolean, over ``view.controls``) holds, outside the target."""
    rows = measured_outside(query, view)
    rows = rows[wanted[rows.index]]
    places = ((query.tissue_id, keys.TISSUE_ID), (query.disease_id, keys.DISEASE_ID))
    for term, column in places:  # the cells there would be the answer
        if term and not query.donor_id:
            elsewhere = ~of_term(term, rows[column], knowledge=view.knowledge)
            rows = rows[elsewhere] if elsewhere.any() else rows
    if query.reference_donor:
        rows = rows[rows[keys.DONOR].isin(match_donors(query.reference_donor, rows))]
    if query.reference_dataset:
        rows = rows[in_dataset(query.reference_dataset, rows)]
    return rows


def measured_outside(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Unperturbed rows outside the target's donor and dataset, because the target's own cells would be the answer."""
    return view.once("measured outside", query, lambda: _measured_outside(query, view))


def _measured_outside(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    rows = view.controls
    if query.donor_id:
        rows = rows[~rows[keys.DONOR].isin(match_donors(query.donor_id, rows))]
    if query.target_dataset:
        rows = rows[~in_dataset(query.target_dataset, rows)]
    return rows


def asked_controls(query: StructuredQuery, view: AtlasView) -> pd.Series:
    """Whether each unperturbed row has the cell type asked for."""
    return view.once("asked controls", query, lambda: is_asked_type(view.controls, query=query, view=view))


def is_asked_type(rows: pd.DataFrame, *, query: StructuredQuery, view: AtlasView) -> pd.Series:
    """Whether each row has the cell type asked for: by id, by label where there is no id, or as a subtype."""
    ids = {query.cell_type_id, *subtypes(query.cell_type_id, knowledge=view.knowledge)} - {None}
    labels = asked_labels(query)
    asked = [one for one in rows[keys.CELL_TYPE].unique() if one.casefold() in labels]
    by_label = (rows[keys.CELL_TYPE_ID] == "") & rows[keys.CELL_TYPE].isin(asked)
    return rows[keys.CELL_TYPE_ID].isin(ids) | by_label


def other_types(rows: pd.DataFrame, *, query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Rows that cannot hold the cell type asked for: neither that type, nor a subtype, nor an ancestor of it."""
    above: frozenset[str] = frozenset()
    if query.cell_type_id is not None and query.cell_type_id in view.knowledge.cell_types:
        above = ancestors(query.cell_type_id, knowledge=view.knowledge)
    return rows[~is_asked_type(rows, query=query, view=view) & ~rows[keys.CELL_TYPE_ID].isin(above)]


def choose_source(query: StructuredQuery, view: AtlasView) -> Source | None:
    """Choose the cell type of the target that an imputation transforms; None where the target has no other type.

    Types that reference donors have together with the one asked for come first, because their shift can be measured;
    then the nearest in the ontology; then the type with the most cells.
    """
    return view.once("source", query, lambda: _choose_source(query, view))


def _choose_source(query: StructuredQuery, view: AtlasView) -> Source | None:
    there = other_types(target_rows(query, view), query=query, view=view)
    controls = view.controls
    asked = reference_rows(query, view, wanted=asked_controls(query, view))
    beside = set(controls.loc[controls[keys.DONOR].isin(asked[keys.DONOR]), TYPE_KEY])
    ranked = []
    for key, rows in there.groupby(TYPE_KEY, sort=True):
        n_cells = int(rows[N_CELLS].sum())
        steps = steps_between(query.cell_type_id, rows[keys.CELL_TYPE_ID].iloc[0], knowledge=view.knowledge)
        if n_cells >= view.settings.min_cells:
            ranked.append((key not in beside, _FAR if steps is None else steps, -n_cells, str(key)))
    if not ranked:
        return None
    best = min(ranked)[-1]
    return Source(best, type_label(there[there[TYPE_KEY] == best]))


def find_reference(query: StructuredQuery, view: AtlasView) -> Reference | None:
    """Find donors other than the target who have the cell type asked for.

    They come from the target's dataset or, where that has none, from the dataset with the most such cells. Of these
    donors the most similar in tissue, disease, age and sex are taken, as many as hold 20 cells together. Patients are
    compared with all healthy donors of one data set, whether they have the cell type or not.
    """
    return view.once("reference", query, lambda: _find_reference(query, view))


def _find_reference(query: StructuredQuery, view: AtlasView) -> Reference | None:
    if query.compared_disease:
        return _find_healthy(query, view)
    controls = view.controls
    rows = reference_rows(query, view, wanted=asked_controls(query, view))
    rows = rows[has_donor(rows)]
    if view.config.query_atlas is not None:
        rows = rows[rows[keys.ATLAS] == view.config.query_atlas]
    if rows.empty:
        return None
    own = controls[controls[keys.DONOR].isin(match_donors(query.donor_id or "", controls))]
    home = set(zip(own[keys.ATLAS], own[keys.DATASET], strict=True))
    sizes = rows.groupby([keys.ATLAS, keys.DATASET], sort=True)[N_CELLS].sum()
    atlas, dataset = min(sizes.index, key=lambda pair: (pair not in home, -int(sizes[pair]), pair))
    chosen = rows[(rows[keys.ATLAS] == atlas) & (rows[keys.DATASET] == dataset)]
    similarity = donor_similarity(agreement(chosen, facts=target_facts(query, view)))
    kept = chosen
    for level in sorted(similarity.unique(), reverse=True):
        kept = chosen[similarity >= level]
        if int(kept[N_CELLS].sum()) >= _ENOUGH:
            break
    return Reference(atlas, dataset, tuple(sorted(kept[keys.DONOR].unique())))


def _find_healthy(query: StructuredQuery, view: AtlasView) -> Reference | None:
    """Healthy donors of the data set asked about, or else of the one with the most cells of the type asked for."""
    own, rows = own_rows(query, view), _compared_rows(query, view)
    homes = set(zip(own[keys.ATLAS], own[keys.DATASET], strict=True))
    healthy = rows[is_healthy(rows)]
    asked = healthy[asked_controls(query, view)[healthy.index]]
    if query.target_dataset:
        asked = asked[in_dataset(query.target_dataset, asked)]
    if view.config.query_atlas is not None:
        asked = asked[asked[keys.ATLAS] == view.config.query_atlas]
    sizes = asked.groupby([keys.ATLAS, keys.DATASET], sort=True)[N_CELLS].sum()
    held = [pair for pair in sizes.index if pair in homes]
    if not held:
        return None
    atlas, dataset = min(held, key=lambda pair: (-int(sizes[pair]), pair))
    here = healthy[(healthy[keys.ATLAS] == atlas) & (healthy[keys.DATASET] == dataset)]
    return Reference(atlas, dataset, tuple(sorted(here[keys.DONOR].unique())))


def patients_measured(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Rows of the cell type asked for in patients of the reference's data set: the answer, which no prompt may show."""
    own = own_rows(query, view)
    own = own[asked_controls(query, view)[own.index]]
    reference = find_reference(query, view)
    if reference is None:
        return own.iloc[:0]
    return own[(own[keys.ATLAS] == reference.atlas) & (own[keys.DATASET] == reference.dataset)]


def healthy_rows(query: StructuredQuery, view: AtlasView, *, dataset: tuple[str, str]) -> pd.DataFrame:
    """Unperturbed rows of the healthy donors of one data set, of the tissue that the question names."""
    rows = _compared_rows(query, view)
    rows = rows[is_healthy(rows)]
    return rows[(rows[keys.ATLAS] == dataset[0]) & (rows[keys.DATASET] == dataset[1])]


def _of_tissue(rows: pd.DataFrame, *, query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    wanted, text = of_term(query.tissue_id, rows[keys.TISSUE_ID], knowledge=view.knowledge), str(query.tissue_name)
    if wanted.any():
        return rows[wanted]
    held = sorted({value for value in rows[keys.TISSUE] if value})
    msg = (
        f"the atlases hold no unperturbed cells of tissue {text!r}; they hold {nearest(text, held) or 'none'}. "
        "Ask about one of these, or add an atlas with `haystack atlas build`."
    )
    raise NoCandidateError(msg, held=held)
