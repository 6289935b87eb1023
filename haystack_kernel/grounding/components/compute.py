"""All components of one prediction, in display order.

In: the DE table, the self-contained null of the expected sets, what the score rests on. Out: one ``Component`` each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.grounding.components.expected import component_weights
from haystack_kernel.grounding.components.gene_set import score_gene_set
from haystack_kernel.grounding.components.literature import score_literature
from haystack_kernel.grounding.components.network import score_network
from haystack_kernel.grounding.components.observational import score_coherence, score_donor, score_tissue
from haystack_kernel.grounding.de.background import effect_background
from haystack_kernel.grounding.records import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from haystack_kernel.grounding.nulls.self_contained import SelfContained
    from haystack_kernel.grounding.records import Basis
    from haystack_kernel.schema import Component

SCORERS: dict[str, Callable[[str, float, Evidence], Component]] = {
    keys.PATHWAY: score_gene_set,
    keys.TARGET: score_gene_set,
    keys.LITERATURE: score_literature,
    keys.NETWORK: score_network,
    keys.MARKER: score_gene_set,
    keys.TISSUE_SIGNATURE: score_tissue,
    keys.DONOR_EFFECT: score_donor,
    keys.CELL_TYPE_COHERENCE: score_coherence,
}


def compute_components(de: pd.DataFrame, *, self_contained: SelfContained, basis: Basis) -> tuple[Component, ...]:
    """Score every component of the query's task.

    Parameters
    ----------
    de
        From :func:`compute_de`.
    self_contained
        Self-contained null of :func:`expected_sets`, by component name.
    basis
        Query, knowledge, settings and context.

    Returns
    -------
    Components in display order. Each has p = max(p_signal, p_donors, p_specificity), one-sided in the expected
    direction and corrected for the best of ``n_scored`` predictions, mapped to 1..10; NaN with a reason where one
    cannot be computed.
    """
    background = effect_background(de, perturbations=basis.knowledge.perturbations)
    evidence = Evidence(de=de, background=background, self_contained=self_contained, basis=basis)
    return tuple(SCORERS[name](name, weight, evidence) for name, weight in component_weights(basis).items())
