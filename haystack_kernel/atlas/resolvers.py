"""The functions of the knowledge tables that reading a file needs, as one value.

In: the knowledge tables. Out: ``Resolvers``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import Resolution


@dataclass(frozen=True)
class Resolvers:
    """Functions from a label to a known term.

    ``perturbation_type`` maps a canonical name to its type or ""; ``is_below`` says whether the first of two ontology
    ids is the second one or lies below it.
    """

    cell_type: Callable[[str], Resolution]
    perturbation: Callable[[str], Resolution]
    tissue: Callable[[str], Resolution]
    disease: Callable[[str], Resolution]
    perturbation_type: Callable[[str], str]
    is_below: Callable[[str, str], bool]


def resolvers_of(knowledge: Knowledge) -> Resolvers:
    """Return the functions that resolve labels with the knowledge tables; each label is looked up once."""
    from haystack_kernel.knowledge import ancestors, perturbation_of, resolve
    from haystack_kernel.knowledge.ontology import ALL_RELATIONS

    def is_below(a: str, b: str) -> bool:
        return a == b or b in ancestors(a, knowledge=knowledge, relations=ALL_RELATIONS)

    return Resolvers(
        cell_type=cache(partial(resolve, kind="cell_type", knowledge=knowledge)),
        perturbation=cache(partial(resolve, kind="perturbation", knowledge=knowledge)),
        tissue=cache(partial(resolve, kind="tissue", knowledge=knowledge)),
        disease=cache(partial(resolve, kind="disease", knowledge=knowledge)),
        perturbation_type=lambda name: entry.type if (entry := perturbation_of(name, knowledge=knowledge)) else "",
        is_below=is_below,
    )
