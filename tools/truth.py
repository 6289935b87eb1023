"""Compute the true effects of a treatment in the simulated world without sampling; for tests and measurements only.

In: a world, a cell type, a treatment. Out: the expected change of mean log1p CP10k of every gene.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.atlas.demo.facts import CELL_TYPES, KANG_MEDIAN_COUNTS, KANG_SD_LOG_COUNTS
from haystack_kernel.atlas.demo.sampling import dispersion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.atlas.demo.world import World

_N_DEPTHS = 5  # nodes of the Gauss-Hermite rule over the log-normal library size
_N_BLOCKS = 24


def true_log_shift(world: World, cell_type: str, perturbation: str) -> dict[str, float]:
    """Compute the expected change of mean log1p(CP10k) of every gene under the treatment.

    Counts are negative binomial around the world's shares with the dispersion measured on Kang, averaged over library
    sizes. Donors, nuisance modules and ambient RNA are left out, because a prediction should not contain them.

    Parameters
    ----------
    cell_type
        CL id or name.
    perturbation
        Canonical name or the label in the simulated file.

    Returns
    -------
    Gene -> change in natural-log units; exactly 0 for every gene if the cell type does not respond.
    """
    row = world.row(cell_type)
    if not world.programme(perturbation).effects[row].any():
        return dict.fromkeys(world.genes, 0.0)
    depth = CELL_TYPES[row].depth
    treated, untreated = world.share(cell_type, perturbation), world.share(cell_type)
    shift = mean_log1p_cp10k(treated, depth=depth) - mean_log1p_cp10k(untreated, depth=depth)
    return dict(zip(world.genes, shift.tolist(), strict=True))


def mean_log1p_cp10k(share: NDArray[np.float64], *, depth: str) -> NDArray[np.float64]:
    """Expected log1p(1e4 x / L) by gene for counts x with expected share ``share`` at the depths of ``depth`` cells."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_N_DEPTHS)
    total = np.zeros(len(share))
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        library = KANG_MEDIAN_COUNTS[depth] * np.exp(node * KANG_SD_LOG_COUNTS[depth])
        total += weight * _mean_log(library * share, library=library)
    return total


def _mean_log(mu: NDArray[np.float64], *, library: float) -> NDArray[np.float64]:
    shape = 1 / dispersion(mu)
    odds = mu / (mu + shape)
    order = np.argsort(mu)
    result = np.zeros(len(mu))
    # genes of similar abundance need similar numbers of terms
    for block in np.array_split(order, min(_N_BLOCKS, len(order))):
        r, q = shape[block], odds[block]
        top = mu[block].max()
        n_terms = int(top + 9 * np.sqrt(top + top**2 * (1 / r).max()) + 15)
        count = np.arange(1, n_terms)[:, None]
        log_pmf = r * np.log1p(-q) + np.cumsum(np.log(q * (r + count - 1) / count), axis=0)
        result[block] = (np.log1p(1e4 * count / library) * np.exp(log_pmf)).sum(axis=0)
    return result
