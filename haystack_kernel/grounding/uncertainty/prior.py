"""How large the effects of a response are, learned from all its genes: an adaptive shrinkage prior.

In: effects with their error variances. Out: for each gene a mixture of normal distributions of the true effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

N_SCALES = 20  # standard deviations of effects beside 0
ZERO_PENALTY = 10.0  # weight of the statement "no effect" before the data, in genes
TOLERANCE = 1e-5  # change of a weight at which the iteration ends
MAX_STEPS = 200
SMALL_EFFECT = 0.05  # below it a component says that there is no effect, rather than how large it is


@dataclass(frozen=True, eq=False)
class Mixture:
    """A distribution per gene: components x genes of weight, mean and variance."""

    weight: Floats
    mean: Floats
    variance: Floats

    def moments(self) -> tuple[Floats, Floats]:
        """Mean and variance per gene."""
        mean = (self.weight * self.mean).sum(axis=0)
        spread = (self.weight * (self.variance + (self.mean - mean) ** 2)).sum(axis=0)
        return mean, spread

    def below(self, value: float) -> Floats:
        """Probability, per gene, of a value below ``value``."""
        sd = np.sqrt(self.variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(sd > 0, (value - self.mean) / sd, np.where(self.mean < value, np.inf, -np.inf))
        return np.clip((self.weight * ndtr(z)).sum(axis=0), 0.0, 1.0)  # weights sum to 1 but for rounding

    def no_lower_than(self, floor: Floats) -> Mixture:
        """The same where an effect cannot lie below ``floor`` (at most 0): components below it shrink onto it."""
        lowest = np.minimum(floor, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(self.mean < lowest, lowest / self.mean, 1.0)
        return Mixture(self.weight, self.mean * factor, self.variance * factor**2)

    def carried_over(self, c2: float, *, least: float, beyond: Floats | float = 0.0) -> Mixture:
        """The effect elsewhere: variance ``least + c2 * effect**2`` is added to every component.

        So is ``beyond``, per gene a share of the mean squared effect of all genes, to components with an effect: half
        of it where the effect is 0.05.
        """
        square = self.mean**2 + self.variance
        responds = square / (square + SMALL_EFFECT**2)
        share = (self.weight * responds).sum(axis=0)
        typical = float(share @ (self.weight * square).sum(axis=0)) / max(float(share.sum()), np.finfo(float).tiny)
        added = least + c2 * square + beyond * typical * responds
        return Mixture(self.weight, self.mean, self.variance + added)


def posterior(effect: Floats, variance: Floats) -> Mixture:
    """Distribution of the true effects behind measured ones.

    Parameters
    ----------
    effect
        Measured effects.
    variance
        Their error variances, finite and above 0.

    Returns
    -------
    Posterior per gene. The prior is a mixture of 0 and of 20 normal distributions around 0, whose weights are those
    that make the measured effects most likely; ten genes without effect are added to the data.

    References
    ----------
    Stephens, Biostatistics 18:275 (2017).
    """
    lowest = np.sqrt(np.median(variance)) / 10
    highest = 2 * np.sqrt(max(float((effect**2 - variance).max()), lowest**2))
    scales = np.concatenate([[0.0], np.geomspace(lowest, highest, N_SCALES)])[:, None]
    total = scales**2 + variance
    log_likelihood = -0.5 * (np.log(total) + effect**2 / total)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=0))
    penalty = np.zeros(len(scales))
    penalty[0] = ZERO_PENALTY - 1
    weight = np.full(len(scales), 1 / len(scales))
    for _ in range(MAX_STEPS):
        again = weight * (likelihood @ (1 / (weight @ likelihood))) + penalty
        again /= again.sum()
        change, weight = float(np.abs(again - weight).max()), again
        if change < TOLERANCE:
            break
    share = weight[:, None] * likelihood
    shrink = scales**2 / total
    return Mixture(share / share.sum(axis=0), shrink * effect, shrink * variance)
