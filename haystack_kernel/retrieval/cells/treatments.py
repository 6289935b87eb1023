"""Cells of other treatments in the cell types of prompt and query, with their control cells, for engines that use them.

In: the cells of a round, what was asked. Out: raw counts, told apart by ``perturbation_name`` and ``is_control``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.assemble import spell_genes_as
from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells
from haystack_kernel.retrieval.same_treatment import names_treatment
from haystack_kernel.retrieval.view import CANONICAL, TYPE_KEY, build_view
from haystack_kernel.schema import CellSet, RetrievalSettings

if TYPE_CHECKING:
    from collections.abc import Collection

    import anndata as ad

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.retrieval.cells.assemble import CellsByRole
    from haystack_kernel.schema import RunConfig

MIN_TREATMENTS = 5  # besides the one asked for
MOST_CELLS = 6000  # treated cells in all
PER_GROUP = 40  # of one treatment in one cell type
CONTROLS_PER_TYPE = 300


def fetch_treatments(
    cells: CellsByRole, *, asked: Collection[str], atlas: Atlas, knowledge: Knowledge, config: RunConfig
) -> ad.AnnData | None:
    """Fetch cells of the prompt's dataset under treatments that were not asked for.

    Parameters
    ----------
    cells
        Of the round: their dataset and cell types are taken.
    asked
        Names of the treatment; no cell that may have had it is fetched, and none of the prompt's treatment.
    atlas, knowledge, config
        Where the cells are, what treatments mean, hidden pairs and the seed of the sample.

    Returns
    -------
    At most 40 cells of each treatment and type, and 300 control cells of each type; None where the dataset does not
    hold five other treatments.

    Examples
    --------
    >>> fetch_treatments(cells, asked=["IFN-beta"], atlas=atlas, knowledge=knowledge, config=config)  # doctest: +SKIP
    """
    prompt = cells.prompt_cells.obs
    place = tuple(prompt[[keys.ATLAS, keys.DATASET]].value_counts().index[0])
    types = {key for one in (prompt, cells.query_cells.obs) for key in type_keys(one)}
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=config)
    table = view.conditions
    here = (table[keys.ATLAS] == place[0]) & (table[keys.DATASET] == place[1]) & table[TYPE_KEY].isin(types)
    treated = table[here & ~table[keys.IS_CONTROL]]
    names = {*asked, *prompt[keys.PERTURBATION].astype(str)} - {""}
    stored = {*treated[keys.PERTURBATION], *treated[CANONICAL]}
    same = {one for one in stored if any(names_treatment(one, name, knowledge=knowledge) for name in names)}
    treated = treated[~treated[keys.PERTURBATION].isin(same) & ~treated[CANONICAL].isin(same)]
    if treated[keys.PERTURBATION].nunique() < MIN_TREATMENTS:
        return None
    groups = set(treated[[TYPE_KEY, keys.PERTURBATION]].itertuples(index=False, name=None))
    n = max(1, min(PER_GROUP, MOST_CELLS // len(groups)))
    rng = make_rng(config.seed, role="treatments")
    chosen = [
        sample_cells(rows, n=n, rng=rng)
        for group, rows in _by_group(atlas, table[here], place, is_control=False)
        if group in groups
    ]
    chosen += [
        sample_cells(rows, n=CONTROLS_PER_TYPE, rng=rng)
        for _, rows in _by_group(atlas, table[here], place, is_control=True)
    ]
    if not chosen:
        return None
    adata = atlas.fetch(pd.concat(chosen).sort_values(keys.CELL_ID, kind="stable", ignore_index=True))
    spell_genes_as(cells.query_cells, adata)
    return adata


def type_keys(cells: pd.DataFrame) -> set[str]:
    """CL ids of the cells' types; the label of a type without one."""
    pairs = cells[[keys.CELL_TYPE_ID, keys.CELL_TYPE]].astype(object)
    pairs = pairs.where(pairs.notna(), "").astype(str).drop_duplicates()
    return {cl_id or label for cl_id, label in pairs.itertuples(index=False, name=None)}


def _by_group(
    atlas: Atlas, conditions: pd.DataFrame, place: tuple[str, str], *, is_control: bool
) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Cells of each type and treatment (of each type for control cells) among the conditions' types."""
    found = []
    rows = conditions[conditions[keys.IS_CONTROL] == is_control]
    has_id = rows[keys.CELL_TYPE_ID] != ""
    for field, values in (
        ("cell_type_ids", rows.loc[has_id, keys.CELL_TYPE_ID]),
        ("cell_type_names", rows.loc[~has_id, keys.CELL_TYPE]),
    ):
        if values.empty:
            continue
        wanted = CellSet(atlas=place[0], dataset=place[1], is_control=is_control)
        cells = atlas.select(wanted.model_copy(update={field: tuple(sorted(set(values)))}))
        if field == "cell_type_names":
            cells = cells[cells[keys.CELL_TYPE_ID].fillna("") == ""]
        column = keys.CELL_TYPE_ID if field == "cell_type_ids" else keys.CELL_TYPE
        by = [column] if is_control else [column, keys.PERTURBATION]
        for key, group in cells.groupby(by, sort=True, observed=True):
            found.append(((str(key[0]), "" if is_control else str(key[1])), group))
    return found
