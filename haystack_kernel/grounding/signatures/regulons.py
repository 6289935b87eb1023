"""Which transcription factors the asked perturbation should drive, and the genes that they regulate.

In: the query and the gene network. Out: signed factors, a wider set of expected genes, receptors that are not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.components.network import asked_targets
from haystack_kernel.grounding.components.walks import build_network, find_sources
from haystack_kernel.grounding.de.table import MEAN_CONTROL, MEAN_TREATED
from haystack_kernel.knowledge.actions import action_on_targets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.grounding.records import Basis, Evidence
    from haystack_kernel.grounding.signatures.sets import SignedSet
    from haystack_kernel.knowledge import Knowledge

LEADING = 0.5  # of the strongest factor's mass
MIN_REGULON = 5  # genes that make a factor


def activated_factors(basis: Basis) -> dict[str, int]:
    """Factors that a walk from the targets reaches with at least half of the strongest one's mass, and their sign.

    A target that is itself a factor (a nuclear receptor) counts as reached most. Empty where no walk is known.
    """
    knowledge, targets = basis.knowledge, asked_targets(basis)
    asked = basis.query.perturbation
    entry = knowledge.perturbations.get(asked.name) if asked is not None else None
    action = action_on_targets(entry, knowledge=knowledge) if entry is not None else 0
    sources = find_sources(knowledge, targets)
    if not action or not sources:
        return {}
    network = build_network(knowledge)
    mass = action * network.spread(sources).mean(axis=1)  # a factor that is active, whether it is transcribed or not
    regulons = regulons_of(knowledge)
    direct = {network.genes[source]: action for source in sources if network.genes[source] in regulons}
    if direct:
        return direct
    found = {name: float(mass[network.place[name]]) for name in regulons}
    bar = LEADING * max((abs(value) for value in found.values()), default=0.0)
    return {name: int(np.sign(value)) for name, value in found.items() if value and abs(value) >= bar}


def regulons_of(knowledge: Knowledge) -> dict[str, dict[str, int]]:
    """Factor -> signed genes, for factors with at least five."""
    regulons: dict[str, dict[str, int]] = {}
    for edge in knowledge.network:
        if edge.kind == "transcription":
            regulons.setdefault(edge.regulator, {})[edge.target] = edge.sign
    return {name: genes for name, genes in regulons.items() if len(genes) >= MIN_REGULON}


def widen(known: SignedSet, factors: Mapping[str, int], *, knowledge: Knowledge) -> dict[str, float]:
    """Known response genes, and genes of the factors' regulons; what is known of a gene goes before its regulons.

    A gene that regulons move both ways is left out.
    """
    votes: dict[str, int] = {}
    regulons = regulons_of(knowledge)
    for name, sign in factors.items():
        for gene, edge in regulons[name].items():
            votes[gene] = votes.get(gene, 0) + sign * edge
    return {gene: float(np.sign(vote)) for gene, vote in votes.items() if vote} | dict(known)


def undetected_targets(evidence: Evidence) -> str:
    """Receptors of a cytokine that no cell shows, in words; "" where all are seen. Never a ground to score lower."""
    asked, de = evidence.basis.query.perturbation, evidence.de
    if asked is None or asked.type != "cytokine":
        return ""
    seen = de.loc[de[[MEAN_CONTROL, MEAN_TREATED]].max(axis=1) > 0, keys.GENE]
    missing = [gene for gene in asked_targets(evidence.basis) if gene not in set(seen)]
    return f"{', '.join(missing)} not detected, which is not absence" if missing else ""
