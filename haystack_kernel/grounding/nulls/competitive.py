"""The competitive null: the prediction changes a gene set no more than other genes of the same expression.

In: the effects of all tested genes, one signed gene set. Out: one-sided p values (field ``p_specificity``).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.de.background import min_set_genes
from haystack_kernel.grounding.nulls.tails import Tails, block_sizes

if TYPE_CHECKING:
    from collections.abc import Collection

    from haystack_kernel.grounding.de.background import Background, SignedSet

BIN_GENES = 100  # at least this many genes share an expression bin
MAX_BINS = 25
_PURPOSE = 2  # second word of the seed, so that no two tests share random numbers


def competitive_null(
    background: Background,
    genes: SignedSet,
    *,
    removed: Collection[str] = (),
    n_draws: int,
    seed: int,
    name: str = "",
) -> Tails:
    """Compare a gene set with random sets of the same size, signs and expression.

    Parameters
    ----------
    background
        Tested genes, their effects and control levels.
    genes
        The signed set.
    removed
        Genes left out of the set and of the background (those of competing signatures).
    n_draws, seed
        Number of random sets and the random seed.
    name
        Name of the set, which gives it random numbers of its own.

    Returns
    -------
    P values (1 + count) / (n_draws + 1). Both are 1 when fewer than five genes of the set remain (two in a panel),
    because nothing specific is left. Random sets are drawn with replacement within bins of about 100 genes or more that
    are expressed about equally in the control arm.

    References
    ----------
    Goeman and Buehlmann, Bioinformatics 23:980 (2007), for the competitive null; Tirosh et al., Science 352:189
    (2016), for random sets matched by expression bins.
    """
    is_out = background.genes.isin(list(removed)) if len(removed) else np.zeros(len(background.genes), dtype=bool)
    where, signs = background.locate(genes)
    where, signs = where[~is_out[where]], signs[~is_out[where]]
    if where.size < min_set_genes(len(background.genes)):
        return Tails(1.0, 1.0)
    # Effects and their noise depend on expression, so a random set must have the expression of the set that it is
    # compared with: genes are sorted by level and cut into bins, and each gene is replaced by one of its own bin.
    pool = np.flatnonzero(~is_out)
    pool = pool[np.argsort(background.level[pool], kind="stable")]
    edges = np.linspace(0, pool.size, min(max(pool.size // BIN_GENES, 1), MAX_BINS) + 1).astype(int)
    place = np.empty(len(background.genes), dtype=int)
    place[pool] = np.arange(pool.size)
    bins = np.searchsorted(edges, place[where], side="right") - 1
    low, size = edges[bins], np.diff(edges)[bins]
    effects = background.z[pool]
    observed = float(signs @ background.z[where])
    slack = 1e-10 * float(np.abs(background.z[where]).sum())  # equal sums differ by rounding only
    rng = np.random.default_rng([seed, _PURPOSE, zlib.crc32(name.encode())])
    above = below = 0
    for n_block in block_sizes(n_draws):
        drawn = low + (rng.random((n_block, where.size)) * size).astype(np.intp)
        sums = effects[drawn] @ signs
        above += int((sums >= observed - slack).sum())
        below += int((sums <= observed + slack).sum())
    return Tails((1 + above) / (n_draws + 1), (1 + below) / (n_draws + 1))
