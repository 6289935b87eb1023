"""The null of a difference between two groups of people: it is no larger than what people differ by anyway.

In: the prompt's effects by cell type and donor, each donor on one side only. Out: a :class:`ResponseTest`.

All cell types of a person share what sets that person apart, so that neither cells nor cell types are replicates of a
disease. The genes of a signature were chosen because they differ between these people, so that a test of the signature
in the same people is passed by chance. Patients are therefore paired with healthy donors: what the disease causes has
the same direction in every pair, over all genes, while what sets people apart has another one in each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.nulls.donors import MIN_DONORS
from haystack_kernel.grounding.nulls.response import ResponseTest, response_null

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.grounding.uncertainty.prompt import PromptEffects

MAX_PAIRINGS = 8


def people_null(prompt: PromptEffects) -> ResponseTest:
    """Test whether pairs of one donor of each side differ in the same direction.

    Parameters
    ----------
    prompt
        Effects by cell type and donor.

    Returns
    -------
    :func:`response_null` of the pairs; donors of the larger side share pairs. Which donors are paired is arbitrary, so
    every donor is paired with up to eight others in turn, and the median p counts. Below three donors on a side there
    is no p.

    Examples
    --------
    >>> people_null(studied.prompt).p  # doctest: +SKIP
    0.002
    """
    sides = [np.unique(prompt.donors[prompt.n_cells[side] > 0]) for side in (0, 1)]
    k = min(map(len, sides))
    if k < MIN_DONORS:
        reason = (
            f"the prompt holds {len(sides[0])} patients and {len(sides[1])} healthy donors; {MIN_DONORS} of each are "
            "needed to tell what the disease does from what sets these people apart"
        )
        return ResponseTest(n_donors=k, reason=reason)
    found = [response_null(_paired(prompt, pairs)) for pairs in _pairings(prompt, sides, k=k)]
    known = sorted((one for one in found if not one.reason), key=lambda one: one.p)
    return known[len(known) // 2] if known else found[0]


def _pairings(prompt: PromptEffects, sides: list[NDArray[np.str_]], *, k: int) -> list[NDArray[np.str_]]:
    """Pair of each entry in each pairing: k pairs, the donors of the second side moved on by one each time."""
    found = []
    for shift in range(min(k, MAX_PAIRINGS)):
        pair_of: dict[str, str] = {}
        for side, step in zip(sides, (0, shift), strict=True):
            for place, group in enumerate(np.array_split(side, k)):
                pair_of |= dict.fromkeys(group.tolist(), str((place + step) % k))
        found.append(np.array([pair_of[name] for name in prompt.donors.tolist()]))
    return found


def people_without(prompt: PromptEffects, name: str) -> PromptEffects:
    """The same effects without one donor."""
    kept = prompt.donors != name
    return replace(
        prompt,
        types=prompt.types[kept],
        donors=prompt.donors[kept],
        n_cells=prompt.n_cells[:, kept],
        sums=prompt.sums[:, kept],
        squares=prompt.squares[:, kept],
    )


def _paired(prompt: PromptEffects, pairs: NDArray[np.str_]) -> PromptEffects:
    """The entries of each pair and cell type as one, with cells of both sides."""
    labels = sorted(set(zip(prompt.types.tolist(), pairs.tolist(), strict=True)))
    members = [(prompt.types == kind) & (pairs == pair) for kind, pair in labels]
    return replace(
        prompt,
        types=np.array([kind for kind, _ in labels]),
        donors=np.array([pair for _, pair in labels]),
        n_cells=np.stack([prompt.n_cells[:, own].sum(axis=1) for own in members], axis=1),
        sums=np.stack([prompt.sums[:, own].sum(axis=1) for own in members], axis=1),
        squares=np.stack([prompt.squares[:, own].sum(axis=1) for own in members], axis=1),
    )
