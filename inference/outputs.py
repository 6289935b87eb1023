"""Writes the output of a task as an h5ad file: the query cells with their prediction, or with their vectors.

In: a prediction or an embedding, the query as read, the record of how it was made. Out: a local file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from inference.files import clear_disk_errors
from inference.manifest import OUTPUT_UNS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import h5py
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from scipy import sparse

    from inference.baselines import Prediction
    from inference.inputs import Loaded

PADDED = "padded"  # var: the prediction could not change this gene, because the engine or its prompt lacks it
MODEL_GENE = "model_gene"  # var: the model has this gene; absent where the engine is no model
GEN_LOGIT = "gen_logit"  # obs: the model's last logit of each cell
EXPECTED_LOG = "expected_log"  # var: mean log1p(CP10k) of a gene over the counts that could have been drawn
EXPECTED = "expected"  # layer: the mean that each count was drawn from, where the engine gives one
EMBEDDING = "X_stack"  # obsm: the model's vector of each cell


def write_prediction(
    prediction: Prediction, query: Loaded, *, known: NDArray[np.bool_] | None, record: str, path: Path
) -> None:
    """Write predicted counts over the query's own genes, in their order.

    Parameters
    ----------
    prediction
        What was predicted.
    query
        The cells it was predicted for; their obs and var are kept.
    known
        Per gene, whether the model has it; None for an engine without a model.
    record
        JSON of how it was made.
    path
        Local file to write.

    Raises
    ------
    StorageError
        The disk is full or read-only.
    """
    var = _var(query, known)
    var[PADDED] = ~prediction.changeable
    layers = {}
    if prediction.expected is not None:
        var[EXPECTED_LOG] = prediction.expected_log
        layers = {EXPECTED: prediction.expected}
    logits = {} if prediction.logits is None else {GEN_LOGIT: prediction.logits}
    write_cells(
        path,
        obs=query.obs,
        stored_obs=query.stored_obs["obs"],
        more_obs=logits,
        X=prediction.counts,
        var=var,
        layers=layers,
        uns={OUTPUT_UNS: record},
    )


def write_embedding(
    vectors: NDArray[np.float32], query: Loaded, *, known: NDArray[np.bool_], record: str, path: Path
) -> None:
    """Write the query cells' own counts with their vectors as ``obsm["X_stack"]``; see :func:`write_prediction`."""
    write_cells(
        path,
        obs=query.obs,
        stored_obs=query.stored_obs["obs"],
        X=query.checked.counts,
        var=_var(query, known),
        obsm={EMBEDDING: vectors},
        uns={OUTPUT_UNS: record},
    )


def write_cells(
    path: Path,
    *,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    X: sparse.csr_matrix,  # noqa: N803 - its name in an AnnData
    stored_obs: h5py.Group | None = None,
    more_obs: Mapping[str, NDArray[Any]] | None = None,
    **parts: Mapping[str, Any],
) -> None:
    """Write cells as h5ad.

    Parameters
    ----------
    path
        Local file to write.
    obs, var, X
        Cells, genes and counts.
    stored_obs
        Obs as it was stored before, to be copied; None stores it anew, which takes most of the time.
    more_obs
        Further columns of obs.
    parts
        The other parts of an AnnData: layers, obsm, uns.

    Raises
    ------
    StorageError
        The disk is full or read-only.
    """
    import h5py

    from inference.h5_write import append_column, write_frame, write_matrix, write_parts

    with clear_disk_errors(path), h5py.File(path, "w") as h5:
        # compression takes most of the time of expected counts and saves a twentieth
        write_parts(h5, parts, plain=(EXPECTED,))
        write_matrix(h5, "X", X)
        write_frame(h5, "var", var)
        if stored_obs is None:
            write_frame(h5, "obs", obs)
        else:
            h5.copy(stored_obs, "obs")
        for name, values in (more_obs or {}).items():
            append_column(h5["obs"], name, values)


def store_obs(obs: pd.DataFrame) -> h5py.File:
    """A file in memory with ``obs`` as :func:`write_cells` stores it."""
    import h5py

    from inference.h5_write import write_frame

    h5 = h5py.File(str(uuid4()), "w", driver="core", backing_store=False)
    write_frame(h5, "obs", obs)
    return h5


def _var(query: Loaded, known: NDArray[np.bool_] | None) -> Any:  # noqa: ANN401 - a pandas DataFrame
    var = query.checked.var.copy()
    if known is not None:
        var[MODEL_GENE] = known
    return var
