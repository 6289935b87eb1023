"""What explains a response better than the asked perturbation, for the components that are not its signature itself.

In: tested genes, query, knowledge. Out: the stronger perturbations and the genes that they move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.grounding.signatures.sets import MIN_SET_GENES, equivalents, rival_genes, stronger_rivals

if TYPE_CHECKING:
    from haystack_kernel.grounding.records import Basis
    from haystack_kernel.grounding.signatures.sets import Background, SignedSet


def rivals_of_asked(background: Background, instead: SignedSet, *, basis: Basis) -> tuple[list[str], set[str]]:
    """Perturbations that explain the response better than the asked one, strongest first, and their genes.

    The asked one stands by its own response, or by ``instead`` where fewer than five genes of that were tested. The
    asked pathways are spared.
    """
    query, known = basis.query, basis.knowledge.perturbations
    asked: SignedSet = query.expected_targets
    if background.place(asked)[0].size < MIN_SET_GENES:
        asked = instead
    exempt = equivalents(asked, known, name=query.perturbation.name if query.perturbation else None)
    rivals = stronger_rivals(background, asked, perturbations=known, exempt=exempt)
    return rivals, rival_genes(rivals, basis.knowledge, spared=set(query.expected_pathways))
