"""Questions without a treatment: which donors lack what, and which cells can stand in.

In: a query and the view. Out: target rows, source type, reference donors, and the candidates built on them; the
design is the table of :mod:`haystack_kernel.retrieval.control`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.knowledge import ancestors
from haystack_kernel.retrieval.control import ControlMatch, match_control, match_reference
from haystack_kernel.retrieval.donors import match_donors, need_donors
from haystack_kernel.retrieval.nearness import asked_labels, asked_type, find_nearness, steps_between, subtypes
from haystack_kernel.retrieval.proposal import Evidence, build_candidate
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY, cells_of, groups, has_donor, type_label

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import Candidate, Strategy, StructuredQuery

_FAR = 99  # sorts behind every ontology distance
_OTHER_DATASET = 0.9  # donor prediction: the difference then holds a batch effect as well


@dataclass(frozen=True)
class Source:
    """The cell type that an imputation starts from: ``key`` is its CL id or label."""

    key: str
    label: str


@dataclass(frozen=True)
class Reference:
    """Donors in whom the asked cell type is measured, all of one dataset."""

    atlas: str
    dataset: str
    donors: tuple[str, ...]


def is_donor_prediction(query: StructuredQuery) -> bool:
    """Whether the question is how a cell type looks in a donor, told from the donor's other cells."""
    return query.task_type == "donor_expression_prediction"


# --- what the question is about -----------------------------------------------------------------------------------


