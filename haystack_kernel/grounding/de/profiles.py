"""Mean, spread and detection of every gene on the log1p-CP10k scale, without making the counts dense.

In: raw counts, cells x genes, sparse. Out: one ``Profile`` per arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

SCALE = 1e4  # counts per ten thousand


@dataclass(frozen=True)
class Profile:
    """Summary of one arm, one value per gene in the order of the columns.

    Attributes
    ----------
    n_cells
        Number of cells of the arm.
    mean_log, sd_log
        Mean and standard deviation (n - 1; 0 for one cell) of y = log1p(1e4 x / L) for counts x and library size L.
    mean_cp10k
        Mean of 1e4 x / L, counts per ten thousand.
    detection
        Fraction of cells with at least one count, 0 to 1.
    """

    n_cells: int
    mean_log: NDArray[np.float64]
    sd_log: NDArray[np.float64]
    mean_cp10k: NDArray[np.float64]
    detection: NDArray[np.float64]


def normalise_cp10k(counts: Any) -> sparse.csr_matrix:  # noqa: ANN401 - any sparse or dense matrix
    """Scale every cell to ten thousand counts.

    Parameters
    ----------
    counts
        Raw counts, cells x genes.

    Returns
    -------
    Float64 CSR of the same shape without stored zeros; a cell without counts stays 0.

    Raises
    ------
    InvalidInputError
        ``counts`` holds negative, NaN or infinite values.
    """
    matrix = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    if matrix.nnz and not (np.isfinite(matrix.data).all() and matrix.data.min() >= 0):
        msg = "expression holds negative, NaN or infinite values; raw counts (>= 0) are needed"
        raise InvalidInputError(msg)
    matrix.eliminate_zeros()
    library = np.asarray(matrix.sum(axis=1)).ravel()
    matrix.data = SCALE * matrix.data / np.repeat(library, np.diff(matrix.indptr))
    return matrix


def log_normalise(counts: Any) -> sparse.csr_matrix:  # noqa: ANN401
    """Log-normalise raw counts: y = log1p(1e4 x / L), natural logarithm, as float64 CSR.

    Raises
    ------
    InvalidInputError
        As :func:`normalise_cp10k`.
    """
    matrix = normalise_cp10k(counts)
    matrix.data = np.log1p(matrix.data)
    return matrix


def mean_profile(adata: ad.AnnData) -> NDArray[np.float64]:
    """Mean log1p(CP10k) per gene of predicted cells: as the engine states it, else over the counts."""
    if keys.EXPECTED_LOG in adata.var:
        return np.asarray(adata.var[keys.EXPECTED_LOG].to_numpy(float))
    return np.asarray(log_normalise(adata.X).mean(axis=0)).ravel()


def mean_cp10k(counts: Any) -> NDArray[np.float64]:  # noqa: ANN401
    """Mean counts per ten thousand of every gene, without storing the scaled matrix; a cell without counts stays 0."""
    matrix = sparse.csr_matrix(counts, dtype=np.float64)
    library = np.asarray(matrix.sum(axis=1)).ravel()
    scale = np.divide(SCALE, library, out=np.zeros_like(library), where=library > 0)
    return np.asarray(matrix.T @ scale).ravel() / max(matrix.shape[0], 1)


def compute_profile(cp10k: sparse.csr_matrix) -> Profile:
    """Summarise one arm gene by gene.

    Parameters
    ----------
    cp10k
        From :func:`normalise_cp10k`, cells x genes.

    Raises
    ------
    InvalidInputError
        The arm has no cell.
    """
    n_cells, n_genes = cp10k.shape
    if n_cells == 0:
        msg = "an arm of the comparison has no cells; at least one is needed"
        raise InvalidInputError(msg)
    # sums over the stored values alone: zeros add nothing, so the matrix is never made dense
    logged = np.log1p(cp10k.data)
    sums = [np.bincount(cp10k.indices, weights=values, minlength=n_genes) for values in (logged, logged**2, cp10k.data)]
    mean_log = sums[0] / n_cells
    variance = np.maximum(sums[1] - n_cells * mean_log**2, 0.0) / max(n_cells - 1, 1)
    return Profile(
        n_cells=n_cells,
        mean_log=mean_log,
        sd_log=np.sqrt(variance),
        mean_cp10k=sums[2] / n_cells,
        detection=np.bincount(cp10k.indices, minlength=n_genes) / n_cells,
    )


def correlate(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Pearson correlation of two profiles; NaN below three values or where one side is constant."""
    if one.size < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return float("nan")
    return float(np.corrcoef(one, two)[0, 1])


def pooled_sd(first: Profile, second: Profile) -> NDArray[np.float64]:
    """Within-arm standard deviation of y pooled over two arms; 0 where both arms hold one cell."""
    free = max(first.n_cells + second.n_cells - 2, 1)
    squares = (first.n_cells - 1) * first.sd_log**2 + (second.n_cells - 1) * second.sd_log**2
    return np.sqrt(squares / free)
