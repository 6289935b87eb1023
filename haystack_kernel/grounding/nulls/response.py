"""The response null: the prompt's treatment changes no gene at all.

In: the prompt's effects by cell type and donor. Out: a :class:`ResponseTest`.

The other nulls ask whether an expected set of genes moves; this one asks nothing of the tables. What a treatment causes
it causes in every donor, while what differs between two wells or two draws of cells has another direction in every
donor. So the effects of two donors point the same way only where there is a response. Cells are no replicates here,
whatever their number: every inert well differs from its control well in some genes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.de.background import standardise
from haystack_kernel.grounding.distributions import t_above
from haystack_kernel.grounding.nulls.donors import MIN_DONOR_CELLS, MIN_DONORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.grounding.uncertainty.prompt import PromptEffects

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ResponseTest:
    """Whether the prompt shows any response.

    Attributes
    ----------
    p
        P value over donors; NaN where there is no test.
    n_donors
        Donors with at least three treated and three control cells of one type; beyond eight, groups of donors.
    agreement
        Mean cosine between the effects of two donors, over all genes.
    reason
        Why there is no test; empty otherwise.
    """

    p: float = float("nan")
    n_donors: int = 0
    agreement: float = float("nan")
    reason: str = ""


def response_null(prompt: PromptEffects) -> ResponseTest:
    """Test whether the effects of donors point the same way, over all genes.

    Parameters
    ----------
    prompt
        Effects by cell type and donor.

    Returns
    -------
    The statistic is the mean cosine over pairs of donors of their effects, each gene divided by its spread over cells.
    Where the observed signs are not the best of all 2^(k - 1) ways to turn the effects of k donors around, p is the
    share of ways that are as good, which is exact. Else p is at most that share, and its size follows from a one-sided
    t test over the pairs with k - 1 degrees of freedom. Below three donors there is no p.

    Notes
    -----
    The t test needs pairs that are nearly independent, as they are where wells and cells differ in many directions:
    on random parts of control cells p below .05 came in 2 and 5 % (Kang, Papalexi). Where treatments that do nothing
    alike still share a few directions, small p of three or four donors are too frequent: see docs/campaigns.md.

    Examples
    --------
    >>> response_null(studied.prompt).p  # doctest: +SKIP
    0.0004
    """
    effects = _by_donor(prompt)
    n_donors = len(effects)
    if n_donors < MIN_DONORS:
        reason = f"{n_donors} donors hold treated and control cells, and a test of the response needs {MIN_DONORS}"
        return ResponseTest(n_donors=n_donors, reason=reason)
    length = np.sqrt(np.square(effects).sum(axis=1))
    unit = np.divide(effects, length[:, None], out=np.zeros_like(effects), where=length[:, None] > 0)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 0.0)
    signs = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=n_donors - 1)], dtype=float)
    sums = ((signs @ cosines) * signs).sum(axis=1)
    share = float(np.mean(sums >= sums[0] - 1e-12))
    pairs = cosines[np.triu_indices(n_donors, 1)]
    agreement = float(pairs.mean())
    if share > 1 / len(signs):
        return ResponseTest(share, n_donors, agreement)
    error = float(pairs.std(ddof=1)) / np.sqrt(len(pairs))
    t = agreement / error if error > 0 else np.finfo(float).max
    tail = float(t_above(np.array([t]), np.array([n_donors - 1.0]))[0])
    return ResponseTest(min(share, max(tail, np.finfo(float).tiny)), n_donors, agreement)


def _by_donor(prompt: PromptEffects) -> Floats:
    """Donors x genes: effect of each donor over its cell types, in spreads of the gene over cells."""
    n_all = prompt.n_cells.sum()
    mean = prompt.sums.sum(axis=(0, 1)) / n_all
    variance = prompt.squares.sum(axis=(0, 1)) / n_all - mean**2
    sd = np.sqrt(np.maximum(variance, 0.0))
    found = []
    for donor in np.unique(prompt.donors):
        entries = np.flatnonzero((prompt.donors == donor) & (prompt.n_cells.min(axis=0) > 0))
        treated, control = prompt.n_cells[:, entries]
        if int(np.minimum(treated, control).sum()) < MIN_DONOR_CELLS:
            continue
        weight = treated * control / (treated + control)
        means = prompt.sums[:, entries] / prompt.n_cells[:, entries][:, :, None]
        found.append(np.average(means[0] - means[1], axis=0, weights=weight))
    if not found:
        return np.zeros((0, len(mean)))
    return np.array([standardise(effect, sd) for effect in found])
