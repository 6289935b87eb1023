"""The target of a question, and the donors that can stand in for what the target lacks.

In: a query and the view. Out: rows of the target, the source type of an imputation, and reference rows and donors.
The design is the table of :mod:`haystack_kernel.retrieval.cells.matched_control`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.knowledge import ancestors
from haystack_kernel.retrieval.names import in_dataset, match_donors, nearest, need_dataset, need_donors, of_term
from haystack_kernel.retrieval.similarity.cell_types import asked_labels, steps_between, subtypes
from haystack_kernel.retrieval.similarity.donors import agreement, donor_similarity, target_facts
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY, has_donor, type_label

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery

_FAR = 99  # sorts behind every ontology distance
_ENOUGH = 20  # reference cells; once there are so many, less similar donors are left out


@dataclass(frozen=True)
class Source:
    """The cell type that an imputation starts from: ``key`` is its CL id or label."""

    key: str
    label: str


@dataclass(frozen=True)
class Reference:
    """Donors in whom the cell type asked for is measured, all of one dataset."""

    atlas: str
    dataset: str
    donors: tuple[str, ...]


def is_donor_prediction(query: StructuredQuery) -> bool:
    """Whether the question asks for a cell type of a donor, to be predicted from the donor's other cells."""
    return query.task_type == "donor_expression_prediction"


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
    if query.tissue_id and not query.donor_id:
        elsewhere = ~of_term(query.tissue_id, rows[keys.TISSUE_ID], knowledge=view.knowledge)
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
    donors the most similar in tissue, disease, age and sex are taken, as many as hold 20 cells together.
    """
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
