"""Negative-binomial counts, drawn from the reference's random stream or by a hash of each value's position.

In: mean, dispersion, and a generator or a (seed, step, cell) key. Out: whole counts, float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Keys = NDArray[np.uint64]

MAX_RATE = 1e8  # bound of the reference on a Poisson rate
MAX_COUNT = 2**24 - 1  # the largest whole number up to which float32 is exact

_SMALLEST_DISPERSION = 1e-30  # an underflow of softplus would give 0 / 0
_RECURRENCE_STEPS = 48  # counts up to here are found by summing probabilities, the few above by bisection
_LARGE_MEAN = 40.0
_ROWS = 64  # cells drawn at once
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def reference_gammas(dispersion: torch.Tensor, n_rows: int, generator: torch.Generator) -> torch.Tensor:
    """Gamma draws (n_rows, genes) of one window in the order of the reference; they do not depend on the means.

    Drawing window by window uses the same random stream as one draw over all windows.
    """
    shape = dispersion.clamp_min(_SMALLEST_DISPERSION).expand(n_rows, -1).contiguous()
    return torch._standard_gamma(shape, generator=generator)


def reference_rates(gammas: torch.Tensor, mean: torch.Tensor, dispersion: torch.Tensor) -> torch.Tensor:
    """Poisson rates (rows, genes) of these gamma draws, means (rows, genes) and inverse dispersions (genes,)."""
    drawn = gammas / (dispersion.clamp_min(_SMALLEST_DISPERSION) / mean)
    return drawn.clamp_(min=torch.finfo(drawn.dtype).tiny).clamp_(max=MAX_RATE)


def stream_key(seed: int, *, step: int) -> int:
    """Hash that all draws of one step start from, 64 bits."""
    return _mix_int(_mix_int(_mix_int(seed) ^ (step & _MASK)))


def draw_counts(
    mean: NDArray[np.float32], dispersion: NDArray[np.float32], *, seed: int, step: int, cells: Sequence[int]
) -> NDArray[np.float32]:
    """Draw counts by inverting the distribution function at a hash of (seed, step, cell, gene).

    Parameters
    ----------
    mean, dispersion
        (cells, genes): mean and inverse dispersion of each value.
    seed, step
        Seed of the run, and number of its step.
    cells
        Number of the cell of each row, which identifies it in the hash; a gene is identified by its column.

    Returns
    -------
    Whole counts of the same shape, at most 2**24 - 1.
    """
    result = np.empty(mean.shape, dtype=np.float32)
    for start in range(0, len(cells), _ROWS):
        rows = slice(start, start + _ROWS)
        u = uniforms(seed, step=step, cells=cells[rows], n_genes=mean.shape[1])
        result[rows] = invert(u, mean=mean[rows].astype(np.float64), dispersion=dispersion[rows].astype(np.float64))
    return result


def uniforms(seed: int, *, step: int, cells: Sequence[int], n_genes: int) -> Floats:
    """Numbers in (0, 1), shape (cells, genes): 53 bits of splitmix64 at each position."""
    return _uniforms_at(row_keys(seed, step=step, cells=cells)[:, None], np.arange(1, n_genes + 1, dtype=np.uint64))


def row_keys(seed: int, *, step: int, cells: Sequence[int]) -> Keys:
    """Hash of each cell's row, to which the number of a gene is added."""
    row = stream_key(seed, step=step)
    return np.array([_mix_int(row + _GOLDEN * (cell + 1)) for cell in cells], dtype=np.uint64)


def finish_counts(
    counts: NDArray[np.float32],
    *,
    mean: NDArray[np.float32],
    dispersion: NDArray[np.float32],
    keys: Keys,
    window: NDArray[np.int64],
) -> None:
    """Draw, in place, the counts that are still below 0.

    Parameters
    ----------
    counts, mean
        (cells, genes).
    dispersion
        (windows, genes).
    keys
        Of each cell, see :func:`row_keys`.
    window
        Row of ``dispersion`` that belongs to each cell.
    """
    rows, genes = np.nonzero(counts < 0)
    u = _uniforms_at(keys[rows], genes.astype(np.uint64) + np.uint64(1))
    theta = np.maximum(dispersion[window[rows], genes].astype(np.float64), _SMALLEST_DISPERSION)
    counts[rows, genes] = _bisect(u, mean[rows, genes].astype(np.float64), theta)


def invert(u: Floats, *, mean: Floats, dispersion: Floats) -> Floats:
    """Smallest count whose cumulative negative-binomial probability reaches ``u``; all arrays of one shape.

    Small counts come from summing probabilities upwards from 0, the others from a bisection on the regularised
    incomplete beta function: P(X <= k) = I_p(theta, k + 1) with p = theta / (theta + mu).
    """
    theta = np.maximum(dispersion, _SMALLEST_DISPERSION)
    none = np.exp(-theta * np.log1p(mean / theta))  # probability of 0
    result = np.zeros(u.shape)
    place = np.flatnonzero((u > none) & (mean > 0))
    u, mean, theta, none = (part.ravel()[place] for part in (u, mean, theta, none))
    counts = np.zeros(place.size)
    left = np.flatnonzero(mean <= _LARGE_MEAN)
    term, cumulative, odds = none[left], none[left], mean / (mean + theta)
    for count in range(1, _RECURRENCE_STEPS + 1):
        term = term * ((theta[left] + count - 1) / count * odds[left])
        cumulative = cumulative + term
        counts[left] = count
        is_open = cumulative < u[left]
        left, term, cumulative = left[is_open], term[is_open], cumulative[is_open]
        if not left.size:
            break
    rest = np.concatenate([left, np.flatnonzero(mean > _LARGE_MEAN)])
    counts[rest] = _bisect(u[rest], mean[rest], theta[rest])
    result.ravel()[place] = counts
    return result


def _bisect(u: Floats, mean: Floats, theta: Floats) -> Floats:
    """As :func:`invert` for counts above 0, by bisection; counts are limited to the largest that float32 represents."""
    p = theta / (theta + mean)
    low, high = np.zeros(u.shape), np.minimum(np.maximum(2.0 * np.ceil(mean), 64.0), MAX_COUNT)
    short = np.flatnonzero(special.betainc(theta, high + 1.0, p) < u)
    while short.size:
        low[short], high[short] = high[short], np.minimum(high[short] * 4.0, MAX_COUNT)
        short = short[high[short] < MAX_COUNT]
        short = short[special.betainc(theta[short], high[short] + 1.0, p[short]) < u[short]]
    wide = np.flatnonzero(high - low > 1.0)
    while wide.size:
        middle = np.floor((low[wide] + high[wide]) / 2.0)
        is_enough = special.betainc(theta[wide], middle + 1.0, p[wide]) >= u[wide]
        high[wide] = np.where(is_enough, middle, high[wide])
        low[wide] = np.where(is_enough, low[wide], middle)
        wide = wide[high[wide] - low[wide] > 1.0]
    return high


def _uniforms_at(keys: Keys, genes: Keys) -> Floats:
    """Numbers in (0, 1) of genes, numbered from 1, in rows of these keys."""
    value = keys + genes * np.uint64(_GOLDEN)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_FIRST)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_SECOND)
    value ^= value >> np.uint64(31)
    return ((value >> np.uint64(11)) + 0.5) * 2.0**-53


def _mix_int(value: int) -> int:
    """Splitmix64's step on one number."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)
