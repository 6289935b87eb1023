"""Descriptions of a condition: one text for its perturbation, one for its cells, from the knowledge tables.

In: names and ids of a condition. Out: two texts. Synonyms are limited, because a long list of them would outweigh
targets, pathways and lineage when the texts are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.knowledge import ancestors, perturbation_of

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import Perturbation

_N_SYNONYMS = 4
_UPWARD = {1: "activates", -1: "suppresses"}


def describe_perturbation(name: str, *, knowledge: Knowledge, asked: Perturbation | None = None) -> str:
    """Describe a perturbation by name, some synonyms, family, type, targets and directed pathways.

    Parameters
    ----------
    asked
        The perturbation of the query, which describes one that the tables lack.
    """
    entry = perturbation_of(name, knowledge=knowledge)
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
    """Describe a cell type by name, some synonyms and its ancestors; by its label alone where the tables lack it."""
    entry = knowledge.cell_types.get(cell_type_id)
    if entry is None:
        return label
    lineage = sorted(
        knowledge.cell_types[one].name
        for one in ancestors(cell_type_id, knowledge=knowledge)
        if knowledge.cell_types[one].parents  # the root, "cell", distinguishes nothing
    )
    parts = [", ".join((entry.name, *entry.synonyms[:_N_SYNONYMS])), ", ".join(lineage)]
    return ". ".join(part for part in parts if part)


def _acts(targets: tuple[str, ...]) -> str:
    return f"acts on {', '.join(targets)}" if targets else ""