def target_rows(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Unperturbed rows of the donor, tissue, dataset (and where possible disease) the question is about.

    Raises
    ------
    NoCandidateError
        The atlases hold no such donor, tissue or dataset.
    """
    rows = view.controls
    if view.config.query_atlas is not None:
        rows = rows[rows[keys.ATLAS] == view.config.query_atlas]
    if query.target_dataset:
        rows = _need(
            rows,
            rows[keys.DATASET].str.casefold() == query.target_dataset.casefold(),
            keys.DATASET,
            query.target_dataset,
        )
    if query.donor_id:
        rows = rows[rows[keys.DONOR].isin(need_donors(query.donor_id, rows))]
    if query.tissue_id:
        rows = _need(rows, rows[keys.TISSUE_ID] == query.tissue_id, keys.TISSUE, query.tissue_name or query.tissue_id)
    diseased = rows[keys.DISEASE_ID] == query.disease_id
    return rows[diseased] if diseased.any() else rows


def reference_rows(query: StructuredQuery, view: AtlasView, *, wanted: pd.Series) -> pd.DataFrame:
    """Unperturbed rows where ``wanted`` (boolean, over ``view.controls``) holds, outside the target."""
    rows = view.controls[wanted]
    if query.donor_id:
        rows = rows[~rows[keys.DONOR].isin(match_donors(query.donor_id, rows))]
    if query.target_dataset:
        rows = rows[rows[keys.DATASET].str.casefold() != query.target_dataset.casefold()]
    if query.tissue_id and not query.donor_id:
        elsewhere = rows[keys.TISSUE_ID] != query.tissue_id
        rows = rows[elsewhere] if elsewhere.any() else rows
    if query.reference_donor:
        named = rows[keys.DONOR].isin(match_donors(query.reference_donor, rows))
        rows = rows[named] if named.any() else rows
    if query.reference_dataset:
        named = rows[keys.DATASET].str.casefold() == query.reference_dataset.casefold()
        rows = rows[named] if named.any() else rows
    return rows


def is_asked_type(rows: pd.DataFrame, *, query: StructuredQuery, view: AtlasView) -> pd.Series:
    """Rows of the cell type asked for: by id, by label where there is no id, or a subtype."""
    ids = {query.cell_type_id, *subtypes(query.cell_type_id, knowledge=view.knowledge)} - {None}
    by_label = (rows[keys.CELL_TYPE_ID] == "") & rows[keys.CELL_TYPE].str.casefold().isin(asked_labels(query))
    return rows[keys.CELL_TYPE_ID].isin(ids) | by_label


def other_types(rows: pd.DataFrame, *, query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Rows that cannot hold the cell type asked for: neither it, nor a subtype, nor a type above it."""
    known = query.cell_type_id in view.knowledge.cell_types
    above = ancestors(query.cell_type_id, knowledge=view.knowledge) if known and query.cell_type_id else frozenset()
    return rows[~is_asked_type(rows, query=query, view=view) & ~rows[keys.CELL_TYPE_ID].isin(above)]


def choose_source(query: StructuredQuery, view: AtlasView) -> Source | None:
    """Cell type of the target that an imputation transforms, or None where the target has no other type.

    Types that reference donors hold beside the asked one come first (their shift can be measured), then the nearest
    in the ontology, then the most cells.
    """
    there = other_types(target_rows(query, view), query=query, view=view)
    controls = view.controls
    asked = reference_rows(query, view, wanted=is_asked_type(controls, query=query, view=view))
    beside = set(controls.loc[controls[keys.DONOR].isin(asked[keys.DONOR]), TYPE_KEY])
    ranked = []
    for key, rows in there.groupby(TYPE_KEY, sort=True):
        n_cells = int(rows[N_CELLS].sum())
        steps = steps_between(query.cell_type_id, rows[keys.CELL_TYPE_ID].iloc[0], knowledge=view.knowledge)
        if n_cells >= view.settings.min_cells:
            ranked.append((key not in beside, _FAR if steps is None else steps, -n_cells, str(key), type_label(rows)))
    return Source(*min(ranked)[3:]) if ranked else None


def find_reference(query: StructuredQuery, view: AtlasView) -> Reference | None:
    """Donors other than the target who have the asked cell type: in the target's dataset, else in the fullest one."""
    controls = view.controls
    rows = reference_rows(query, view, wanted=is_asked_type(controls, query=query, view=view))
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
    return Reference(atlas, dataset, tuple(sorted(chosen[keys.DONOR].unique())))


# --- candidates ---------------------------------------------------------------------------------------------------


def imputation_candidates(query: StructuredQuery, view: AtlasView) -> list[Candidate]:
    """Candidates of the asked cell type in donors, tissues or datasets other than the target."""
    rows = reference_rows(query, view, wanted=is_asked_type(view.controls, query=query, view=view))
    source = choose_source(query, view)
    found = []
    for group in _large_enough(rows, view=view):
        near = find_nearness(query, group, knowledge=view.knowledge)
        words = f"{near.words}, measured outside the target"
        found.append(
            _impute(
                group,
                Evidence("direct", near.relevance, "same_cell_type", words),
                source=source,
                query=query,
                view=view,
            )
        )
    return found


def nearby_candidates(query: StructuredQuery, view: AtlasView, *, steps: dict[str, int]) -> list[Candidate]:
    """Imputation by cell types of ``steps`` (CL id -> ontology distance) where the asked one itself may be missing."""
    source = choose_source(query, view)
    controls = view.controls
    wanted = controls[keys.CELL_TYPE_ID].isin(steps) & ~is_asked_type(controls, query=query, view=view)
    rows = reference_rows(query, view, wanted=wanted)
    rows = rows[rows[TYPE_KEY] != source.key] if source else rows
    found = []
    for group in _large_enough(rows, view=view):
        away = steps[group[keys.CELL_TYPE_ID].iloc[0]]
        evidence = Evidence("ontology", 1 / (away + 1), "other_cell_type", _steps_words(away, query))
        found.append(_impute(group, evidence, source=source, query=query, view=view))
    return found


def donor_candidates(
    query: StructuredQuery, view: AtlasView, *, steps: dict[str, int] | None = None
) -> list[Candidate]:
    """Candidates of the target donor's other cell types; with ``steps`` only of these, by ontology distance.

    Raises
    ------
    NoCandidateError
        The question names no donor, or one that no atlas holds.
    """
    if not query.donor_id:
        msg = "this question predicts the cells of a donor, but names none; name a donor that the atlases hold"
        raise NoCandidateError(msg)
    own = view.controls[view.controls[keys.DONOR].isin(need_donors(query.donor_id, view.controls))]
    reference = find_reference(query, view)
    found = []
    for group in _large_enough(other_types(own, query=query, view=view), view=view):
        away = None if steps is None else steps.get(group[keys.CELL_TYPE_ID].iloc[0])
        if steps is not None and away is None:
            continue
        evidence = _donor_evidence(group, away=away, reference=reference, query=query, view=view)
        found.append(build_candidate(_match_donor(group, reference=reference, query=query, view=view), evidence))
    return found


def _large_enough(rows: pd.DataFrame, *, view: AtlasView) -> list[pd.DataFrame]:
    return [group for group in groups(rows) if int(group[N_CELLS].sum()) >= view.settings.min_cells]


def _impute(
    group: pd.DataFrame, evidence: Evidence, *, source: Source | None, query: StructuredQuery, view: AtlasView
) -> Candidate:
    if source is None:
        reason = f"no control: the target holds no cell type other than {asked_type(query)} to start from"
        return build_candidate(ControlMatch(group, None, reason), evidence)
    match = match_control(group, controls=view.controls, type_key=source.key, min_cells=view.settings.min_cells)
    by_tissue = bool(query.tissue_id) and not query.donor_id and bool((group[keys.TISSUE_ID] != query.tissue_id).all())
    return build_candidate(match, evidence, by_tissue=by_tissue)


def _donor_evidence(
    group: pd.DataFrame, *, away: int | None, reference: Reference | None, query: StructuredQuery, view: AtlasView
) -> Evidence:
    near = find_nearness(query, group, knowledge=view.knowledge)
    strategy: Strategy = "direct" if away is None else "ontology"
    relevance = near.relevance if away is None else 1 / (away + 1)
    words = f"the target donor's own cells, {near.words}"
    dataset = group[keys.DATASET].iloc[0]
    if reference is not None and (reference.atlas, reference.dataset) != (group[keys.ATLAS].iloc[0], dataset):
        relevance, words = relevance * _OTHER_DATASET, f"{words}; in another dataset than the reference donors"
    return Evidence(strategy, relevance, "other_cell_type", words)


def _match_donor(
    group: pd.DataFrame, *, reference: Reference | None, query: StructuredQuery, view: AtlasView
) -> ControlMatch:
    if reference is None:
        return ControlMatch(group, None, f"no control: no other donor has {cells_of(asked_type(query))}")
    return match_reference(
        group,
        controls=view.controls,
        dataset=(reference.atlas, reference.dataset),
        donors=reference.donors,
        min_cells=view.settings.min_cells,
    )


def _steps_words(away: int, query: StructuredQuery) -> str:
    return f"a cell type {away} {'step' if away == 1 else 'steps'} from {asked_type(query)} in the cell ontology"


def _need(rows: pd.DataFrame, wanted: pd.Series, column: str, text: str) -> pd.DataFrame:
    if wanted.any():
        return rows[wanted]
    what = "dataset" if column == keys.DATASET else "tissue"
    held = sorted({value for value in rows[column] if value})
    msg = (
        f"the atlases hold no unperturbed cells of {what} {text!r}; they hold {', '.join(held[:20]) or 'none'}. "
        "Ask about one of these, or add an atlas with `haystack atlas build`."
    )
    raise NoCandidateError(msg, held=held)
