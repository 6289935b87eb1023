"""Tails of the usual distributions and adjusted p values, from the functions of ``scipy.special``.

In: statistics and degrees of freedom, p values. Out: p values. They equal those of ``scipy.stats``, whose import would
cost every run the better part of a second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaln, stdtr, stdtrit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def t_above(t: ArrayLike, degrees: ArrayLike) -> NDArray[np.float64]:
    """Chance of a value above ``t`` under Student's t with so many degrees of freedom."""
    return np.asarray(stdtr(degrees, -np.asarray(t, dtype=float)))


def t_quantile(share: float, degrees: float) -> float:
    """The value that Student's t stays below with probability ``share``."""
    return float(stdtrit(degrees, share))


def p_greater(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """One-sided p of a mean above that of ``two`` (Welch's t test), or above 0 where ``two`` is empty (t test)."""
    errors = [float(values.var(ddof=1)) / values.size for values in (one, two) if values.size]
    total = sum(errors)
    sizes = [values.size for values in (one, two) if values.size]
    degrees = total**2 / sum(error**2 / (size - 1) for error, size in zip(errors, sizes, strict=True))
    difference = float(one.mean()) - (float(two.mean()) if two.size else 0.0)
    return float(t_above(difference / math.sqrt(total), degrees))


def hypergeometric(counts: NDArray[np.int64], *, n: int, n_called: int, n_drawn: int) -> NDArray[np.float64]:
    """Chance of each count of called genes among ``n_drawn`` of ``n`` genes of which ``n_called`` are called."""
    n_other = n - n_called
    ways_of_all = betaln(n_called + 1, 1) + betaln(n_other + 1, 1) + betaln(n - n_drawn + 1, n_drawn + 1)
    ways = betaln(counts + 1, n_called - counts + 1) + betaln(n_drawn - counts + 1, n_other - n_drawn + counts + 1)
    return np.asarray(np.exp(ways_of_all - ways - betaln(n + 1, 1)))


def adjust(pval: NDArray[np.float64]) -> NDArray[np.float64]:
    """P values adjusted by Benjamini and Hochberg, J R Stat Soc B 57:289 (1995), in the order given."""
    order = np.argsort(pval)
    scaled = pval[order] * (pval.size / np.arange(1, pval.size + 1))
    adjusted = np.empty_like(scaled)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.clip(adjusted, 0.0, 1.0)
