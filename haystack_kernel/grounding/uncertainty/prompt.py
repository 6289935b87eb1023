"""The prompt's effects by cell type and donor, and what a linear engine makes of them.

In: prompt and control cells. Out: moments per cell type and donor, from which any subset's effects follow at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.de.profiles import log_normalise
from inference.baselines import MIN_CELLS_MEAN, profile_similarity, type_shares
from inference.effects import MIN_CELLS, Arm, Effect, fit_trend, measure_effect

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

POOLED = "pooled"  # no engine: cells compared without regard to their type
LINEAR = ("weighted", "mean", "shift")  # engines whose response is a weighted mean of the prompt's effects
MAX_DONORS = 8  # more donors are treated as so many groups
TREATED, CONTROL = 0, 1


@dataclass(frozen=True, eq=False)
class Response:
    """What an engine expects of one set of prompt cells: effect and error variance per gene.

    ``similarity`` is that of the most similar control profile of the prompt to the cells that are asked for.
    ``distance`` is the mean squared difference between their profile and the prompt's control profiles, mixed as the
    effects are, beyond the ``noise`` that both have; NaN where there is no mixture.
    """

    effect: Floats
    variance: Floats
    similarity: float
    distance: float = float("nan")
    noise: float = float("nan")


@dataclass(frozen=True, eq=False)
class PromptEffects:
    """Moments of log1p(CP10k) of the prompt's cells, one entry per cell type and donor.

    Attributes
    ----------
    types, donors
        Label of each entry; donors beyond eight (of each side, where no donor is on both) share labels.
    n_cells
        2 x entries: cells of the treated and of the control arm.
    sums, squares
        2 x entries x genes.
    """

    types: NDArray[np.str_]
    donors: NDArray[np.str_]
    n_cells: NDArray[np.int64]
    sums: Floats
    squares: Floats

    @property
    def everything(self) -> Mask:
        """All entries."""
        return np.ones(len(self.types), dtype=bool)

    def arm(self, side: int, entries: Mask) -> Arm:
        """One arm of a subset of the entries; it needs at least one cell."""
        n = int(self.n_cells[side, entries].sum())
        mean = self.sums[side, entries].sum(axis=0) / n
        squares = self.squares[side, entries].sum(axis=0)
        return Arm(n, mean, np.maximum(squares - n * mean**2, 0.0) / max(n - 1, 1))

    def smaller(self, entries: Mask) -> int:
        """Cells of the smaller arm of a subset."""
        return int(self.n_cells[:, entries].sum(axis=1).min())

    def effect(self, entries: Mask) -> Effect:
        """Effect of a subset that has cells in both arms, types pooled."""
        arms = self.arm(TREATED, entries), self.arm(CONTROL, entries)
        control = self.arm(CONTROL, self.everything)
        if max(arm.n_cells for arm in arms) >= MIN_CELLS or control.n_cells < MIN_CELLS:
            return measure_effect(*arms)
        return measure_effect(
            *arms, trend=fit_trend(control)
        )  # two cells know no variance: that of all takes its place

    def respond(self, engine: str, entries: Mask, *, base: Floats, base_error: float = 0.0) -> Response:
        """What a linear engine expects from a subset of the prompt for cells whose mean profile is ``base``.

        The subset needs cells in both arms. ``base_error`` is the mean squared standard error of ``base``.
        """
        subsets = self._by_type(entries, minimum=MIN_CELLS_MEAN if engine == "mean" else 1)
        arms = [self.arm(CONTROL, one) for one in subsets]
        profiles = np.array([arm.mean for arm in arms])
        nearest = float(profile_similarity(profiles, base).max()) if subsets else 0.0
        if engine == POOLED or not subsets:  # as the baseline itself does
            pooled = self.effect(entries)
            return Response(pooled.delta, pooled.se**2, nearest)
        smaller = np.array([self.smaller(one) for one in subsets])
        treated = self.n_cells[TREATED] @ np.array(subsets, dtype=np.int64).T
        share = type_shares(engine, profiles, base=base, smaller=smaller, treated=treated)
        effects = [self.effect(one) for one in subsets]
        delta, variance = share @ [one.delta for one in effects], share**2 @ [one.se**2 for one in effects]
        noise = base_error + float(share**2 @ [arm.variance.mean() / arm.n_cells for arm in arms])
        distance = max(float(np.square(base - share @ profiles).mean()) - noise, 0.0)
        return Response(delta, variance, nearest, distance, noise)

    def _by_type(self, entries: Mask, *, minimum: int) -> list[Mask]:
        """The subset cut by cell type; types with fewer cells in an arm are left out."""
        subsets = [entries & (self.types == name) for name in np.unique(self.types[entries])]
        return [one for one in subsets if self.smaller(one) >= minimum]


def summarise_prompt(prompt: ad.AnnData, control: ad.AnnData, *, genes: list[str], within: str) -> PromptEffects:
    """Moments of the prompt's cells over ``genes``, which both arms hold.

    Parameters
    ----------
    prompt, control
        Raw counts with cell type and donor.
    genes
        Symbols; the moments follow their order. Library sizes count all genes of a file.
    within
        Column of obs whose value two cells must share to be compared.
    """
    arms = (prompt, control)
    group_of = _group_donors([np.unique(adata.obs[keys.DONOR].astype(str)) for adata in arms])
    labels = [
        list(zip(adata.obs[within].astype(str), adata.obs[keys.DONOR].astype(str).map(group_of), strict=True))
        for adata in arms
    ]
    entries = sorted({pair for label in labels for pair in label})
    place_of = {pair: place for place, pair in enumerate(entries)}
    n_cells = np.zeros((2, len(entries)), dtype=np.int64)
    sums, squares = (np.zeros((2, len(entries), len(genes))) for _ in range(2))
    for side, adata in enumerate(arms):
        logs = log_normalise(adata.X)[:, adata.var_names.get_indexer(genes)]
        place = np.array([place_of[pair] for pair in labels[side]])
        for entry in np.unique(place):
            rows = logs[place == entry]
            n_cells[side, entry] = rows.shape[0]
            sums[side, entry] = np.asarray(rows.sum(axis=0)).ravel()
            squares[side, entry] = np.asarray(rows.multiply(rows).sum(axis=0)).ravel()
    names = np.array(entries)
    return PromptEffects(names[:, 0], names[:, 1], n_cells, sums, squares)


def _group_donors(sides: list[NDArray[np.str_]]) -> dict[str, str]:
    """Donor -> label of its group: at most eight, or eight of each side where no donor is on both."""
    apart = not np.isin(sides[0], sides[1]).any()  # a mixed group would pass for a donor with cells of both
    group_of: dict[str, str] = {}
    for donors in sides if apart else [np.union1d(*sides)]:
        for group in np.array_split(donors, min(MAX_DONORS, len(donors))):
            group_of |= dict.fromkeys(group.tolist(), ", ".join(group.tolist()))
    return group_of
