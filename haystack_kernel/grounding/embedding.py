"""A map of prompt, control, query and predicted cells in two dimensions, for plots only.

In: raw counts by role. Out: one row per cell with its coordinates.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.de.profiles import log_normalise

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

ROLE = "role"
AXES = ("umap1", "umap2")
MIN_CELLS_UMAP = 15
N_VARIABLE = 1500
N_COMPONENTS = 30
CELLS_PER_COMPONENT = 10  # with few cells the later components are noise, which would drown the first


def compute_embedding(parts: dict[str, ad.AnnData], *, seed: int, n_max: int = 600) -> pd.DataFrame:
    """Place the cells of all roles on one map.

    Parameters
    ----------
    parts
        Role -> raw counts; the genes that all roles share are used.
    seed
        Random seed, which chooses the cells where a role has more than ``n_max``, and fixes the map.
    n_max
        Maximum number of cells per role.

    Returns
    -------
    DataFrame
        One row per cell: ``cell_id`` (the cell's name in its role; a query cell and its prediction share it), ``role``,
        ``cell_type_name`` ("" where unknown), ``umap1``, ``umap2``. ``attrs["method"]`` is "umap", or "pca" below 15
        cells; ``attrs["axes"]`` are the labels to print. Distances on the map are not evidence.

    Raises
    ------
    InvalidInputError
        There are no cells, or no gene is shared by all roles.

    References
    ----------
    McInnes, Healy and Melville, arXiv:1802.03426 (2018).

    Examples
    --------
    >>> compute_embedding({"query": query_cells, "predicted": predicted_cells}, seed=0)  # doctest: +SKIP
    """
    parts = {role: adata for role, adata in parts.items() if adata.n_obs > 0}
    if not parts:
        msg = "no cells to place on a map; give at least one role with cells"
        raise InvalidInputError(msg)
    first, *rest = parts.values()
    genes = first.var_names
    for adata in rest:
        genes = genes[genes.isin(adata.var_names)]
    if genes.empty:
        msg = f"the roles {sorted(parts)} share no gene; use the same kind of gene names in all of them"
        raise InvalidInputError(msg, roles=sorted(parts))
    rng = np.random.default_rng(seed)
    frames, blocks = [], []
    for role, adata in parts.items():
        rows = np.sort(rng.choice(adata.n_obs, size=min(n_max, adata.n_obs), replace=False))
        names = adata.obs[keys.CELL_TYPE].astype(object).fillna("") if keys.CELL_TYPE in adata.obs else ""
        frame = pd.DataFrame({keys.CELL_ID: adata.obs_names.astype(str), ROLE: role, keys.CELL_TYPE: names})
        frames.append(frame.iloc[rows])
        blocks.append(log_normalise(adata.X[rows])[:, adata.var_names.get_indexer(genes)])
    table = pd.concat(frames, ignore_index=True)
    axes = _principal_axes(sparse.vstack(blocks, format="csr"), seed=seed)
    method, layout, axis = "pca", axes[:, :2], "PC"
    if len(table) >= MIN_CELLS_UMAP:
        method, layout, axis = "umap", _umap(axes, seed=seed), "UMAP"
    table[AXES[0]], table[AXES[1]] = layout[:, 0].astype(float), layout[:, 1].astype(float)
    table.attrs.update({"method": method, "axes": [f"{axis} 1", f"{axis} 2"]})
    return table


def _principal_axes(y: sparse.csr_matrix, *, seed: int) -> NDArray[np.float64]:
    """Scores on the leading components of the most variable genes, at least two columns."""
    mean = np.asarray(y.mean(axis=0)).ravel()
    variance = np.asarray(y.multiply(y).mean(axis=0)).ravel() - mean**2
    # variance expected from the mean alone: a running median over genes of like mean
    order = np.argsort(mean, kind="stable")
    trend = np.empty_like(variance)
    trend[order] = pd.Series(variance[order]).rolling(101, center=True, min_periods=1).median().to_numpy()
    top = np.sort(np.argsort(trend - variance, kind="stable")[:N_VARIABLE])
    dense = y[:, top].toarray()
    dense -= dense.mean(axis=0)
    n_axes = min(N_COMPONENTS, max(len(dense) // CELLS_PER_COMPONENT, 2), *dense.shape)
    if min(dense.shape) > 2 * N_COMPONENTS:
        from sklearn.utils.extmath import randomized_svd

        left, strength, _ = randomized_svd(dense, n_axes, random_state=seed)
    else:
        left, strength, _ = np.linalg.svd(dense, full_matrices=False)
    scores = left[:, :n_axes] * strength[:n_axes]
    return np.pad(scores, ((0, 0), (0, max(2 - scores.shape[1], 0))))


def _umap(axes: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """Lay the cells out; neighbours are found exactly here, which spares umap half of its compilation."""
    from numba.core.dispatcher import Dispatcher
    from sklearn.neighbors import NearestNeighbors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # umap looks for Tensorflow, which it does not need
        import umap
    # Numba keeps umap's compiled functions on disk: 6.7 s of compilation become 1.5 s in the next process.
    for module in (umap.umap_, umap.layouts):
        for value in vars(module).values():
            if isinstance(value, Dispatcher):
                with suppress(RuntimeError):  # no writable place for the cache: compile as before
                    value.enable_caching()
    points, n_neighbors = axes.astype(np.float32), min(15, len(axes) - 1)
    distances, indices = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(points)
    known = (indices, distances.astype(np.float32), None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precomputed_knn", UserWarning)  # placing further cells would need more
        reducer = umap.UMAP(
            n_neighbors=n_neighbors, random_state=seed, n_jobs=1, init="pca", min_dist=0.3, precomputed_knn=known
        )
        return np.asarray(reducer.fit_transform(points))
