"""Triton kernels of the counter-based sampler: the counts of ``inference.stack.sampling``, drawn where the mean lies.

In: mean and dispersion on the GPU. Out: whole counts, float32, there too; nothing waits for the host. Everything is
float64, so that the counts equal those of the processor's sampler.

The first kernel hashes, and finds counts up to 48 by summing probabilities; it lists the places of the few others. The
second takes those: a bracket by the regularised incomplete beta function, then a sum from its lower end.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from inference.stack.sampling import MAX_COUNT, stream_key

_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND = tl.constexpr(0x94D049BB133111EB)
_SMALLEST_DISPERSION = tl.constexpr(1e-30)
_LARGE_MEAN = tl.constexpr(40.0)
_SUMMED = tl.constexpr(48.0)  # counts the first kernel reaches
_AT_ONCE = tl.constexpr(4)  # counts between two looks whether all are found
_WALK = tl.constexpr(256.0)  # width of a bracket that is summed up
_MAX_COUNT = tl.constexpr(float(MAX_COUNT))
_LOWEST = tl.constexpr(-3e38)
_TOLERANCE = tl.constexpr(1e-15)
_MAX_TERMS = tl.constexpr(20_000)  # of a continued fraction; its need grows with the root of the count

_GENES = 128  # per program of the first kernel
_ROW = 1024  # logits of a row at a time
_LANES = 32  # values per program of the second: one per thread of a warp
_PROGRAMS = 4096  # of the second kernel at most


def draw_counts(
    mean: torch.Tensor,
    dispersion: torch.Tensor,
    *,
    seed: int,
    step: int,
    cells: torch.Tensor,
    window: torch.Tensor,
    at_once: int = 2**24,
) -> torch.Tensor:
    """Draw counts by inverting the distribution function at a hash of (seed, step, cell, gene).

    Parameters
    ----------
    mean
        (rows, genes).
    dispersion
        (windows, genes), inverse dispersions.
    seed, step
        Of the run, and of its step.
    cells
        (rows,) int64, each row's identity in the hash.
    window
        (rows,) int64, each row's row of ``dispersion``.
    at_once
        Values drawn at once, about: bounds the memory, a place of 4 bytes for each.

    Returns
    -------
    Whole counts (rows, genes), float32, at most 2**24 - 1.
    """
    mean = mean.contiguous()
    nothing = torch.empty(0, dtype=torch.float32, device=mean.device)
    places: dict[str, Any] = {"seed": seed, "step": step, "cells": cells, "window": window}
    return _draw(mean, mean, nothing, dispersion, **places, at_once=at_once, is_logit=False)


def expect_and_draw(
    logits: torch.Tensor,
    library: torch.Tensor,
    dispersion: torch.Tensor,
    *,
    seed: int,
    step: int,
    cells: torch.Tensor,
    window: torch.Tensor,
    at_once: int = 2**24,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax, scaling and draw in one: the logits are read twice, means and counts written once.

    Parameters
    ----------
    logits
        (rows, genes), of any float type.
    library
        (rows,), float32: what the means of a row sum to.
    dispersion, seed, step, cells, window, at_once
        See :func:`draw_counts`.

    Returns
    -------
    Means, float32, and the counts that :func:`draw_counts` draws from them.
    """
    logits = logits.contiguous()
    n_rows, n_genes = logits.shape
    mean = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    scales = torch.empty(n_rows, 2, dtype=torch.float32, device=logits.device)
    if n_genes and n_rows:
        with torch.cuda.device_of(logits):
            _scale_rows[(n_rows,)](logits, library.contiguous(), scales, n_genes, BLOCK=_ROW, num_warps=4)
    places: dict[str, Any] = {"seed": seed, "step": step, "cells": cells, "window": window}
    return mean, _draw(mean, logits, scales, dispersion, **places, at_once=at_once, is_logit=True)


