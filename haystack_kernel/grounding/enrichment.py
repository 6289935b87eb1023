"""Two other readings of all gene sets at once: a linear model of the effects, and over-representation among the calls.

In: effects and calls of the tested genes, signed sets. Out: per set a t value, an odds ratio, and adjusted p of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.grounding.signatures import Background, SignedSet


@dataclass(frozen=True, eq=False)
class Enrichment:
    """One value per set, in the order given; NaN where not computed. Adjusted by Benjamini-Hochberg over the sets."""

    score: NDArray[np.float64]
    padj: NDArray[np.float64]


def linear_model(background: Background, sets: Sequence[SignedSet]) -> Enrichment:
    """Regress the effects of all tested genes on the signs of each set, 0 outside it; one set at a time.

    Parameters
    ----------
    background
        Tested genes with their effects.
    sets
        Signed sets.

    Returns
    -------
    t of the slope (> 0: the set is active) and its two-sided p. NaN for a set without tested genes. Genes are taken
    for independent, which they are not: descriptive, beside the nulls.

    References
    ----------
    The univariate linear model (ULM) of Badia-i-Mompel et al., Bioinform Adv 2:vbac016 (2022).
    """
    z, n_genes = background.z, len(background.genes)
    centred = z - z.mean()
    length = float(np.linalg.norm(centred))
    r = np.full(len(sets), np.nan)
    for i, genes in enumerate(sets):
        where, signs = background.place(genes)
        spread = float(signs @ signs - signs.sum() ** 2 / n_genes)  # squared length of the centred column
        if where.size and spread > 0 and length > 0:
            r[i] = signs @ centred[where] / (np.sqrt(spread) * length)
    freedom = n_genes - 2
    r = np.clip(r, -1 + 1e-15, 1 - 1e-15)
    t = r * np.sqrt(freedom / (1 - r**2))
    return Enrichment(t, adjust(2 * stats.t.sf(np.abs(t), freedom)))


def over_representation(
    background: Background, sets: Sequence[SignedSet], *, called: NDArray[np.float64], directions: NDArray[np.float64]
) -> Enrichment:
    """Genes of each set called in the direction it is read, against all tested genes.

    Parameters
    ----------
    background
        Tested genes; they are the universe.
    sets
        Signed sets.
    called
        Per tested gene +1 called up, -1 called down, 0 not called.
    directions
        Per set the reading, +1 active or -1 suppressed: a gene counts when its call is sign times direction.

    Returns
    -------
    Odds ratio with half a gene added to each cell of the table (Haldane-Anscombe), and the p of Fisher's exact test
    for more than expected. NaN where no gene is called, or none of the set was tested.
    """
    n_genes, n_called = len(background.genes), int(np.count_nonzero(called))
    places = [background.place(genes) for genes in sets]
    size = np.array([where.size for where, _ in places], dtype=int)
    hits = [np.sum(called[where] * signs * way > 0) for (where, signs), way in zip(places, directions, strict=True)]
    both = np.array(hits, dtype=int)
    if not n_called:
        return Enrichment(np.full(len(sets), np.nan), np.full(len(sets), np.nan))
    other, rest = n_called - both, size - both
    neither = n_genes - n_called - rest
    odds = (both + 0.5) * (neither + 0.5) / ((other + 0.5) * (rest + 0.5))
    p = stats.hypergeom.sf(both - 1, n_genes, size, n_called)
    usable = size > 0
    return Enrichment(np.where(usable, odds, np.nan), adjust(np.where(usable, p, np.nan)))


def adjust(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini-Hochberg over those p that are not NaN."""
    adjusted, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(np.minimum(p[known], 1.0))
    return adjusted
