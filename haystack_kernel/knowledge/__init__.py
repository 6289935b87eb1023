"""What HAYSTACK knows of biology: cell types, perturbations, pathways, tissues, diseases, and how to name them.

In: packaged tables, any text a person may write. Out: entries, resolutions with alternatives, ontology distances.
"""

from __future__ import annotations

from haystack_kernel.knowledge.mentions import Mention, find_mentions
from haystack_kernel.knowledge.ontology import ancestors, descendants, distance, neighbours
from haystack_kernel.knowledge.resolve import resolve
from haystack_kernel.knowledge.tables import (
    CellType,
    Disease,
    Knowledge,
    Pathway,
    PerturbationEntry,
    Tissue,
    load_knowledge,
    load_knowledge_from,
)

__all__ = [
    "CellType",
    "Disease",
    "Knowledge",
    "Mention",
    "Pathway",
    "PerturbationEntry",
    "Tissue",
    "ancestors",
    "descendants",
    "distance",
    "find_mentions",
    "load_knowledge",
    "load_knowledge_from",
    "neighbours",
    "resolve",
]