def _draw(
    mean: torch.Tensor,
    logits: torch.Tensor,
    scales: torch.Tensor,
    dispersion: torch.Tensor,
    *,
    seed: int,
    step: int,
    cells: torch.Tensor,
    window: torch.Tensor,
    at_once: int,
    is_logit: bool,
) -> torch.Tensor:
    """Counts of given means, or of means that are computed from logits and written on the way."""
    n_rows, n_genes = mean.shape
    dispersion, cells, window = (part.contiguous() for part in (dispersion, cells, window))
    counts = torch.empty(mean.shape, dtype=torch.float32, device=mean.device)
    key = stream_key(seed, step=step)
    key -= (key >> 63) << 64  # the same bits as a signed number
    n_at_once = max(1, at_once // max(1, n_genes))
    with torch.cuda.device_of(mean):
        for start in range(0, n_rows if n_genes else 0, n_at_once):
            rows = slice(start, start + n_at_once)
            part = mean[rows]
            # The first kernel draws the small counts and lists the places of the others, which the second one draws.
            n_rest = torch.zeros(1, dtype=torch.int32, device=mean.device)
            rest = torch.empty(part.numel(), dtype=torch.int32, device=mean.device)
            inputs = (counts[rows], part, dispersion, cells[rows], window[rows], n_rest, rest)
            _draw_small[(len(part), triton.cdiv(n_genes, _GENES))](
                *inputs, logits[rows], scales[rows], n_genes, key, BLOCK=_GENES, IS_LOGIT=is_logit, num_warps=1
            )
            n_programs = min(_PROGRAMS, triton.cdiv(part.numel(), _LANES))
            _draw_rest[(n_programs,)](*inputs, n_genes, key, BLOCK=_LANES, num_warps=1)
    return counts


@triton.jit
def _scale_rows(
    logits: tl.tensor, library: tl.tensor, scales: tl.tensor, n_genes: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """One program: the largest logit of a row, and its library over the sum of the exponentials."""
    row = tl.program_id(0).to(tl.int64)
    highest = tl.full((BLOCK,), _LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n_genes, BLOCK):
        genes = start + tl.arange(0, BLOCK)
        is_there = genes < n_genes
        logit = tl.load(logits + row * n_genes + genes, mask=is_there, other=0.0).to(tl.float32)
        logit = tl.where(is_there, logit, _LOWEST)
        higher = tl.maximum(highest, logit)
        total = total * tl.exp(highest - higher) + tl.exp(logit - higher)
        highest = higher
    top = tl.max(highest, 0)
    whole = tl.sum(total * tl.exp(highest - top), 0)  # lanes without a gene add nothing: their highest is far below
    tl.store(scales + 2 * row, top)
    tl.store(scales + 2 * row + 1, tl.load(library + row) / whole)


@triton.jit(do_not_specialize=["key"])
def _draw_small(
    counts: tl.tensor,
    mean: tl.tensor,
    dispersion: tl.tensor,
    cells: tl.tensor,
    window: tl.tensor,
    n_rest: tl.tensor,
    rest: tl.tensor,
    logits: tl.tensor,
    scales: tl.tensor,
    n_genes: tl.tensor,
    key: tl.tensor,
    BLOCK: tl.constexpr,
    IS_LOGIT: tl.constexpr,
) -> None:
    """One program: BLOCK genes of one row."""
    row = tl.program_id(0)
    genes = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_there = genes < n_genes
    place = row * n_genes + genes
    if IS_LOGIT:
        logit = tl.load(logits + place, mask=is_there, other=0.0).to(tl.float32)
        logit = tl.where(is_there, logit, tl.load(scales + 2 * row))
        given = tl.exp(logit - tl.load(scales + 2 * row)) * tl.load(scales + 2 * row + 1)
        tl.store(mean + place, given, mask=is_there)
        mu = tl.where(is_there, given, 0.0).to(tl.float64)  # nothing is drawn, and listed, beyond the row
    else:
        mu = tl.load(mean + place, mask=is_there, other=0.0).to(tl.float64)
    theta = tl.load(dispersion + tl.load(window + row) * n_genes + genes, mask=is_there, other=1.0).to(tl.float64)
    theta = tl.maximum(theta, _SMALLEST_DISPERSION)
    u = _uniform(tl.load(cells + row), genes, key)
    term = _none(mu, theta)
    is_open = (u > term) & (mu > 0.0)
    is_summed = is_open & (mu <= _LARGE_MEAN)
    is_rest = is_open & (mu > _LARGE_MEAN)
    odds = mu / (mu + theta)
    total, count, found = term, tl.full((), 0.0, tl.float64), tl.zeros((BLOCK,), tl.float32)
    while (count < _SUMMED) & (tl.max(is_summed.to(tl.int32), 0) > 0):
        for _ in tl.static_range(_AT_ONCE):
            term *= (theta + count) * odds * (1.0 / (count + 1.0))
            total += term
            count += 1.0
            found = tl.where(is_summed, count.to(tl.float32), found)
            is_summed = is_summed & (total < u)
    tl.store(counts + place, found, mask=is_there)
    is_rest = (is_rest | is_summed).to(tl.int32)
    n_more = tl.sum(is_rest, 0)
    if n_more > 0:
        start = tl.atomic_add(n_rest, n_more)
        tl.store(rest + start + tl.cumsum(is_rest, 0) - 1, place, mask=is_rest > 0)


@triton.jit(do_not_specialize=["key"])
def _draw_rest(
    counts: tl.tensor,
    mean: tl.tensor,
    dispersion: tl.tensor,
    cells: tl.tensor,
    window: tl.tensor,
    n_rest: tl.tensor,
    rest: tl.tensor,
    n_genes: tl.tensor,
    key: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Every program: the next BLOCK listed places, until none is left."""
    n = tl.load(n_rest)
    for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        lanes = start + tl.arange(0, BLOCK)
        is_there = lanes < n
        place = tl.load(rest + lanes, mask=is_there, other=0)
        row, gene = place // n_genes, place % n_genes
        mu = tl.load(mean + place, mask=is_there, other=1.0).to(tl.float64)
        own = tl.load(window + row, mask=is_there, other=0) * n_genes + gene
        theta = tl.maximum(tl.load(dispersion + own, mask=is_there, other=1.0).to(tl.float64), _SMALLEST_DISPERSION)
        u = _uniform(tl.load(cells + row, mask=is_there, other=0), gene, key)
        tl.store(counts + place, _search(u, mu, theta, is_there).to(tl.float32), mask=is_there)


@triton.jit
def _search(u: tl.tensor, mu: tl.tensor, theta: tl.tensor, is_there: tl.tensor) -> tl.tensor:
    """Smallest count whose cumulative probability reaches ``u``; it is above 0, and at most what float32 holds."""
    low = tl.zeros_like(u)
    total = _none(mu, theta)  # cumulative probability at ``low``
    term = total  # probability of ``low`` itself
    high = tl.minimum(tl.maximum(2.0 * tl.ceil(mu), 64.0), _MAX_COUNT)
    probe = high
    is_bounded = u < 0.0  # none yet
    is_open = is_there
    while tl.max(is_open.to(tl.int32), 0) > 0:
        cumulative, own = _cumulative(probe, mu, theta, is_open)
        is_enough = cumulative >= u
        is_low = is_open & (is_enough == 0)
        low, total, term = (
            tl.where(is_low, probe, low),
            tl.where(is_low, cumulative, total),
            tl.where(is_low, own, term),
        )
        is_bounded = is_bounded | (is_open & (is_enough | (probe >= _MAX_COUNT)))
        high = tl.where(is_open & is_enough, probe, high)
        high = tl.where(is_bounded, high, tl.minimum(high * 4.0, _MAX_COUNT))
        probe = tl.where(is_bounded, tl.floor((low + high) * 0.5), high)
        is_open = is_there & ((is_bounded == 0) | (high - low > _WALK))
    odds = mu / (mu + theta)
    is_open = is_there & (low < high) & (total < u)
    while tl.max(is_open.to(tl.int32), 0) > 0:
        term = tl.where(is_open, term * ((theta + low) / (low + 1.0) * odds), term)
        total = tl.where(is_open, total + term, total)
        low = tl.where(is_open, low + 1.0, low)
        is_open = is_open & (low < high) & (total < u)
    return low


@triton.jit
def _cumulative(count: tl.tensor, mu: tl.tensor, theta: tl.tensor, is_open: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Cumulative negative-binomial probability I_p(theta, count + 1) and the probability of ``count``."""
    p, q = theta / (theta + mu), mu / (theta + mu)
    b = count + 1.0
    whole = theta + b
    # p^theta q^b / B(theta, b), each power taken relative to its largest value: no large numbers cancel
    excess = p * b - q * theta
    power = theta * _log_ratio(excess / theta, p * whole / theta) + b * _log_ratio(-excess / b, q * whole / b)
    front = tl.exp(power + _log_gamma_rest(whole) - _log_gamma_rest(theta) - _log_gamma_rest(b))
    front *= tl.sqrt(theta * b / (whole * 6.283185307179586))
    is_turned = p > (theta + 1.0) / (whole + 2.0)
    one, other = tl.where(is_turned, b, theta), tl.where(is_turned, theta, b)
    part = front / one * _beta_fraction(one, other, tl.where(is_turned, q, p), is_open)
    return tl.where(is_turned, 1.0 - part, part), front / ((theta + count) * q)


@triton.jit
def _beta_fraction(a: tl.tensor, b: tl.tensor, x: tl.tensor, is_open: tl.tensor) -> tl.tensor:
    """Continued fraction of the incomplete beta function (DLMF 8.17.22), evaluated by Lentz's method."""
    c = tl.zeros_like(x) + 1.0
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    value, m, n_terms = d, c, 1
    while (n_terms < _MAX_TERMS) & (tl.max(is_open.to(tl.int32), 0) > 0):
        twice = a + 2.0 * m
        even = m * (b - m) * x / ((twice - 1.0) * twice)
        d = 1.0 / (1.0 + even * d)
        c = 1.0 + even / c
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / (twice * (twice + 1.0))
        d = 1.0 / (1.0 + odd * d)
        c = 1.0 + odd / c
        value *= d * c
        is_open = is_open & (tl.abs(d * c - 1.0) > _TOLERANCE)
        m += 1.0
        n_terms += 1
    return value


@triton.jit
def _log_gamma_rest(z: tl.tensor) -> tl.tensor:
    """What Stirling's formula leaves: log Gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2, for z > 0."""
    low = tl.minimum(z, 10.0)
    product = tl.zeros_like(z) + 1.0
    shifted = z
    for _ in tl.static_range(10):  # Gamma(z + 1) = z Gamma(z), up to where the series holds
        is_small = shifted < 10.0
        product = tl.where(is_small, product * shifted, product)
        shifted = tl.where(is_small, shifted + 1.0, shifted)
    r = 1.0 / (shifted * shifted)
    series = 1.0 / 156.0 - r * 3617.0 / 122400.0
    series = -691.0 / 360360.0 + r * series
    series = 1.0 / 1188.0 + r * series
    series = -1.0 / 1680.0 + r * series
    series = 1.0 / 1260.0 + r * series
    series = -1.0 / 360.0 + r * series
    series = (1.0 / 12.0 + r * series) / shifted
    moved = series + (shifted - 0.5) * tl.log(shifted) - shifted - tl.log(product) - (low - 0.5) * tl.log(low) + low
    return tl.where(z < 10.0, moved, series)


@triton.jit
def _none(mu: tl.tensor, theta: tl.tensor) -> tl.tensor:
    """Probability of 0."""
    return tl.exp(-theta * _log1p(mu / theta))


@triton.jit
def _log_ratio(excess: tl.tensor, ratio: tl.tensor) -> tl.tensor:
    """log(ratio), where ``ratio`` = 1 + ``excess``."""
    return tl.where(tl.abs(excess) < 0.5, _log1p(excess), tl.log(ratio))


@triton.jit
def _log1p(x: tl.tensor) -> tl.tensor:
    """log(1 + x), exact to a few units of the last place also for small x."""
    whole = 1.0 + x
    error = whole - 1.0
    return tl.where(error == 0.0, x, tl.log(whole) * (x / tl.where(error == 0.0, 1.0, error)))


@triton.jit
def _uniform(cell: tl.tensor, genes: tl.tensor, key: tl.tensor) -> tl.tensor:
    """Number in (0, 1) of each place: 53 bits of splitmix64."""
    row = _finish(key.to(tl.uint64) + _GOLDEN * (cell + 2).to(tl.uint64))
    bits = _finish(row + (genes + 1).to(tl.uint64) * _GOLDEN)
    return ((bits >> 11).to(tl.float64) + 0.5) * 1.1102230246251565e-16


@triton.jit
def _finish(value: tl.tensor) -> tl.tensor:
    value = (value ^ (value >> 30)) * _FIRST
    value = (value ^ (value >> 27)) * _SECOND
    return value ^ (value >> 31)
