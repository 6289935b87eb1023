"""The donor null: the prompt differs from its control in a gene set in no more than this sample of donors.

In: scores of the prompt's cells with label, stratum and donor. Out: one-sided p values over donors, and how far the
prompt replicates its response.

Cells of one donor under one condition share a well, and wells differ by more than their cells tell: permuted labels
of cells count every difference between two wells as the treatment's. Donors are the replicates, so the response has to
be larger than its spread over donors. A donor with cells on both sides gives one difference (:class:`DonorEffects`);
where the two sides are different people, as in a comparison of one donor with others, their means are compared
(:class:`DonorGroups`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel.grounding.distributions import t_above
from haystack_kernel.grounding.nulls.tails import Tails

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_DONORS = 3  # fewer have no spread that could be estimated; the composite is then capped by its replication
MIN_DEGREES = 2  # of freedom, of the spread within two sides
MIN_DONOR_CELLS = 3  # treated and control cells that a donor needs to count as one
HALF_CELLS = 20.0  # cells with which a donor counts for half of one


@dataclass(frozen=True, eq=False)
class DonorEffects:
    """The statistic of every set in every donor that holds treated and control cells.

    Attributes
    ----------
    names
        Donors, sorted.
    n_cells
        Cells of the smaller arm per donor, summed over its strata.
    values
        Donors x sets: mean score of treated minus control cells within a stratum, averaged over the donor's strata with
        weights n_t n_c / (n_t + n_c).
    """

    names: tuple[str, ...] = ()
    n_cells: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    values: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def replication(self) -> float:
        """Donors that the response was measured in, a donor of n cells as n / (n + 20) of one."""
        return float((self.n_cells / (self.n_cells + HALF_CELLS)).sum())

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Donors with at least three cells in the smaller arm."""
        return self.n_cells >= MIN_DONOR_CELLS

    def tails(self) -> list[Tails]:
        """P values of every set by a t test over donors: the mean is above (below) 0; NaN below three donors.

        A plain t is used although it needs large effects with three donors: exact sign flips cannot reach p = .005
        below eight donors, and a variance that borrows from other sets passes 4 to 14 % of null prompts.
        """
        values = self.values[self.counted]
        n_donors = len(values)
        if n_donors < MIN_DONORS:
            return [Tails() for _ in range(self.values.shape[1])]
        error = values.std(axis=0, ddof=1) / np.sqrt(n_donors)
        return _t_tails(values.mean(axis=0), error, degrees=np.full(len(error), n_donors - 1.0))


