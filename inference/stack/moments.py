"""The expectation of log1p(CP10k) over all possible draws, computed as a sum.

In: mean, dispersion and library size of each value. Out: its expectation. Unlike an average over drawn counts, a gene's
average over cells then contains no sampling noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inference.stack.ops_native import load_native, why_not

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_LARGE_MEAN, _NARROW = 20.0, 8.0  # above both (mean, inverse dispersion) a second-order expansion is as good
_MOST_TERMS = 1000
_REST = 1e-5  # remaining probability at which the sum ends
_LEAST_DISPERSION = 1e-3


def expect_log(mean: Floats, dispersion: Floats, *, scale: Floats) -> Floats:
    """Expectation of log1p(scale x) for negative-binomial counts x.

    Parameters
    ----------
    mean, dispersion
        Of each value, (cells, genes): mean mu and inverse dispersion theta (variance mu + mu^2 / theta).
    scale
        Per cell, (cells, 1): 1e4 / L for log1p(CP10k).

    Returns
    -------
    (cells, genes), natural-log units. Summed count by count, to about 1e-4 up to a mean of 20 and 2 % above; for large
    means of narrow distributions the expansion f(mu) + f''(mu) variance / 2. Compiled code does it where there is some.
    """
    compute = sum_terms if why_not() else load_native().expect_log
    return compute(mean, dispersion, scale=scale)


def sum_terms(mean: Floats, dispersion: Floats, *, scale: Floats) -> Floats:
    """:func:`expect_log` by numpy."""
    theta = np.maximum(dispersion, np.float32(_LEAST_DISPERSION))
    scale = np.broadcast_to(scale, mean.shape)
    bent = -((scale / (1 + scale * mean)) ** 2) * (mean + mean**2 / theta) / 2
    result = np.log1p(scale * mean) + bent
    summed = (mean <= _LARGE_MEAN) | (theta < _NARROW)
    mean, theta, scale = (part[summed] for part in (mean, theta, scale))
    odds, term = mean / (mean + theta), np.exp(-theta * np.log1p(mean / theta))
    left, total = 1 - term, np.zeros_like(mean)
    beyond = mean.astype(np.float64)  # the part of the mean not yet summed
    state = {"left": left, "total": total, "beyond": beyond}
    going = {**state, "term": term, "theta": theta, "odds": odds, "scale": scale, "at": np.arange(mean.size)}
    for count in range(1, _MOST_TERMS):
        goes_on = going["left"] > _REST
        if not goes_on.all():  # the sums that have ended leave the arrays, so that each term costs only the others
            for name, whole in state.items():
                whole[going["at"]] = going[name]
            going = {name: part[goes_on] for name, part in going.items()}
        if not going["at"].size:
            break
        going["term"] *= (going["theta"] + (count - 1)) / count * going["odds"]
        going["total"] += going["term"] * np.log1p(count * going["scale"])
        going["left"] -= going["term"]
        going["beyond"] -= count * going["term"]
    for name, whole in state.items():
        whole[going["at"]] = going[name]
    left = np.maximum(left, 0)
    tail = np.maximum(np.divide(beyond, left, out=np.zeros_like(beyond), where=left > _REST), count)
    result[summed] = total + left * np.log1p(tail * scale)
    return np.asarray(result, dtype=np.float32)
