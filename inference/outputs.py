"""Writes the output of a task as an h5ad file: the query cells with their prediction, or with their vectors.

In: a prediction or an embedding, the query as read, the record of how it was made. Out: a local file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from inference.files import clear_disk_errors
from inference.manifest import OUTPUT_UNS
from inference.quiet import no_warnings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    import h5py
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from inference.baselines import Prediction
    from inference.inputs import Loaded

PADDED = "padded"  # var: the prediction could not change this gene, because the engine or its prompt lacks it
MODEL_GENE = "model_gene"  # var: the model has this gene; absent where the engine is no model
GEN_LOGIT = "gen_logit"  # obs: the model's last logit of each cell
EXPECTED_LOG = "expected_log"  # var: mean log1p(CP10k) of a gene over the counts that could have been drawn
EXPECTED = "expected"  # layer: the mean that each count was drawn from, where the engine gives one
COMPRESSED = {"compression": "gzip", "compression_opts": 1}
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
    stored_obs: h5py.Group | None = None,
    more_obs: Mapping[str, NDArray[Any]] | None = None,
    **parts: Any,  # noqa: ANN401 - of an AnnData
) -> None:
    """Write cells as h5ad.

    Parameters
    ----------
    path
        Local file to write.
    obs
        One row per cell.
    stored_obs
        The same as it was stored before, to be copied; None stores it anew, which takes most of the time.
    more_obs
        Further columns of obs.
    parts
        The other parts of an AnnData.

    Raises
    ------
    StorageError
        The disk is full or read-only.
    """
    import anndata as ad
    import h5py

    def write(
        write_as_usual: Any,  # noqa: ANN401
        store: h5py.Group,
        key: str,
        elem: Any,  # noqa: ANN401
        *,
        dataset_kwargs: Mapping[str, Any],
        iospec: object,
    ) -> None:
        if key == "/obs" and stored_obs is not None:
            store.copy(stored_obs, "obs")
        elif key == f"/layers/{EXPECTED}":  # compression takes most of the time of such numbers and saves a twentieth
            write_as_usual(store, key, elem)
        elif elem is not None:
            write_as_usual(store, key, elem, dataset_kwargs=dataset_kwargs)

    # repeated cell names come from the query cells and are no reason to warn
    with clear_disk_errors(path), no_warnings(), _text_with_gaps():
        adata = ad.AnnData(obs=obs, **parts)
        with h5py.File(path, "w") as h5:
            ad.experimental.write_dispatched(h5, "/", adata, write, dataset_kwargs=COMPRESSED)
            for name, values in (more_obs or {}).items():
                ad.io.write_elem(h5["obs"], name, values, dataset_kwargs=COMPRESSED)
                h5["obs"].attrs["column-order"] = [*h5["obs"].attrs["column-order"], name]


def store_obs(obs: pd.DataFrame) -> h5py.File:
    """A file in memory with ``obs`` as :func:`write_cells` stores it."""
    import anndata as ad
    import h5py

    h5 = h5py.File(str(uuid4()), "w", driver="core", backing_store=False)
    with no_warnings(), _text_with_gaps():
        ad.io.write_elem(h5, "obs", obs, dataset_kwargs=COMPRESSED)
    return h5


def _text_with_gaps() -> AbstractContextManager[None]:
    import anndata as ad

    override: AbstractContextManager[None] = ad.settings.override(allow_write_nullable_strings=True)
    return override


def _var(query: Loaded, known: NDArray[np.bool_] | None) -> Any:  # noqa: ANN401 - a pandas DataFrame
    var = query.checked.var.copy()
    if known is not None:
        var[MODEL_GENE] = known
    return var
