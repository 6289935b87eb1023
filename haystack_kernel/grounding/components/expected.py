"""Which components a question has, and the signed gene sets that they expect to move.

In: the query and what is known about it. Out: weights and gene sets, by component.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.grounding.signatures.regulons import activated_factors, widen
from haystack_kernel.grounding.signatures.sets import merge_signed
from haystack_kernel.grounding.signatures.walks import expected_by_network

if TYPE_CHECKING:
    from haystack_kernel.grounding.de.background import SignedSet
    from haystack_kernel.grounding.records import Basis

OBSERVATIONAL_WEIGHT = 0.25


def component_weights(basis: Basis) -> dict[str, float]:
    """Weights of the components of the query's task, in display order."""
    if basis.is_observational:
        names = (keys.MARKER, keys.TISSUE_SIGNATURE, keys.DONOR_EFFECT, keys.CELL_TYPE_COHERENCE)
        return dict.fromkeys(names, OBSERVATIONAL_WEIGHT)
    settings = basis.settings
    return {
        keys.PATHWAY: settings.weight_pathway,
        keys.TARGET: settings.weight_target,
        keys.LITERATURE: settings.weight_literature,
        keys.NETWORK: settings.weight_network,
    }


def expected_sets(basis: Basis) -> dict[str, SignedSet]:
    """Signed genes of every component that tests a gene set; an empty set where nothing is expected.

    The network's set is weighted by the walk. In a question about a state of cells the sets are signatures that the
    prompt itself must show: markers and the cell type in an imputation, the donor where a donor is predicted.
    """
    query, reference = basis.query, basis.reference
    if basis.is_observational:
        is_imputation = query.task_type == "cell_type_imputation"
        sets: dict[str, SignedSet] = {keys.MARKER: dict.fromkeys(query.marker_genes, 1) if is_imputation else {}}
        if reference is not None and query.task_type == "donor_expression_prediction":
            sets[keys.DONOR_EFFECT] = reference.donor.signature
        elif reference is not None:
            sets[keys.CELL_TYPE_COHERENCE] = reference.signatures[reference.types[0]]
        return sets
    pathways = basis.knowledge.pathways
    known = [(pathways[name].genes, sign) for name, sign in query.expected_pathways.items() if name in pathways]
    return {
        keys.PATHWAY: merge_signed(known),
        keys.TARGET: widen(query.expected_targets, activated_factors(basis), knowledge=basis.knowledge),
        keys.LITERATURE: basis.literature.signed if basis.literature is not None else {},
        keys.NETWORK: expected_by_network(basis),
    }
