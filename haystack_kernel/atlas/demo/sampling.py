"""Draw counts of simulated cells: gamma-Poisson around expected shares, with nuisance that no treatment causes.

In: groups of cells of the same type, donor and treatment. Out: integer counts as CSR, the same for the same seed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import scipy.sparse as sp

from haystack_kernel.atlas.demo.facts import (
    CELL_TYPES,
    KANG_DISPERSION,
    KANG_MAX_DISPERSION,
    KANG_MEDIAN_COUNTS,
    KANG_SD_LOG_COUNTS,
    NUISANCE,
)
from haystack_kernel.atlas.demo.profiles import load_genes, rng_of

T = TypeVar("T", np.float32, np.float64)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.atlas.demo.world import World

_DONOR_SD = 0.15  # gene by gene, natural log, shared by the donor's cell types
_DONOR_TYPE_SD = 0.08
_INFLAMMATION_SD = 0.35  # of the donor's inflammation module
_RESPONSE_SD = 0.20  # between samples, natural log of how strongly the donor responds
_STRESS_SAMPLE_SD, _STRESS_CELL_SD = 0.25, 0.45
_CYCLING_LOG_FOLD = 2.5
_AMBIENT = (2.0, 48.0)  # beta distribution of the share of ambient RNA: mean 4 %
_ABUNDANT = 3.0  # counts per cell
_MAX_RARE = 500  # counts; far beyond what a gene below that abundance reaches


@dataclass(frozen=True)
class Group:
    """Cells of one type within one sample."""

    cell_type: str  # CL id
    n_cells: int


@dataclass(frozen=True)
class Sample:
    """One donor's cells under one treatment, prepared together: they share donor effects and ambient RNA."""

    dataset: str
    donor: str
    perturbation: str | None  # canonical name; None: control
    groups: tuple[Group, ...]
    batch: str = ""  # distinguishes samples of the same donor and treatment


def dispersion(mu: NDArray[T]) -> NDArray[T]:
    """Negative binomial dispersion phi (variance mu + phi mu^2) at mean count ``mu``, the trend measured on Kang."""
    a, b = KANG_DISPERSION
    return np.minimum(a + b / np.maximum(mu, 1e-12), KANG_MAX_DISPERSION)


def sample_counts(world: World, sample: Sample) -> sp.csr_matrix:
    """Draw the cells of a sample, group after group.

    Returns
    -------
    float32 CSR of whole numbers, cells x ``world.genes``. Depends only on the world and on the names of the sample.
    """
    return sample_cells(world, sample)[0]


def sample_cells(world: World, sample: Sample) -> tuple[sp.csr_matrix, NDArray[np.float32]]:
    """Return the counts of :func:`sample_counts`, and the expected counts they are drawn around, of the same shape."""
    words = (sample.dataset, sample.donor, sample.perturbation or "control", sample.batch)
    rng = rng_of(world.seed, "counts", *words)
    strength = float(np.exp(rng.normal(0, _RESPONSE_SD)))
    shares = [_donor_share(world, sample, group, strength=strength) for group in sample.groups]
    weights = np.array([group.n_cells for group in sample.groups], dtype=np.float64)
    ambient = weights / weights.sum() @ np.array(shares)
    stress = rng.normal(0, _STRESS_SAMPLE_SD)
    parts = [
        _expected(world, group, share, ambient=ambient, stress=stress, rng=rng)
        for group, share in zip(sample.groups, shares, strict=True)
    ]
    expected = np.concatenate(parts)
    return sp.csr_matrix(_negative_binomial(expected, rng=rng)), expected


def _donor_share(world: World, sample: Sample, group: Group, *, strength: float) -> NDArray[np.float64]:
    share = world.share(group.cell_type, sample.perturbation, strength=strength)
    donor = rng_of(world.seed, "donor", sample.dataset, sample.donor)
    offset = donor.normal(0, _DONOR_SD, len(share))
    offset[_columns("donor_inflammation")] += donor.normal(0, _INFLAMMATION_SD)
    own = rng_of(world.seed, "donor", sample.dataset, sample.donor, group.cell_type)
    share = share * np.exp(offset + own.normal(0, _DONOR_TYPE_SD, len(share)))
    return share / share.sum()


def _expected(
    world: World,
    group: Group,
    share: NDArray[np.float64],
    *,
    ambient: NDArray[np.float64],
    stress: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Expected counts of each cell: nuisance of the cell, ambient RNA, its depth."""
    fact = CELL_TYPES[world.row(group.cell_type)]
    n_cells = group.n_cells
    cells = np.repeat(share[None, :].astype(np.float32), n_cells, axis=0)
    stressed = _columns("dissociation_stress")
    cells[:, stressed] *= np.exp(stress + rng.normal(0, _STRESS_CELL_SD, (n_cells, 1)))
    cycling = np.flatnonzero(rng.random(n_cells) < fact.frac_cycling)
    cells[np.ix_(cycling, _columns("cell_cycle"))] *= np.exp(_CYCLING_LOG_FOLD)
    soup = rng.beta(*_AMBIENT, size=n_cells)
    depth = KANG_MEDIAN_COUNTS[fact.depth] * np.exp(rng.normal(0, KANG_SD_LOG_COUNTS[fact.depth], n_cells))
    cells *= (depth * (1 - soup) / cells.sum(axis=1))[:, None].astype(np.float32)
    cells += np.outer(depth * soup, ambient).astype(np.float32)
    return cells


def _negative_binomial(mu: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw counts: abundant genes as gamma-Poisson, the others, mostly zero, by inversion of one uniform number."""
    shape = (1 / dispersion(mu)).astype(np.float32)
    counts = np.zeros(mu.shape, dtype=np.float32)
    abundant = mu.mean(axis=0) > _ABUNDANT
    rate = rng.standard_gamma(shape[:, abundant], dtype=np.float32) * (mu[:, abundant] / shape[:, abundant])
    counts[:, abundant] = rng.poisson(rate)
    rare = np.flatnonzero(~abundant)
    mu, shape = mu[:, rare], shape[:, rare]
    none = np.exp(-shape * np.log(1 + mu / shape))
    uniform = rng.random(mu.shape, dtype=np.float32)
    cell, gene = np.nonzero(uniform > none)
    at = (cell, gene)
    counts[cell, rare[gene]] = _invert(uniform[at], none=none[at], mu=mu[at], shape=shape[at])
    return counts


def _invert(
    uniform: NDArray[np.float32], *, none: NDArray[np.float32], mu: NDArray[np.float32], shape: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Smallest count whose cumulative probability reaches ``uniform``, given that it exceeds that of zero."""
    counts = np.ones(len(uniform), dtype=np.float32)
    place = np.arange(len(uniform))
    odds = (mu / (mu + shape)).astype(np.float64)
    pmf = none * odds * shape
    left = uniform - none - pmf
    for count in range(2, _MAX_RARE):
        rest = np.flatnonzero(left > 0)
        if not len(rest):
            break
        place, odds, shape = place[rest], odds[rest], shape[rest]
        counts[place] = count
        pmf = pmf[rest] * odds * (shape + count - 1) / count
        left = left[rest] - pmf
    return counts


@functools.cache
def _columns(module: str) -> NDArray[np.int64]:
    place = {gene: column for column, gene in enumerate(load_genes()[0])}
    return np.array([place[gene] for gene in NUISANCE[module]], dtype=np.int64)
