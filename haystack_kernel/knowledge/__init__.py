"""Biological knowledge: cell types, perturbations, pathways, tissues, diseases, and how they are named.

In: packaged tables, files that users add, any text a person may write. Out: entries, resolutions with alternatives,
ontology distances.
"""

from __future__ import annotations

from haystack_kernel.knowledge.entries import perturbation_of, resolve_genetic
from haystack_kernel.knowledge.genetic import GeneticLabel, find_genetic, read_genetic
from haystack_kernel.knowledge.load import load_knowledge
from haystack_kernel.knowledge.mentions import Mention, find_mentions
from haystack_kernel.knowledge.ontology import ancestors, descendants, distance, neighbours
from haystack_kernel.knowledge.resolve import resolve
from haystack_kernel.knowledge.tables import load_knowledge_from
from haystack_kernel.knowledge.terms import (
    CellType,
    Disease,
    Edge,
    Knowledge,
    Obsolete,
    Pathway,
    PerturbationEntry,
    Source,
    Tissue,
)
from haystack_kernel.knowledge.vocabulary import with_vocabulary

__all__ = [
    "CellType",
    "Disease",
    "Edge",
    "GeneticLabel",
    "Knowledge",
    "Mention",
    "Obsolete",
    "Pathway",
    "PerturbationEntry",
    "Source",
    "Tissue",
    "ancestors",
    "descendants",
    "distance",
    "find_genetic",
    "find_mentions",
    "load_knowledge",
    "load_knowledge_from",
    "neighbours",
    "perturbation_of",
    "read_genetic",
    "resolve",
    "resolve_genetic",
    "with_vocabulary",
]
