"""What a condition is, in words: its perturbation and its cells, from the knowledge tables.

In: names and ids of a condition. Out: two texts, short enough that no list of synonyms drowns the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.knowledge import ancestors

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import Perturbation

_N_SYNONYMS = 4
_UPWARD = {1: "activates", -1: "suppresses"}


def describe_perturbation(name: str, *, knowledge: Knowledge, asked: Perturbation | None = None) -> str:
    """Name, kind, family, some synonyms, targets and directed pathways.

    Parameters
    ----------
    asked
        Says what is known of a perturbation that the tables lack.
    """
    entry = knowledge.perturbations.get(name)
    if entry is None:
        if asked is None:
            return name
        return ". ".join(part for part in (name, asked.type or "", _acts(asked.targets)) if part)
    parts = [
        ", ".join((entry.name, *entry.synonyms[:_N_SYNONYMS])),
        f"{entry.family} {entry.type}",
        _acts(entry.targets),
        "; ".join(f"{_UPWARD[sign]} {pathway}" for pathway, sign in entry.pathways.items()),
    ]
    return ". ".join(part for part in parts if part)


def describe_cells(cell_type_id: str, label: str, *, knowledge: Knowledge) -> str:
    """Name, some synonyms, and the lineage above it; the label alone where the tables lack the type."""
    entry = knowledge.cell_types.get(cell_type_id)
    if entry is None:
        return label
    lineage = sorted(
        knowledge.cell_types[one].name
        for one in ancestors(cell_type_id, knowledge=knowledge)
        if knowledge.cell_types[one].parents  # the root, "cell", says nothing
    )
    parts = [", ".join((entry.name, *entry.synonyms[:_N_SYNONYMS])), ", ".join(lineage)]
    return ". ".join(part for part in parts if part)


def _acts(targets: tuple[str, ...]) -> str:
    return f"acts on {', '.join(targets)}" if targets else ""
