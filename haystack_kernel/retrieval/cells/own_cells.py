"""The user's own cells as query cells.

In: an h5ad, local or in a bucket. Out: cells with the same columns as cells from an atlas, and notes about the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.query_check import check_query_h5ad
from inference.preflight import COVERAGE

if TYPE_CHECKING:
    import anndata as ad

OWN = "own"
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


def read_query_h5ad(uri: str, *, genelist: str | None = None) -> tuple[ad.AnnData, tuple[str, ...]]:
    """Read and check the user's own query cells.

    Parameters
    ----------
    uri
        Path or fsspec address of an h5ad with raw human counts in X, raw or ``layers["counts"]``.
    genelist
        Gene list of the model that will predict, where there is one.

    Returns
    -------
    The cells and notes about the file. X holds raw counts (float32 CSR), the var index gene symbols; obs index and
    columns are as given, with required columns added where they are absent and missing text empty.

    Raises
    ------
    NotFoundError
        There is no such file.
    StorageError
        The file may not be read.
    InvalidInputError
        The file is no readable h5ad, holds no raw human counts, or has none of the model's genes. The message says what
        was found and how to fix it.

    Examples
    --------
    >>> query_cells, notes = read_query_h5ad("my_cells.h5ad")  # doctest: +SKIP
    >>> notes  # doctest: +SKIP
    ("my_cells.h5ad: raw counts taken from layers['counts'], X holds other values",)
    """
    import anndata as ad

    found = check_query_h5ad(uri, genelist=genelist)
    checked = found.require()
    obs = found.adata.obs.copy()
    obs.index = obs.index.astype(str)
    obs.index.name = keys.CELL_ID
    known: dict[str, Any] = {
        keys.CELL_INDEX: np.arange(len(obs)),
        keys.DATASET: Path(uri).stem,
        keys.ATLAS: OWN,
        keys.IS_CONTROL: True,
        keys.N_GENES: np.diff(checked.counts.indptr).astype(np.int32),
        keys.TOTAL_COUNTS: np.asarray(checked.counts.sum(axis=1)).ravel().astype(np.float32),
    }
    # A required column that the file lacks is taken from a column of another common name, or left empty.
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
    adata = ad.AnnData(X=checked.counts, obs=obs, var=pd.DataFrame(index=list(checked.genes)))
    notes = list(checked.notes)
    if genelist is not None:
        covered = next(one.detail for one in found.preflight.answers if one.question == COVERAGE)
        notes.append(f"{COVERAGE}: {covered}")
    return adata, tuple(notes)
