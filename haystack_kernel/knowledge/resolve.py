"""From a label as people write it to the term it means, with the terms it may also mean.

In: text and a kind of term. Out: a ``Resolution``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.schema import Match, Resolution, TermKind

if TYPE_CHECKING:
    from haystack_kernel.knowledge.tables import Knowledge


def resolve(text: str, *, kind: TermKind, knowledge: Knowledge) -> Resolution:
    """Find the known term."""
    tables = {
        "cell_type": knowledge.cell_types,
        "perturbation": knowledge.perturbations,
        "tissue": knowledge.tissues,
        "disease": knowledge.diseases,
    }
    for term, entry in tables.get(kind, {}).items():
        names = [term, entry.name, *entry.synonyms]
        if text.lower() in [n.lower() for n in names]:
            return Resolution(text=text, kind=kind, match=Match(id=term, name=entry.name, score=1.0, how="name"))
    return Resolution(text=text, kind=kind)
