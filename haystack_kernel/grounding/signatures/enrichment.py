"""The field's two usual tests of a gene set, beside the score: a univariate linear model and over-representation.

In: effects and calls on the tested genes, signed sets. Out: one row per set.

Both are there for comparison with other tools only. They take genes as independent, which genes are not: a set of
correlated genes passes them far too often. The score therefore rests on permutations, see
:mod:`haystack_kernel.grounding.nulls`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel.grounding.distributions import adjust, hypergeometric, t_above

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from haystack_kernel.grounding.de.background import Background, SignedSet

COLUMNS = ("ulm_t", "ulm_pval", "ulm_padj", "ora_log_odds", "ora_pval", "ora_padj", "n_called", "n_background")


def compute_enrichment(
    background: Background, called: NDArray[np.bool_], sets: Mapping[str, SignedSet]
) -> pd.DataFrame:
    """Test every set with a univariate linear model and for over-representation.

    Parameters
    ----------
    background
        Tested genes and their standardised effects z, which are the background of both tests.
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
    Badia-i-Mompel et al., Bioinformatics Advances 2:vbac016 (2022), for the linear model on gene statistics; Haldane,
    Ann Hum Genet 20:309 (1956), for 0.5 in the log odds ratio.
    """
    z, n, n_called = background.z, len(background.z), int(called.sum())
    rows = []
    for genes in sets.values():
        where, signs = background.locate(genes)
        slope_t = slope_p = log_odds = fisher_p = np.nan
        # The t of the slope and its p value follow from the correlation r of z with the signs (0 outside the set).
        total, squares = signs.sum(), (signs**2).sum()
        spread = (squares - total**2 / n) * n * z.var()
        if n >= 3 and spread > 0:
            r = np.clip((signs @ z[where] - total * z.mean()) / np.sqrt(spread), -1.0, 1.0)
            with np.errstate(divide="ignore"):
                slope_t = float(r * np.sqrt((n - 2) / (1 - r**2)))
            slope_p = float(2 * t_above(abs(slope_t), n - 2))
        both, n_set = int(called[where].sum()), where.size
        if n_set and n_called:
            cells = both, n_called - both, n_set - both, n - n_called - n_set + both
            log_odds = float(np.log((cells[0] + 0.5) * (cells[3] + 0.5) / ((cells[1] + 0.5) * (cells[2] + 0.5))))
            # Fisher's exact p is the chance of every count that is at most as likely as the one seen.
            possible = np.arange(max(0, n_set + n_called - n), min(n_set, n_called) + 1)
            chance = hypergeometric(possible, n=n, n_called=n_called, n_drawn=n_set)
            seen = chance[possible == both] * (1 + 1e-7)  # 1e-7: equal chances differ by rounding
            fisher_p = float(min(chance[chance <= seen].sum(), 1.0))
        rows.append((slope_t, slope_p, log_odds, fisher_p, both))
    names = ["ulm_t", "ulm_pval", "ora_log_odds", "ora_pval", "n_called"]
    table = pd.DataFrame(rows, columns=names, index=pd.Index(list(sets), dtype=object))
    for test in ("ulm", "ora"):
        pval = table[f"{test}_pval"].to_numpy(float)
        padj, known = np.full(len(pval), np.nan), np.isfinite(pval)  # a set that was not tested stays NaN
        padj[known] = adjust(pval[known])
        table[f"{test}_padj"] = padj
    table["n_background"] = len(background.genes)
    return table[list(COLUMNS)]