@dataclass(frozen=True, eq=False)
class DonorGroups:
    """The score of every set in every donor, where no donor holds both treated and control cells.

    Attributes
    ----------
    names
        Donors, sorted within the side, treated ones first.
    is_treated
        Side of each donor.
    n_cells
        Cells of each donor in the strata that both sides have.
    values
        Donors x sets: mean score of the donor's cells after the middle between the two sides was subtracted in each
        stratum, so that donors with other shares of cell types can be compared.
    """

    names: tuple[str, ...]
    is_treated: NDArray[np.bool_]
    n_cells: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def replication(self) -> float:
        """Paired donors that say as much: the harmonic mean of both sides' sums of n / (n + 20) over donors."""
        sides = [self.n_cells[self.is_treated == side] for side in (True, False)]
        sums = [float((n_cells / (n_cells + HALF_CELLS)).sum()) for n_cells in sides]
        return 2 / (1 / sums[0] + 1 / sums[1]) if min(sums) > 0 else 0.0

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Donors with at least three cells."""
        return self.n_cells >= MIN_DONOR_CELLS

    def tails(self) -> list[Tails]:
        """P values of every set by a t test between the two sides: treated donors lie above (below) the others.

        Welch's test with three donors on both sides; below that the spread of one side cannot be told from that of the
        other, and one variance serves both (one donor is then compared with the spread of the others). NaN without
        three donors on one side and two degrees of freedom.
        """
        sides = [self.values[self.counted & (self.is_treated == side)] for side in (True, False)]
        n = np.array([len(side) for side in sides], dtype=float)
        if min(n) < 1 or max(n) < MIN_DONORS or n.sum() - 2 < MIN_DEGREES:
            return [Tails() for _ in range(self.values.shape[1])]
        squares = np.array([((side - side.mean(axis=0)) ** 2).sum(axis=0) for side in sides])
        difference = sides[0].mean(axis=0) - sides[1].mean(axis=0)
        if min(n) >= MIN_DONORS:
            parts = squares / ((n - 1) * n)[:, None]
            variance = parts.sum(axis=0)
            below = (parts**2 / (n - 1)[:, None]).sum(axis=0)
            degrees = np.divide(variance**2, below, out=np.full_like(variance, n.sum() - 2), where=below > 0)
        else:
            degrees = np.full(len(difference), n.sum() - 2)
            variance = squares.sum(axis=0) / degrees * (1 / n).sum()
        return _t_tails(difference, np.sqrt(variance), degrees=degrees)


def _t_tails(mean: NDArray[np.float64], error: NDArray[np.float64], *, degrees: NDArray[np.float64]) -> list[Tails]:
    # donors that agree to the last digit: as far from 0 as can be
    t = np.divide(mean, error, out=np.sign(mean) * np.finfo(float).max, where=error > 0)
    up, down = t_above(t, degrees), t_above(-t, degrees)
    least = np.finfo(float).tiny  # a p value of 0 has no logarithm
    return [Tails(max(float(a), least), max(float(b), least)) for a, b in zip(up, down, strict=True)]


def compare_donors(
    scores: NDArray[np.float64],
    *,
    is_treated: NDArray[np.bool_],
    strata: NDArray[np.integer[Any]],
    donors: NDArray[np.str_],
) -> DonorEffects | DonorGroups:
    """Compute the statistic of every set in every donor: paired where a donor has both kinds of cells, else by side.

    Parameters
    ----------
    scores
        Cells x sets.
    is_treated, strata, donors
        Label, stratum (what the cells compared with each other share: cell type, or nothing) and donor of each cell.
    """
    paired = donor_effects(scores, is_treated=is_treated, strata=strata, donors=donors)
    return paired if paired.names else donor_groups(scores, is_treated=is_treated, strata=strata, donors=donors)


def donor_effects(
    scores: NDArray[np.float64],
    *,
    is_treated: NDArray[np.bool_],
    strata: NDArray[np.integer[Any]],
    donors: NDArray[np.str_],
) -> DonorEffects:
    """Compute the statistic of every set in every donor.

    Parameters
    ----------
    scores
        Cells x sets.
    is_treated, strata, donors
        Label, stratum and donor of each cell; a donor's strata with one label only do not take part.

    Returns
    -------
    The donors that hold a stratum with both labels.
    """
    names, n_cells, values = [], [], []
    for donor in np.unique(donors):
        weights, differences, smaller = [], [], 0
        for stratum in np.unique(strata[donors == donor]):
            here = (strata == stratum) & (donors == donor)
            arms = scores[here & is_treated], scores[here & ~is_treated]
            sizes = [len(arm) for arm in arms]
            if min(sizes):
                weights.append(sizes[0] * sizes[1] / sum(sizes))
                differences.append(arms[0].mean(axis=0) - arms[1].mean(axis=0))
                smaller += min(sizes)
        if weights:
            names.append(str(donor))
            n_cells.append(smaller)
            values.append(np.average(differences, axis=0, weights=weights))
    stacked = np.array(values, dtype=float).reshape(len(names), scores.shape[1])
    return DonorEffects(tuple(names), np.array(n_cells, dtype=np.int64), stacked)


def donor_groups(
    scores: NDArray[np.float64],
    *,
    is_treated: NDArray[np.bool_],
    strata: NDArray[np.integer[Any]],
    donors: NDArray[np.str_],
) -> DonorGroups:
    """Compute the score of every set in every donor of two sides that share no donor.

    Parameters
    ----------
    scores
        Cells x sets.
    is_treated, strata, donors
        Label, stratum and donor of each cell; strata that one side lacks do not take part.
    """
    centred, used = scores.astype(float), np.zeros(len(scores), dtype=bool)
    for stratum in np.unique(strata):
        here = strata == stratum
        means = []
        for side in (True, False):  # each donor counts once, whatever its number of cells
            own = here & (is_treated == side)
            of_donors = [scores[own & (donors == name)].mean(axis=0) for name in np.unique(donors[own])]
            means += [np.mean(of_donors, axis=0)] if of_donors else []
        if len(means) == len((True, False)):
            centred[here] -= np.mean(means, axis=0)
            used |= here
    names, sides, n_cells, values = [], [], [], []
    for side in (True, False):
        for donor in np.unique(donors[used & (is_treated == side)]):
            own = used & (donors == donor) & (is_treated == side)
            names.append(str(donor))
            sides.append(side)
            n_cells.append(int(own.sum()))
            values.append(centred[own].mean(axis=0))
    stacked = np.array(values, dtype=float).reshape(len(names), scores.shape[1])
    return DonorGroups(tuple(names), np.array(sides, dtype=bool), np.array(n_cells, dtype=np.int64), stacked)
