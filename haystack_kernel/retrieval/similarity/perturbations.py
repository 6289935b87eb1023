"""How much two perturbations have in common by what is known of their targets and pathways.

In: the perturbation asked for and the knowledge tables. Out: a :class:`Relation` to any other perturbation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import EvidenceDistance, StructuredQuery

_TARGETS, _PATHWAYS = 0.6, 0.4
_SHOWN = 4


@dataclass(frozen=True)
class Mechanism:
    """Targets, and pathways with the direction in which they are moved."""

    targets: frozenset[str]
    pathways: frozenset[tuple[str, int]]

    @property
    def is_known(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self.targets or self.pathways)


@dataclass(frozen=True)
class Relation:
    """What two perturbations share; ``score`` = 0.6 Jaccard of targets + 0.4 Jaccard of signed pathways."""

    score: float
    targets: tuple[str, ...]
    pathways: tuple[str, ...]
    n_opposed: int

    @property
    def is_opposed(self) -> bool:
        """Whether the other one moves more of the shared pathways against than along: an inhibitor of the same."""
        return self.n_opposed > len(self.pathways)

    @property
    def words(self) -> str:
        """What is shared: "targets IFNAR1 and IFNAR2; pathway type I interferon response"."""
        parts = []
        for noun, names in (("target", self.targets), ("pathway", self.pathways)):
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            if names:
                parts.append(f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:_SHOWN])}{more}")
        return "; ".join(parts) or "nothing"


def asked_mechanism(query: StructuredQuery, *, knowledge: Knowledge) -> Mechanism:
    """Mechanism of the perturbation asked for; empty where nothing is known of it."""
    if query.perturbation is None:
        return Mechanism(frozenset(), frozenset())
    if query.perturbation.name in knowledge.perturbations:
        return mechanism(query.perturbation.name, knowledge=knowledge)
    return Mechanism(frozenset(query.perturbation.targets), frozenset(query.expected_pathways.items()))


def mechanism(name: str, *, knowledge: Knowledge) -> Mechanism:
    """Mechanism of a perturbation of the tables; empty for any other name."""
    entry = knowledge.perturbations.get(name)
    if entry is None:
        return Mechanism(frozenset(), frozenset())
    return Mechanism(frozenset(entry.targets), frozenset(entry.pathways.items()))


def relate(asked: Mechanism, other: Mechanism) -> Relation:
    """Compare two mechanisms.

    A pathway counts as shared only where both move it in the same direction.
    """
    opposed = {(name, -sign) for name, sign in other.pathways} & asked.pathways
    return Relation(
        score=_TARGETS * _jaccard(asked.targets, other.targets) + _PATHWAYS * _jaccard(asked.pathways, other.pathways),
        targets=tuple(sorted(asked.targets & other.targets)),
        pathways=tuple(sorted(name for name, _ in asked.pathways & other.pathways)),
        n_opposed=len(opposed),
    )


def distance_of(relation: Relation) -> EvidenceDistance:
    """Evidence distance of another perturbation: ``shared_target`` where target or pathway is shared."""
    return "shared_target" if relation.targets or relation.pathways else "text_only"


def _jaccard(one: AbstractSet[object], other: AbstractSet[object]) -> float:
    union = one | other
    return len(one & other) / len(union) if union else 0.0
