"""Arithmetic of signed gene sets: union, overlap, and which sets count as the same answer.

In: signed sets, the perturbations of the knowledge tables. Out: sets and overlaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from haystack_kernel.grounding.de.background import SignedSet
    from haystack_kernel.knowledge import PerturbationEntry

EQUIVALENT = 0.5  # overlap coefficient above which two sets count as the same answer


def merge_signed(sets: Iterable[tuple[SignedSet, int]]) -> dict[str, int]:
    """Union of signed sets, each multiplied by its sign; a gene with as many votes up as down is left out."""
    votes: dict[str, float] = {}
    for genes, direction in sets:
        for gene, sign in genes.items():
            votes[gene] = votes.get(gene, 0) + sign * direction
    return {gene: 1 if vote > 0 else -1 for gene, vote in votes.items() if vote}


def overlap_coefficient(one: SignedSet, two: SignedSet) -> float:
    """Number of genes that both sets move the same way, over the size of the smaller set; 0 for an empty set."""
    if not one or not two:
        return 0.0
    return len(one.items() & two.items()) / min(len(one), len(two))


def overlaps(sets: Sequence[SignedSet]) -> NDArray[np.float64]:
    """:func:`overlap_coefficient` of every pair of ``sets``, as a symmetric table."""
    places = {item: place for place, item in enumerate({item for genes in sets for item in genes.items()})}
    columns = [places[item] for genes in sets for item in genes.items()]
    sizes = np.array([len(genes) for genes in sets])
    held = sparse.csr_matrix((np.ones(len(columns)), columns, np.r_[0, sizes.cumsum()]), shape=(len(sets), len(places)))
    shared: NDArray[np.float64] = (held @ held.T).toarray()
    return shared / np.maximum(np.minimum.outer(sizes, sizes), 1)


def equivalents(
    asked: SignedSet, perturbations: Mapping[str, PerturbationEntry], *, name: str | None = None
) -> set[str]:
    """Perturbations whose response cannot be told from the asked one (overlap above 0.5), and the asked one itself."""
    same = {other for other, entry in perturbations.items() if overlap_coefficient(asked, entry.response) > EQUIVALENT}
    return same | ({name} if name is not None else set())
