"""How near a predicted response comes to the measured one, gene by gene.

In: profiles of four arms over the same genes. Out: correlation, cosine, error, overlap of leading genes, direction.
Every metric has one meaning of "better", and is NaN with no value where the data cannot say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.de.profiles import correlate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inference.effects import Effect

    Floats = NDArray[np.float64]

N_LEADING = 50  # genes of a response whose overlap is counted
MIN_COMPARED = 2 * N_LEADING  # genes; with fewer the leading ones of any two responses overlap
MIN_CLEAR = 10  # genes whose measured change is beyond doubt, so that the share of right directions says something
CLEAR_Z = 3.0
LEAST_RELIABILITY = 0.05


@dataclass(frozen=True)
class Closeness:
    """Agreement of a predicted and a measured change of mean log1p(CP10k) over the tested genes.

    Attributes
    ----------
    pearson, cosine
        Correlation, and cosine, of the two changes; NaN for a prediction of no change at all.
    rmse
        Root mean squared difference.
    overlap
        Share of the 50 genes that change most in the measurement that are among the 50 of the prediction; NaN below
        100 genes.
    direction
        Share of the genes with a clear measured change (three standard errors) that the prediction moves the same way;
        a gene that it does not move counts as half. NaN with fewer than ten such genes.
    reliability
        Share of the variance of the measured change that is not sampling noise, at least .05.
    clean
        ``pearson`` divided by the square root of ``reliability``: against a measurement without noise.
    """

    pearson: float
    cosine: float
    rmse: float
    overlap: float
    direction: float
    reliability: float
    clean: float


def compare_changes(predicted: Floats, truth: Effect, *, tested: NDArray[np.bool_]) -> Closeness:
    """Compare a predicted change with a measured one.

    Parameters
    ----------
    predicted
        Change of mean log1p(CP10k) per gene.
    truth
        The measured change with its standard error.
    tested
        Genes to compare on.

    Examples
    --------
    >>> compare_changes(delta, truth, tested=tested).pearson  # doctest: +SKIP
    0.83
    """
    one, two, se = predicted[tested], truth.delta[tested], truth.se[tested]
    norm = float(np.linalg.norm(one) * np.linalg.norm(two))
    n = min(N_LEADING, one.size)
    leading = [set(np.argsort(-np.abs(values), kind="stable")[:n].tolist()) for values in (one, two)]
    is_still = not one.any()
    clear = np.abs(two) > CLEAR_Z * se
    right = np.where(one[clear] == 0, 0.5, np.sign(one[clear]) == np.sign(two[clear]))
    noise, spread = float(np.mean(se**2)) if se.size else np.nan, float(two.var(ddof=1)) if two.size > 1 else 0.0
    reliability = max(LEAST_RELIABILITY, 1 - noise / spread) if spread > 0 else np.nan
    pearson = correlate(one, two)
    return Closeness(
        pearson=pearson,
        cosine=float(one @ two) / norm if norm else np.nan,
        rmse=float(np.sqrt(np.mean((one - two) ** 2))) if one.size else np.nan,
        overlap=np.nan if is_still or one.size < MIN_COMPARED else len(leading[0] & leading[1]) / n,
        direction=float(np.mean(right)) if clear.sum() >= MIN_CLEAR else np.nan,
        reliability=reliability,
        clean=float(np.clip(pearson / np.sqrt(reliability), -1, 1)),
    )


def highest_correlation(halves: float) -> float:
    """Correlation that a perfect prediction would have with the whole measurement, from that of its two halves.

    With rho the correlation of two halves, sqrt(2 rho / (1 + rho)) by Spearman and Brown; NaN where rho is not above 0.
    """
    return float(np.sqrt(2 * halves / (1 + halves))) if halves > 0 else np.nan
