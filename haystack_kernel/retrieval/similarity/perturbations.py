"""Similarity of two perturbations: the targets and pathways that they share according to the knowledge tables.

Two changes of genes seldom share a target, and most genes are in no pathway table. They are compared by the genes that
the signed network makes them move, too: the walks of IFNGR1 and JAK1 have a cosine of 0.87, those of KEAP1 and NFE2L2
one of -1.00. Square roots of the walks are compared, because a few genes near the start hold most of the mass.

In: the perturbation asked for and the knowledge tables. Out: a :class:`MechanismSimilarity` with any other
perturbation.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.knowledge import perturbation_of
from haystack_kernel.knowledge.actions import action_on_targets
from haystack_kernel.knowledge.walks import walk_of

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import EvidenceDistance, StructuredQuery

_TARGETS, _PATHWAYS = 0.6, 0.4
_SHOWN = 4
SIMILAR = 0.3  # cosine of two walks from which the changes of genes count as related, or opposed below its negative
_MIN_REACHED = 10  # genes that a walk must reach to be compared


@dataclass(frozen=True)
class Mechanism:
    """Targets of a perturbation, and the pathways it moves with the direction (1 up, -1 down)."""

    targets: frozenset[str]
    pathways: frozenset[tuple[str, int]]
    walk: NDArray[np.float64] | None = field(default=None, compare=False)  # of a changed gene, of length 1

    @property
    def is_known(self) -> bool:
        """Whether any target or pathway is known."""
        return bool(self.targets or self.pathways)


@dataclass(frozen=True)
class MechanismSimilarity:
    """What two perturbations share.

    Attributes
    ----------
    score
        0.6 x Jaccard index of the targets + 0.4 x Jaccard index of the signed pathways, in [0, 1]; of two changes of
        genes the cosine of their walks where that is larger.
    targets, pathways
        Those shared; a pathway is shared where both move it in the same direction.
    n_opposed
        Number of pathways that the two move in opposite directions.
    network
        Cosine of the walks of two changes of genes, in [-1, 1]; 0 where there is none.
    """

    score: float
    targets: tuple[str, ...]
    pathways: tuple[str, ...]
    n_opposed: int
    network: float = 0.0

    @property
    def is_opposed(self) -> bool:
        """Whether more is moved in opposite directions than in the same, as by an inhibitor of one target."""
        return self.n_opposed > len(self.pathways) or self.network <= -SIMILAR

    @property
    def words(self) -> str:
        """Name what is shared: "targets IFNAR1, IFNAR2; pathway type I interferon response"."""
        parts = []
        for noun, names in (("target", self.targets), ("pathway", self.pathways)):
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            if names:
                parts.append(f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:_SHOWN])}{more}")
        if self.network >= SIMILAR:
            parts.append(f"downstream genes (cosine {self.network:.2f} in the gene network)")
        return "; ".join(parts) or "nothing"


def asked_mechanism(query: StructuredQuery, *, knowledge: Knowledge) -> Mechanism:
    """Mechanism of the perturbation asked for; empty where the tables and the query say nothing about it."""
    if query.perturbation is None:
        return Mechanism(frozenset(), frozenset())
    if perturbation_of(query.perturbation.name, knowledge=knowledge) is not None:
        return mechanism(query.perturbation.name, knowledge=knowledge)
    return Mechanism(frozenset(query.perturbation.targets), frozenset(query.expected_pathways.items()))


def mechanism(name: str, *, knowledge: Knowledge) -> Mechanism:
    """Mechanism of a known perturbation; empty for any other name."""
    entry = perturbation_of(name, knowledge=knowledge)
    if entry is None:
        return Mechanism(frozenset(), frozenset())
    walk = _walk_of(name, knowledge) if entry.type == "genetic" else None
    return Mechanism(frozenset(entry.targets), frozenset(entry.pathways.items()), walk)


@functools.lru_cache(maxsize=4096)
def _walk_of(name: str, knowledge: Knowledge) -> NDArray[np.float64] | None:
    entry = perturbation_of(name, knowledge=knowledge)
    if entry is None:
        return None
    mass = walk_of(knowledge, targets=entry.targets, action=action_on_targets(entry, knowledge=knowledge))
    if np.count_nonzero(mass) < _MIN_REACHED:
        return None
    root = np.sign(mass) * np.sqrt(np.abs(mass))
    return np.asarray(root / np.linalg.norm(root))


def compare_mechanisms(asked: Mechanism, other: Mechanism) -> MechanismSimilarity:
    """Compare two mechanisms.

    A pathway counts as shared only where both move it in the same direction.
    """
    opposed = {(name, -sign) for name, sign in other.pathways} & asked.pathways
    network = float(asked.walk @ other.walk) if asked.walk is not None and other.walk is not None else 0.0
    shared = _TARGETS * _jaccard(asked.targets, other.targets) + _PATHWAYS * _jaccard(asked.pathways, other.pathways)
    return MechanismSimilarity(
        score=max(shared, min(network, 1.0)),
        targets=tuple(sorted(asked.targets & other.targets)),
        pathways=tuple(sorted(name for name, _ in asked.pathways & other.pathways)),
        n_opposed=len(opposed),
        network=network,
    )


def distance_of(similarity: MechanismSimilarity) -> EvidenceDistance:
    """Evidence distance of another perturbation: ``shared_target`` where targets, pathways or downstream genes are."""
    is_related = similarity.targets or similarity.pathways or similarity.network >= SIMILAR
    return "shared_target" if is_related else "text_only"


def _jaccard(one: AbstractSet[object], other: AbstractSet[object]) -> float:
    union = one | other
    return len(one & other) / len(union) if union else 0.0
