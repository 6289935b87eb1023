"""Reference cells of an observational question: measured cells of the same and other types, donors and tissues.

In: a query and the atlas. Out: raw counts of unperturbed cells of one dataset, each with the marks that grounding
needs. The cells asked for are never among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells
from haystack_kernel.retrieval.names import match_donors, of_term
from haystack_kernel.retrieval.target import (
    is_asked_type,
    is_healthy,
    is_patient,
    measured_outside,
    other_types,
    target_rows,
)
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY, build_view, cell_set
from haystack_kernel.schema import RetrievalSettings

if TYPE_CHECKING:
    import anndata as ad

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import CellSet, RunConfig, StructuredQuery

MAX_TYPES = 30
PER_TYPE = 100  # cells of a type outside the target, and at most half of that inside it
_ENOUGH = 20  # cells of the type asked for, with which the dataset of the query cells is preferred


def fetch_reference(
    query: StructuredQuery,
    *,
    atlas: Atlas,
    knowledge: Knowledge,
    query_set: CellSet | None,
    config: RunConfig,
) -> ad.AnnData | None:
    """Fetch unperturbed cells of up to 30 cell types, at most 100 of each, and mark them.

    Parameters
    ----------
    query
        The cell type asked for, with its donor or tissue.
    atlas, knowledge, config
        Where the cells are, the cell ontology, and the seed of the sample.
    query_set
        Its dataset is preferred, because other datasets differ by batch. With None, the dataset of the donor asked for
        is preferred.

    Returns
    -------
    Cells of one dataset with obs ``kinship`` ("asked": the cell type asked for or a subtype; "related": a broader
    label that may contain it; "other"), ``is_target_donor`` and ``is_target_tissue``. Cells of the asked or a related
    type inside the target (donor, tissue or dataset) are left out, because they are the answer. None where no dataset
    has a cell of the asked type outside the target.

    Examples
    --------
    >>> reference = fetch_reference(query, atlas=atlas, knowledge=knowledge, query_set=chosen, config=config)
    ... # doctest: +SKIP
    >>> reference.obs["kinship"].value_counts().to_dict()  # doctest: +SKIP
    {'other': 900, 'asked': 150}
    """
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=config)
    rows = _marked(query, view)
    asked = rows[rows[keys.KINSHIP] == "asked"]
    held = asked.groupby([keys.ATLAS, keys.DATASET], sort=True)[N_CELLS].sum()
    if not len(held):
        return None
    own = rows[rows[keys.IS_TARGET_DONOR]]
    homes = set(zip(own[keys.ATLAS], own[keys.DATASET], strict=True))
    if query_set is not None:
        homes = {(query_set.atlas, query_set.dataset)}
    best = min(held.index, key=lambda one: (not (one in homes and held[one] >= _ENOUGH), -int(held[one]), one))
    here = rows[(rows[keys.ATLAS] == best[0]) & (rows[keys.DATASET] == best[1])]
    sizes = here.groupby([keys.KINSHIP, TYPE_KEY], sort=True)[N_CELLS].sum()
    ranked = sorted(sizes.index, key=lambda one: (one[0] != "asked", -int(sizes[one]), one))[:MAX_TYPES]
    parts: list[pd.DataFrame] = []
    for kinship, type_key in ranked:
        of_type = here[(here[keys.KINSHIP] == kinship) & (here[TYPE_KEY] == type_key)]
        # Inside and outside the target are sampled separately, so that both sides of a contrast have cells.
        for (donor, tissue), group in of_type.groupby([keys.IS_TARGET_DONOR, keys.IS_TARGET_TISSUE], sort=True):
            by_tissue = bool((group[keys.TISSUE_ID] != "").all())
            n = PER_TYPE // 2 if donor or tissue else PER_TYPE
            rng = make_rng(config.seed, role=f"reference/{type_key}")
            table = sample_cells(atlas.select(cell_set(group, by_tissue=by_tissue)), n=n, rng=rng)
            marks = {keys.KINSHIP: kinship, keys.IS_TARGET_DONOR: donor, keys.IS_TARGET_TISSUE: tissue}
            parts.append(table.assign(**marks))
    cells = pd.concat(parts).drop_duplicates(keys.CELL_ID).sort_values(keys.CELL_ID, kind="stable")
    return atlas.fetch(cells.reset_index(drop=True))


def _marked(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Unperturbed conditions with the three marks, without those that may be the answer."""
    rows = view.controls.copy()
    asked = is_asked_type(rows, query=query, view=view)
    other = pd.Series(rows.index.isin(other_types(rows, query=query, view=view).index), index=rows.index)
    rows[keys.KINSHIP] = "related"
    rows.loc[other, keys.KINSHIP] = "other"
    rows.loc[asked, keys.KINSHIP] = "asked"
    donors = match_donors(query.donor_id, rows) if query.donor_id else ()
    patients = is_patient(query, rows, view=view)
    rows[keys.IS_TARGET_DONOR] = patients if query.compared_disease else rows[keys.DONOR].isin(donors)
    rows[keys.IS_TARGET_TISSUE] = of_term(query.tissue_id, rows[keys.TISSUE_ID], knowledge=view.knowledge)
    if query.compared_disease:
        return rows[(patients & other) | is_healthy(rows)]
    if not (query.donor_id or query.tissue_id or query.target_dataset):
        is_answer = patients & ~other
        return rows[~is_answer] if (asked & ~patients).any() else rows
    answer = rows.index.isin(target_rows(query, view).index) & ~other
    if query.donor_id or query.target_dataset:  # cells of the donor are the answer in any tissue
        answer |= ~rows.index.isin(measured_outside(query, view).index) & ~other
    return rows[~answer]
