"""The error of a difference between two groups of people: how far it would move with other people.

In: the prompt's effects by cell type and donor. Out: an error variance per gene.

Patients and healthy donors are samples of people, and all cell types of a person share what sets that person apart. So
the cells' own error says too little, however many cells there are, and no cell type that is left out shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.uncertainty.prompt import CONTROL, TREATED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.grounding.uncertainty.prompt import PromptEffects

    Floats = NDArray[np.float64]

TREND_DEGREES = 10.0  # weight of the spread of genes of the same level, in degrees of freedom
MAX_BINS, BIN_GENES = 25, 50
ONE_DONOR = "one donor on each side does not say how far people differ, so that no difference is that of the disease"


def between_donors(prompt: PromptEffects, *, engine: str, base: Floats) -> Floats | str:
    """Error variance of the prompt's difference between two groups of donors.

    Parameters
    ----------
    prompt
        Effects by cell type and donor.
    engine
        A linear engine, whose response is repeated without each donor.
    base
        Mean profile of the cells that were asked about.

    Returns
    -------
    Variance per gene, or why there is none, as a sentence. Each donor of k on a side is left out in turn; the variance
    of that side is (k - 1) / k times the sum of squares around the mean (jackknife). A side of one donor has the spread
    of the other side. Every gene has at least the mean of its own variance and that of genes of its level, which counts
    as ten degrees of freedom: few donors agree in some gene by chance.

    References
    ----------
    Efron and Stein, Ann Stat 9:586 (1981), for the jackknife; the rest is defined here.
    """
    parts = [_left_out(prompt, side=side, engine=engine, base=base) for side in (TREATED, CONTROL)]
    spreads = [len(part) * _jackknife(part) for part in parts if len(part) > 1]  # of a single donor
    if not spreads:
        return ONE_DONOR
    own = [spreads.pop(0) if len(part) > 1 else None for part in parts]
    other = next(spread for spread in own if spread is not None)
    variance = np.zeros(len(base))
    for part, spread in zip(parts, own, strict=True):
        variance += (other if spread is None else spread) / max(len(part), 1)
    degrees = sum(max(len(part) - 1, 0) for part in parts)
    shared = (TREND_DEGREES * _trend(variance, base) + degrees * variance) / (TREND_DEGREES + degrees)
    return np.maximum(variance, shared)


def _left_out(prompt: PromptEffects, *, side: int, engine: str, base: Floats) -> Floats:
    """Effects without each donor of one side in turn, donors x genes."""
    held = [name for name in np.unique(prompt.donors) if prompt.n_cells[side, prompt.donors == name].any()]
    effects = [_without(prompt, name, side=side, engine=engine, base=base) for name in held]
    return np.array([effect for effect in effects if effect is not None])


def _without(prompt: PromptEffects, donor: str, *, side: int, engine: str, base: Floats) -> Floats | None:
    """Effect of the prompt without one donor's cells of one side; None where nothing is left."""
    n_cells = prompt.n_cells.copy()
    n_cells[side, prompt.donors == donor] = 0
    sums, squares = prompt.sums.copy(), prompt.squares.copy()
    sums[side, prompt.donors == donor] = squares[side, prompt.donors == donor] = 0.0
    rest = type(prompt)(prompt.types, prompt.donors, n_cells, sums, squares)
    if not rest.smaller(rest.everything):
        return None
    return rest.respond(engine, rest.everything, base=base).effect


def _jackknife(effects: Floats) -> Floats:
    k = len(effects)
    return np.asarray((k - 1) / k * np.square(effects - effects.mean(axis=0)).sum(axis=0))


def _trend(variance: Floats, level: Floats) -> Floats:
    """Mean variance of the genes of about the same level."""
    order = np.argsort(level, kind="stable")
    found = np.empty_like(variance)
    for rows in np.array_split(order, min(MAX_BINS, max(len(order) // BIN_GENES, 1))):
        found[rows] = variance[rows].mean()
    return found
