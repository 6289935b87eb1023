"""Twins: perturbations that the response cannot tell from the one asked for.

In: effects on the tested genes, the query, the knowledge tables. Out: their names, one of each family first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.de.background import MIN_SET_GENES
from haystack_kernel.grounding.distributions import p_greater
from haystack_kernel.grounding.signatures.sets import equivalents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.grounding.de.background import Background, SignedSet
    from haystack_kernel.grounding.records import Basis

TOLD_APART_P = 0.05
RESPONDS_P = 0.01
SIMILAR = 0.5  # of the asked one's statistic that a twin reaches


def find_twins(background: Background, *, basis: Basis) -> tuple[str, ...]:
    """Name the perturbations whose known response is as much in the effects as that of the one asked for.

    Parameters
    ----------
    background
        Tested genes with their effects.
    basis
        Query and knowledge.

    Returns
    -------
    Perturbations that expect mostly the same genes (overlap above 0.5), whose response is there (mean effect above 0
    over its genes, p < .01, and at least half of the asked one's), and whose own genes move as much as those that only
    the asked one expects: Welch's t test over genes, one-sided p of .05 or more, or fewer than five genes on a side,
    which tell nothing. The strongest of each family come first. Nothing for a response that is not there itself.
    """
    query, known = basis.query, basis.knowledge.perturbations
    asked = query.expected_targets
    if query.perturbation is None or not _responds(background, asked):
        return ()
    others = equivalents(asked, known) - {query.perturbation.name}
    twins = [other for other in others if _is_twin(background, asked, known[other].response)]
    twins.sort(key=lambda other: (-background.statistic(known[other].response), other))
    leading: dict[str, str] = {}
    for other in twins:
        leading.setdefault(known[other].family or other, other)
    return tuple(dict.fromkeys([*leading.values(), *twins]))


def _is_twin(background: Background, asked: SignedSet, other: SignedSet) -> bool:
    is_there = background.statistic(other) >= SIMILAR * background.statistic(asked) and _responds(background, other)
    return is_there and not _told_apart(background, asked, other)


def _responds(background: Background, genes: SignedSet) -> bool:
    """Whether a known response is in the effects."""
    moved = _moved(background, genes)
    return len(moved) >= MIN_SET_GENES and _p_greater(moved, np.zeros(0)) < RESPONDS_P


def _told_apart(background: Background, asked: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether the genes that only the asked one expects move more than those that only the other expects."""
    sides = [
        _moved(background, {gene: sign for gene, sign in one.items() if two.get(gene) != sign})
        for one, two in ((asked, other), (other, asked))
    ]
    return min(map(len, sides)) >= MIN_SET_GENES and _p_greater(*sides) < TOLD_APART_P


def _moved(background: Background, genes: SignedSet) -> np.ndarray:
    where, signs = background.locate(genes)
    return np.asarray(signs * background.z[where])


def _p_greater(one: np.ndarray, two: np.ndarray) -> float:
    """One-sided p of a mean above that of ``two``, or above 0 where it is empty; 1 where nothing varies."""
    return 1.0 if np.ptp(one) == 0 else p_greater(one, two)
