"""Similarity of two perturbations: the targets and pathways that they share according to the knowledge tables.

In: the perturbation asked for and the knowledge tables. Out: a :class:`MechanismSimilarity` with any other
perturbation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import perturbation_of

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import EvidenceDistance, StructuredQuery

_TARGETS, _PATHWAYS = 0.6, 0.4
_SHOWN = 4


@dataclass(frozen=True)
class Mechanism:
    """Targets of a perturbation, and the pathways it moves with the direction (1 up, -1 down)."""

    targets: frozenset[str]
    pathways: frozenset[tuple[str, int]]

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
        0.6 x Jaccard index of the targets + 0.4 x Jaccard index of the signed pathways, in [0, 1].
    targets, pathways
        Those shared; a pathway is shared where both move it in the same direction.
    n_opposed
        Number of pathways that the two move in opposite directions.
    """

    score: float
    targets: tuple[str, ...]
    pathways: tuple[str, ...]
    n_opposed: int

    @property
    def is_opposed(self) -> bool:
        """Whether more pathways are moved in opposite directions than in the same, as by an inhibitor of one target."""
        return self.n_opposed > len(self.pathways)

    @property
    def words(self) -> str:
        """Name what is shared: "targets IFNAR1, IFNAR2; pathway type I interferon response"."""
        parts = []
        for noun, names in (("target", self.targets), ("pathway", self.pathways)):
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            if names:
                parts.append(f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:_SHOWN])}{more}")
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
    return Mechanism(frozenset(entry.targets), frozenset(entry.pathways.items()))


def compare_mechanisms(asked: Mechanism, other: Mechanism) -> MechanismSimilarity:
    """Compare two mechanisms.

    A pathway counts as shared only where both move it in the same direction.
    """
    opposed = {(name, -sign) for name, sign in other.pathways} & asked.pathways
    return MechanismSimilarity(
        score=_TARGETS * _jaccard(asked.targets, other.targets) + _PATHWAYS * _jaccard(asked.pathways, other.pathways),
        targets=tuple(sorted(asked.targets & other.targets)),
        pathways=tuple(sorted(name for name, _ in asked.pathways & other.pathways)),
        n_opposed=len(opposed),
    )


def distance_of(similarity: MechanismSimilarity) -> EvidenceDistance:
    """Evidence distance of another perturbation: ``shared_target`` where a target or pathway is shared."""
    return "shared_target" if similarity.targets or similarity.pathways else "text_only"


def _jaccard(one: AbstractSet[object], other: AbstractSet[object]) -> float:
    union = one | other
    return len(one & other) / len(union) if union else 0.0
