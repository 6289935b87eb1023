"""Writes the output of a task as an h5ad file: the query cells with their prediction, or with their vectors.

In: a prediction or an embedding, the query as read, the record of how it was made. Out: a local file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.files import clear_disk_errors
from inference.manifest import OUTPUT_UNS
from inference.quiet import no_warnings

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
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
    if prediction.expected is not None:
        var[EXPECTED_LOG] = prediction.expected_log
    obs = query.obs.copy()
    if prediction.logits is not None:
        obs[GEN_LOGIT] = prediction.logits
    write_cells(path, counts=prediction.counts, obs=obs, var=var, uns={OUTPUT_UNS: record})
    if prediction.expected is not None:
        _add_layer(path, EXPECTED, prediction.expected)


def write_embedding(
    vectors: NDArray[np.float32], query: Loaded, *, known: NDArray[np.bool_], record: str, path: Path
) -> None:
    """Write the query cells' own counts with their vectors as ``obsm["X_stack"]``; see :func:`write_prediction`."""
    write_cells(
        path,
        counts=query.checked.counts,
        obs=query.obs,
        var=_var(query, known),
        obsm={EMBEDDING: vectors},
        uns={OUTPUT_UNS: record},
    )


def write_cells(path: Path, *, counts: sparse.csr_matrix, **parts: Any) -> None:  # noqa: ANN401 - of an AnnData
    """Write cells as h5ad; ``parts`` are those of an AnnData."""
    import anndata as ad

    # repeated cell names come from the query cells and are no reason to warn
    with clear_disk_errors(path), no_warnings(), ad.settings.override(allow_write_nullable_strings=True):
        adata = ad.AnnData(X=counts, **parts)
        adata.write_h5ad(path, convert_strings_to_categoricals=False, compression="gzip", compression_opts=1)


def _add_layer(path: Path, name: str, values: NDArray[np.float32]) -> None:
    """Add a dense layer as it is: compressing such numbers takes most of the writing and saves a twentieth."""
    import anndata as ad
    import h5py

    with clear_disk_errors(path), h5py.File(path, "a") as h5:
        ad.io.write_elem(h5["layers"], name, values)


def _var(query: Loaded, known: NDArray[np.bool_] | None) -> Any:  # noqa: ANN401 - a pandas DataFrame
    var = query.checked.var.copy()
    if known is not None:
        var[MODEL_GENE] = known
    return var
