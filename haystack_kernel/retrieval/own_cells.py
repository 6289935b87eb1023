"""The user's own cells as query cells.

In: an h5ad, local or in a bucket. Out: the same shape as cells from an atlas, and notes on what was found in it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, NotFoundError, StorageError
from inference.checks import read_cells

if TYPE_CHECKING:
    import anndata as ad
    from scipy import sparse

    from inference.checks import Checked

OWN = "own"
_ALIASES = {  # other usual names of an agreed column, tried in order
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


def read_query_h5ad(uri: str) -> tuple[ad.AnnData, tuple[str, ...]]:
    """Read and check the user's own query cells.

    Parameters
    ----------
    uri
        Path or fsspec address of an h5ad with raw human counts in X, raw or ``layers["counts"]``.

    Returns
    -------
    The cells (X raw counts float32 CSR, var index gene symbols, obs index and columns as given, agreed columns added
    where they are absent, missing text empty) and notes on what was found.

    Raises
    ------
    NotFoundError
        There is no such file.
    StorageError
        The file may not be read.
    InvalidInputError
        Not a readable h5ad, or not raw human counts; the message says what was found and how to fix it.
    """
    import anndata as ad

    raw, checked = _read_checked(uri)
    if not raw.obs_names.is_unique:
        msg = f"{uri}: cell names repeat (obs index). Call adata.obs_names_make_unique() and save the file again."
        raise InvalidInputError(msg, uri=uri)
    obs = _with_agreed_columns(raw.obs, counts=checked.counts, dataset=Path(uri).stem)
    adata = ad.AnnData(X=checked.counts, obs=obs, var=pd.DataFrame(index=list(checked.genes)))
    return adata, tuple(checked.notes)


def _read_checked(uri: str) -> tuple[ad.AnnData, Checked]:
    try:
        if "://" not in uri:
            return _check_file(Path(uri).expanduser(), uri=uri)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "query.h5ad"
            with fsspec.open(uri, "rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
            return _check_file(copy, uri=uri)
    except FileNotFoundError as error:
        msg = f"no query cells at {uri}: there is no such file. Give the path or address of an h5ad."
        raise NotFoundError(msg, uri=uri) from error
    except PermissionError as error:
        msg = f"the query cells at {uri} cannot be read: permission denied. Grant read access, or copy the file."
        raise StorageError(msg, uri=uri) from error


def _check_file(path: Path, *, uri: str) -> tuple[ad.AnnData, Checked]:
    if not path.is_file():
        raise FileNotFoundError(uri)
    try:
        return read_cells(path, name=uri)
    except PermissionError:
        raise
    except ValueError as error:
        msg = f"these cannot be the query cells: {error}"
        raise InvalidInputError(msg, uri=uri) from error


def _with_agreed_columns(obs: pd.DataFrame, *, counts: sparse.csr_matrix, dataset: str) -> pd.DataFrame:
    """Obs as given, with each agreed column that it lacks taken from its usual other names, else left empty."""
    full = obs.copy()
    full.index = full.index.astype(str)
    full.index.name = keys.CELL_ID
    known: dict[str, Any] = {
        keys.CELL_INDEX: np.arange(len(full)),
        keys.DATASET: dataset,
        keys.ATLAS: OWN,
        keys.IS_CONTROL: True,
        keys.N_GENES: np.diff(counts.indptr).astype(np.int32),
        keys.TOTAL_COUNTS: np.asarray(counts.sum(axis=1)).ravel().astype(np.float32),
    }
    for column in (*keys.CELL_COLUMNS, keys.ATLAS):
        if column in known:
            full[column] = full[column] if column in full.columns else known[column]
            continue
        found = next((name for name in (column, *_ALIASES.get(column, ())) if name in obs.columns), None)
        full[column] = "" if found is None else _text(full[found])
    return full


def _text(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), "").astype(str)
