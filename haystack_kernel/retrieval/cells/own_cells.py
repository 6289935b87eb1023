"""The user's own cells as query cells.

In: an h5ad, local or in a bucket, and the question. Out: the cells that fit the question, with the same columns as
cells from an atlas, and notes about the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.retrieval.cells.own_choice import choose_own_cells
from haystack_kernel.retrieval.query_check import check_cells
from haystack_kernel.schema import OWN_ATLAS
from haystack_kernel.store import dataset_name, shown_name
from inference.manifest import MODEL_ENGINE
from inference.preflight import COVERAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.retrieval.cells.own_choice import OwnChoice
    from haystack_kernel.retrieval.query_check import QueryCheck
    from haystack_kernel.schema import Candidate, RunConfig, StructuredQuery

_ALIASES = {  # other common names of a required column, tried in order
    keys.CELL_TYPE_ORIGINAL: ("cell_type", "celltype"),
    keys.CELL_TYPE_ID: ("cell_type_ontology_term_id",),
    keys.CELL_TYPE: ("cell_type", "celltype"),
    keys.TISSUE_ORIGINAL: ("tissue",),
    keys.TISSUE_ID: ("tissue_ontology_term_id",),
    keys.TISSUE: ("tissue",),
    keys.DONOR: ("donor", "sample_id"),
    keys.DONOR_AGE: ("development_stage",),
    keys.DONOR_SEX: ("sex",),
    keys.DISEASE_ID: ("disease_ontology_term_id",),
    keys.DISEASE: ("disease",),
    keys.CONDITION: ("condition",),
}


@dataclass(frozen=True, eq=False)
class OwnCells:
    """The user's own cells that fit the question, notes about their file, how they were chosen, and its check."""

    adata: ad.AnnData
    notes: tuple[str, ...]
    choice: OwnChoice
    check: QueryCheck

    def __repr__(self) -> str:
        return f"{self.check!r}\nquery cells: {self.choice.summary}"


def read_own_cells(
    config: RunConfig, *, query: StructuredQuery, knowledge: Knowledge, candidates: Sequence[Candidate] = ()
) -> OwnCells:
    """Read the user's own cells, and keep those that the question is about.

    Parameters
    ----------
    config
        Names the file and the user's criteria.
    query, knowledge
        What is asked for, and the tables that labels are resolved with.
    candidates
        Those of the round; an imputation starts from the cell type of their control cells.

    Returns
    -------
    The cells with the columns of cells from an atlas; what was left out is in ``choice``.

    Raises
    ------
    InvalidInputError
        No file is named, it cannot hold query cells, or it holds none that the question is about.

    Examples
    --------
    >>> read_own_cells(config, query=query, knowledge=knowledge).choice.source  # doctest: +SKIP
    '17 of 256 cells of mine.h5ad'
    """
    if config.query_h5ad is None:
        msg = "no query cells: give a query cell set, or your own cells as query_h5ad"
        raise InvalidInputError(msg)
    genelist = config.genelist if config.engine == MODEL_ENGINE else None
    found = check_cells(config.query_h5ad, genelist=genelist)
    found.require()
    choice = choose_own_cells(
        found.adata.obs,
        name=shown_name(config.query_h5ad),
        query=query,
        knowledge=knowledge,
        criteria=config.query_cells,
        source_types=tuple({one for item in candidates if item.control for one in item.control.cell_type_ids}),
    )
    adata = with_columns(found, dataset=dataset_name(found.uri))
    if not adata.obs[keys.CELL_TYPE].astype(bool).any():  # the types stand in a column of another name
        adata.obs[keys.CELL_TYPE] = choice.labels.to_numpy()
    return OwnCells(adata[choice.keep.to_numpy()].copy(), _notes_about(found, genelist=genelist), choice, found)


def with_columns(found: QueryCheck, *, dataset: str) -> ad.AnnData:
    """All cells of a file; a required column that it lacks is taken from one of another name, or left empty.

    Parameters
    ----------
    found
        The check of the file.
    dataset
        Name of the data set where the file does not say.

    Returns
    -------
    Raw counts with the columns of cells from an atlas.
    """
    import anndata as ad

    checked = found.require()
    obs = found.adata.obs.copy()
    obs.index = obs.index.astype(str)
    obs.index.name = keys.CELL_ID
    known: dict[str, Any] = {
        keys.CELL_INDEX: np.arange(len(obs)),
        keys.DATASET: dataset,
        keys.ATLAS: OWN_ATLAS,
        keys.IS_CONTROL: True,
        keys.N_GENES: np.diff(checked.counts.indptr).astype(np.int32),
        keys.TOTAL_COUNTS: np.asarray(checked.counts.sum(axis=1)).ravel().astype(np.float32),
    }
    for column in (*keys.CELL_COLUMNS, keys.ATLAS):
        if column in known:
            obs[column] = obs[column] if column in obs.columns else known[column]
            continue
        given = found.adata.obs.columns
        source = next((name for name in (column, *_ALIASES.get(column, ())) if name in given), None)
        if source is None:
            obs[column] = ""
        else:
            obs[column] = obs[source].astype(object).where(obs[source].notna(), "").astype(str)
    return ad.AnnData(X=checked.counts, obs=obs, var=pd.DataFrame(index=list(checked.genes)))


def _notes_about(found: QueryCheck, *, genelist: str | None) -> tuple[str, ...]:
    notes = list(found.require().notes)
    if genelist is not None:
        covered = next(one.detail for one in found.preflight.answers if one.question == COVERAGE)
        notes.append(f"{COVERAGE}: {covered}")
    return tuple(notes)
