"""A map of prompt, control, query and predicted cells in two dimensions, for plots only.

In: raw counts by role. Out: one row per cell with its coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from threadpoolctl import threadpool_limits

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.de.profiles import log_normalise

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

AXES = {"umap": ("umap1", "umap2"), "pca": ("pc1", "pc2")}  # a map says in its columns how it was made
MIN_CELLS_UMAP = 15
N_EPOCHS = 200  # 500 cost twice the time and keep neighbours no better (trustworthiness 0.972 against 0.971)
N_VARIABLE = 1500
N_COMPONENTS = 30
CELLS_PER_COMPONENT = 10  # with few cells the later components are noise, which would drown the first


@dataclass(frozen=True, eq=False)
class Gathered:
    """The cells of a map, one row each: their names, and their normalised counts in the genes that all roles share."""

    table: pd.DataFrame
    y: sparse.csr_matrix


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
        ``cell_type_name`` ("" where unknown), and as the last two columns the coordinates: ``umap1``, ``umap2``, or
        ``pc1``, ``pc2`` (principal components) below 15 cells and on platforms without the package fastumap. Distances
        on the map are not evidence.

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
    with one_thread():
        return place(gather(parts, seed=seed, n_max=n_max), seed=seed)


def one_thread() -> threadpool_limits:
    """Keep the linear algebra of this process to one thread for a block, which its main thread has to enter.

    The matrix of a map is too small to gain from further threads, which take 2.4 processor seconds instead of 0.5 and
    the cores of what runs beside it; and their sums differ in the last digits, which changes the map.
    """
    return threadpool_limits(limits=1, user_api="blas")


def gather(parts: dict[str, ad.AnnData], *, seed: int, n_max: int = 600) -> Gathered:
    """Choose the cells of a map and copy what places them; the arguments are those of :func:`compute_embedding`.

    Raises
    ------
    InvalidInputError
        There are no cells, or no gene is shared by all roles.
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
        frame = pd.DataFrame({keys.CELL_ID: adata.obs_names.astype(str), keys.ROLE: role, keys.CELL_TYPE: names})
        frames.append(frame.iloc[rows])
        blocks.append(log_normalise(adata.X[rows])[:, adata.var_names.get_indexer(genes)])
    return Gathered(pd.concat(frames, ignore_index=True), sparse.vstack(blocks, format="csr"))


def place(cells: Gathered, *, seed: int) -> pd.DataFrame:
    """Place the cells of a map, under :func:`one_thread`; no memory is shared, so another thread can do it."""
    axes = _principal_axes(cells.y, seed=seed)
    table = cells.table
    layout = _umap(axes, seed=seed) if len(table) >= MIN_CELLS_UMAP else None
    first, second = AXES["pca" if layout is None else "umap"]
    place = axes if layout is None else layout
    table[first], table[second] = place[:, 0].astype(float), place[:, 1].astype(float)
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
        from scipy.sparse.linalg import svds

        start = np.random.default_rng(seed).normal(size=min(dense.shape))  # otherwise drawn anew in each call
        left, strength, _ = svds(dense, n_axes, v0=start)
        left, strength = left[:, ::-1], strength[::-1]  # largest first
    else:
        left, strength, _ = np.linalg.svd(dense, full_matrices=False)
    scores = left[:, :n_axes] * strength[:n_axes]
    return np.pad(scores, ((0, 0), (0, max(2 - scores.shape[1], 0))))


def _umap(axes: NDArray[np.float64], *, seed: int) -> NDArray[np.float64] | None:
    """Lay the cells out by UMAP; None where its package is not installed (it has no build for every platform)."""
    try:
        from fastumap import umap_project
    except ImportError:
        return None
    n_neighbors = min(15, len(axes) - 1)
    return umap_project(axes, 2, n_neighbors=n_neighbors, min_dist=0.3, n_epochs=N_EPOCHS, random_state=seed)
