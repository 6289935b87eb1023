"""Walks of the asked perturbation and of the known ones on the signed gene network.

In: the query and the knowledge tables. Out: how far a perturbation raises (+) or lowers (-) every gene.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.knowledge import perturbation_of
from haystack_kernel.knowledge.actions import action_on_targets
from haystack_kernel.knowledge.walks import build_network, walk_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.grounding.records import Basis
    from haystack_kernel.knowledge import Knowledge, PerturbationEntry


@functools.lru_cache(maxsize=4)
def known_walks(knowledge: Knowledge) -> dict[str, NDArray[np.float64]]:
    """Walks of all perturbations that have one, by name, scaled to length 1; computed once for each set of tables."""
    found = {}
    for name, entry in knowledge.perturbations.items():
        mass = walk_of(knowledge, targets=entry.targets, action=action_on_targets(entry, knowledge=knowledge))
        if length := float(np.linalg.norm(mass)):
            found[name] = mass / length
    return found


def asked_entry(basis: Basis) -> PerturbationEntry | None:
    """The asked perturbation as the knowledge tables describe it; None where they do not."""
    asked = basis.query.perturbation
    return perturbation_of(asked.name, knowledge=basis.knowledge) if asked is not None else None


def asked_targets(basis: Basis) -> tuple[str, ...]:
    """Receptors or drug targets of the asked perturbation, from the query or else from the knowledge tables."""
    asked, entry = basis.query.perturbation, asked_entry(basis)
    return (asked.targets if asked is not None else ()) or (entry.targets if entry is not None else ())


def asked_action(basis: Basis) -> int:
    """Whether the asked perturbation activates (+1) or inhibits (-1) its targets; 0 where that is not known."""
    entry = asked_entry(basis)
    return action_on_targets(entry, knowledge=basis.knowledge) if entry is not None else 0


def asked_walk(basis: Basis) -> NDArray[np.float64]:
    """Walk of the asked perturbation over the genes of the network; all 0 where there is none."""
    return walk_of(basis.knowledge, targets=asked_targets(basis), action=asked_action(basis))


def expected_by_network(basis: Basis) -> dict[str, float]:
    """Signed weight of every gene that the asked walk reaches; it never depends on measured cells."""
    network, mass = build_network(basis.knowledge), asked_walk(basis)
    return {network.genes[i]: float(mass[i]) for i in np.flatnonzero(mass)}
