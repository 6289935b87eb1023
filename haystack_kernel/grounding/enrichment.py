"""The field's two usual readings of a gene set, beside the score: a univariate linear model and over-representation.

In: effects and calls on the tested genes, signed sets. Out: one row per set. For comparison with other tools only: both
take genes as independent, which they are not (SCIENCE of the nulls: :mod:`haystack_kernel.grounding.nulls`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from haystack_kernel.grounding.de import adjust_bh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from haystack_kernel.grounding.signatures import Background, SignedSet

COLUMNS = ("ulm_t", "ulm_pval", "ulm_padj", "ora_log_odds", "ora_pval", "ora_padj", "n_called", "n_background")


def compute_enrichment(
    background: Background, called: NDArray[np.bool_], sets: Mapping[str, SignedSet]
) -> pd.DataFrame:
    """Univariate linear model and over-representation of every set.

    Parameters
    ----------
    background
        Tested genes and their standardised effects z; they are the stated background of both tests.
    called
        Per gene of the background: called differentially expressed, up or down.
    sets
        Name -> signed genes; those outside the background do not count.

    Returns
    -------
    Index = name of the set. ``ulm_t``: t of the slope of z on the set's signs (0 for genes outside it), n - 2 degrees
    of freedom; > 0: moves as the set says. ``ora_log_odds``: log odds ratio of being called, 0.5 added to each cell of
    the table; ``ora_pval``: two-sided Fisher's exact test. ``…_padj``: Benjamini-Hochberg over the sets given.
    ``n_called`` genes of the set are called, of ``n_background`` tested genes. NaN where a set has no tested gene, no
    gene varies, or (over-representation) none is called.

    References
    ----------
    Badia-i-Mompel et al., Bioinformatics Advances 2:vbac016 (2022), for the linear model on gene statistics.
    """
    rows = [_row(background, called, genes) for genes in sets.values()]
    names = ["ulm_t", "ulm_pval", "ora_log_odds", "ora_pval", "n_called"]
    table = pd.DataFrame(rows, columns=names, index=pd.Index(list(sets), dtype=object))
    for test in ("ulm", "ora"):
        pval = table[f"{test}_pval"].to_numpy(float)
        padj, known = np.full(len(pval), np.nan), np.isfinite(pval)
        padj[known] = adjust_bh(pval[known])
        table[f"{test}_padj"] = padj
    table["n_background"] = len(background.genes)
    return table[list(COLUMNS)]


def _row(background: Background, called: NDArray[np.bool_], genes: SignedSet) -> tuple[float, float, float, float, int]:
    where, signs = background.place(genes)
    n_called = int(called[where].sum())
    return *_linear(background.z, where, signs), *_fisher(called, where), n_called


def _linear(z: NDArray[np.float64], where: NDArray[np.intp], signs: NDArray[np.float64]) -> tuple[float, float]:
    weights = np.zeros(len(z))
    weights[where] = signs
    if len(z) < 3 or np.ptp(weights) == 0 or np.ptp(z) == 0:
        return np.nan, np.nan
    found = stats.linregress(weights, z)
    return float(found.slope / found.stderr) if found.stderr else float(np.inf * np.sign(found.slope)), float(
        found.pvalue
    )


def _fisher(called: NDArray[np.bool_], where: NDArray[np.intp]) -> tuple[float, float]:
    if not where.size or not called.any():
        return np.nan, np.nan
    inside = np.zeros(len(called), dtype=bool)
    inside[where] = True
    table = np.array(
        [[(called & inside).sum(), (called & ~inside).sum()], [(~called & inside).sum(), (~called & ~inside).sum()]]
    )
    odds = np.log((table[0, 0] + 0.5) * (table[1, 1] + 0.5) / ((table[0, 1] + 0.5) * (table[1, 0] + 0.5)))
    return float(odds), float(stats.fisher_exact(table).pvalue)
