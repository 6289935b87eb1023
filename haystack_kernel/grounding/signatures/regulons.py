"""Which transcription factors the asked perturbation should drive, and the genes that they regulate.

In: the query and the gene network. Out: signed factors, a wider set of expected genes, receptors that are not detected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.de.table import MEAN_CONTROL, MEAN_TREATED
from haystack_kernel.grounding.signatures.walks import (
    asked_action,
    asked_targets,
)
from haystack_kernel.knowledge.walks import build_network, find_sources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.grounding.de.background import SignedSet
    from haystack_kernel.grounding.records import Basis, Evidence
    from haystack_kernel.knowledge import Knowledge

LEADING = 0.5  # share of the strongest factor's mass from which a factor counts as driven
MIN_REGULON = 5  # regulated genes that make a gene a factor


def activated_factors(basis: Basis) -> dict[str, int]:
    """Factors that the asked perturbation should drive, with their sign (+1 activated, -1 inhibited).

    These are the targets that are themselves factors (nuclear receptors). Where no target is one, they are the factors
    that a walk from the targets reaches with at least half of the strongest one's mass. The result is empty where no
    walk is known.
    """
    knowledge, action = basis.knowledge, asked_action(basis)
    sources = find_sources(knowledge, asked_targets(basis))
    if not action or not sources:
        return {}
    network, regulons = build_network(knowledge), regulons_of(knowledge)
    direct = [network.genes[source] for source in sources if network.genes[source] in regulons]
    if direct:
        return dict.fromkeys(direct, action)
    # the whole mass counts here, not only what arrives over transcription: a factor can be active and not transcribed
    mass = action * network.spread(sources).mean(axis=1)
    of_factor = {name: float(mass[network.place[name]]) for name in regulons}
    least = LEADING * max((abs(value) for value in of_factor.values()), default=0.0)
    return {name: int(np.sign(value)) for name, value in of_factor.items() if value and abs(value) >= least}


def regulons_of(knowledge: Knowledge) -> dict[str, dict[str, int]]:
    """Factor -> signed genes, for factors with at least five genes in the network."""
    regulons: dict[str, dict[str, int]] = {}
    for edge in knowledge.network:
        if edge.kind == "transcription":
            regulons.setdefault(edge.regulator, {})[edge.target] = edge.sign
    return {name: genes for name, genes in regulons.items() if len(genes) >= MIN_REGULON}


def widen(known: SignedSet, factors: Mapping[str, int], *, knowledge: Knowledge) -> dict[str, float]:
    """Add the genes of the factors' regulons to the known response genes.

    What is known of a gene takes precedence over its regulons. A gene that the regulons move both ways equally often
    is left out.
    """
    votes: dict[str, int] = {}
    regulons = regulons_of(knowledge)
    for name, sign in factors.items():
        for gene, edge in regulons[name].items():
            votes[gene] = votes.get(gene, 0) + sign * edge
    return {gene: float(np.sign(vote)) for gene, vote in votes.items() if vote} | dict(known)


def undetected_targets(evidence: Evidence) -> str:
    """Sentence that names the receptors of a cytokine that no cell shows; "" where all are detected.

    It is a remark only and never lowers a score, because receptors are often expressed below detection.
    """
    asked, de = evidence.basis.query.perturbation, evidence.de
    if asked is None or asked.type != "cytokine":
        return ""
    seen = set(de.loc[de[[MEAN_CONTROL, MEAN_TREATED]].max(axis=1) > 0, keys.GENE])
    missing = [gene for gene in asked_targets(evidence.basis) if gene not in seen]
    return f"{', '.join(missing)} not detected, which does not prove absence" if missing else ""
