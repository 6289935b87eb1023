"""Low-dimensional profiles: principal coordinates of log shares, and their estimate from the counts of one cell.

In: a world. Out: :class:`Basis` (share <-> coordinates) and :class:`Reader` (log1p counts -> coordinates, by ridge
regression). They give training its starting weights and its cheap loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from tools.training.world import UNTREATED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tools.training.world import World

    Floats = NDArray[np.float64]

CP10K = 1e4
_LEAST_WEIGHT = 0.05
_N_CONTROL = 500  # untreated cells whose own profiles take part in the basis: donors, stress, cycling


@dataclass(frozen=True)
class Basis:
    """Principal directions of weighted log shares; a gene weighs what a change of its log is worth in log1p(CP10k)."""

    mean: Floats  # genes: mean log share
    weight: Floats  # genes, in (0, 1]
    directions: Floats  # (coordinates, genes), orthonormal
    centre: Floats  # coordinates: mean over training cells
    spread: Floats  # coordinates: standard deviation over training cells

    def coordinates(self, share: Floats) -> Floats:
        """Rows of shares -> rows of coordinates."""
        return np.asarray(((np.log(share) - self.mean) * self.weight) @ self.directions.T)

    @property
    def per_gene(self) -> Floats:
        """(coordinates, genes): log share gained per unit of each coordinate."""
        return self.directions / self.weight


@dataclass(frozen=True)
class Reader:
    """Linear estimate of a cell's centred coordinates: ``log1p(counts) @ weights + offset``."""

    weights: Floats  # (genes, coordinates)
    offset: Floats

    def read(self, counts: sparse.csr_matrix) -> Floats:
        """Estimate the coordinates of cells."""
        return np.asarray(_log1p(counts) @ self.weights + self.offset)


def fit_basis(world: World, *, n_coordinates: int, rng: np.random.Generator) -> Basis:
    """Principal directions of all profiles that training may see."""
    profiles = [world.share[1 + number][world.shown(number)] for number in (UNTREATED, *range(len(world.is_drug)))]
    some = rng.choice(len(world.control_share), min(_N_CONTROL, len(world.control_share)), replace=False)
    share = np.concatenate([*profiles, world.control_share[some]])
    logs, cp10k = np.log(share), CP10K * share.mean(axis=0)
    mean, weight = logs.mean(axis=0), np.maximum(cp10k / (1 + cp10k), _LEAST_WEIGHT)
    directions = np.linalg.svd((logs - mean) * weight, full_matrices=False)[2][:n_coordinates]
    blank = Basis(mean, weight, directions, np.zeros(len(directions)), np.ones(len(directions)))
    found = _coordinates_of_cells(world, blank)[1]
    return Basis(mean, weight, directions, found.mean(axis=0), found.std(axis=0))


def fit_reader(world: World, basis: Basis, *, ridge: float) -> Reader:
    """Ridge regression of the coordinates on the log counts of all cells that training may see."""
    counts, coordinates = _coordinates_of_cells(world, basis)
    logs = _log1p(counts)
    mean, target = np.asarray(logs.mean(axis=0)).ravel(), coordinates - basis.centre
    square = np.asarray((logs.T @ logs).todense()) - counts.shape[0] * np.outer(mean, mean)
    square[np.diag_indices_from(square)] += ridge
    product = logs.T @ target - np.outer(mean, target.sum(axis=0))
    weights = np.linalg.solve(square, product)
    return Reader(weights, -mean @ weights)


def _coordinates_of_cells(world: World, basis: Basis) -> tuple[sparse.csr_matrix, Floats]:
    """All cells that may be seen, and the coordinates of their true profiles (of their type, if treated)."""
    counts, coordinates = [world.control], [basis.coordinates(world.control_share)]
    for treatment in range(len(world.is_drug)):
        for cell_type in world.shown(treatment):
            cells = world.cells(treatment, int(cell_type))
            counts.append(cells)
            one = basis.coordinates(world.share[1 + treatment, cell_type][None])
            coordinates.append(np.repeat(one, cells.shape[0], axis=0))
    return sparse.vstack(counts, format="csr"), np.concatenate(coordinates)


def _log1p(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    logs = sparse.csr_matrix(counts, dtype=np.float64)
    return logs.log1p()
