"""Literature support: whether the genes whose direction papers state move that way.

In: the signed genes read from papers, which were searched for without using the prediction. Out: a ``Component``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.components.gene_set import N_SHOWN
from haystack_kernel.grounding.components.score import (
    Finding,
    not_computed,
    scored_component,
    too_few_tested,
    why_no_self_contained,
)
from haystack_kernel.grounding.de.background import MIN_SET_GENES
from haystack_kernel.grounding.nulls.competitive import competitive_null
from haystack_kernel.grounding.signatures.competing import competing_with_asked, left_out_words
from haystack_kernel.literature.reading import Reading

if TYPE_CHECKING:
    from haystack_kernel.grounding.de.background import Background
    from haystack_kernel.grounding.records import Evidence
    from haystack_kernel.schema import Component

MIN_PAPERS = 3
OFF = "the literature sources were not asked: switched off"


def score_literature(name: str, weight: float, evidence: Evidence) -> Component:
    """Score the genes whose direction papers state.

    The statistic is the mean of s_g z_g, where s_g is what the majority of papers states. The competitive null keeps
    the papers and permutes gene names among tested genes that are named about as often (and among those named equally
    often, expressed about as highly), because papers name famous genes whether they move or not. The genes of every
    competing signature are taken out first.
    """
    background, basis = evidence.background, evidence.basis
    reading = basis.literature or Reading(reason=OFF)
    where, signs = background.locate(reading.signed)
    n_genes = int(where.size)
    reason = reading.reason or too_few_tested(len(background.genes), basis=basis)
    if not reason and (n_genes < MIN_SET_GENES or reading.n_telling < MIN_PAPERS):
        reason = (
            f"{reading.n_telling} of {reading.n_papers} papers state the direction of {n_genes} tested genes; at least "
            f"{MIN_PAPERS} papers and {MIN_SET_GENES} genes are needed"
        )
    if reason:
        return not_computed(name, weight, reason, n_genes=n_genes)
    effects = signs * background.z[where]
    competing, removed = competing_with_asked(background, reading.signed, basis=basis)
    tails = competitive_null(
        by_popularity(background, reading),
        reading.signed,
        removed=removed,
        n_draws=basis.settings.n_draws,
        seed=basis.context.seed,
        name=name,
    )
    finding = Finding(
        statistic=float(np.mean(effects)),
        n_genes=n_genes,
        p_self_contained=evidence.self_contained.get(name).up,
        p_donors=evidence.self_contained.over_donors(name).up,
        p_competitive=tails.up,
        why_no_self_contained=why_no_self_contained(evidence),
        reasons=left_out_words(competing),
        detail={
            "competing": competing[:N_SHOWN],
            "n_papers": reading.n_papers,
            "n_telling": reading.n_telling,
            "n_agree": int((effects > 0).sum()),
            "n_oppose": int((effects < 0).sum()),
        },
    )
    return scored_component(name, weight, finding, basis=basis)


def by_popularity(background: Background, reading: Reading) -> Background:
    """The background with genes ranked (from 0) by how many papers name them, then by expression.

    The rank takes the place of ``level``, by which the competitive null matches its random sets.
    """
    named = np.array([reading.popularity.get(str(gene), 0) for gene in background.genes], dtype=float)
    order = np.lexsort((background.level, named))
    rank = np.empty(len(order))
    rank[order] = np.arange(len(order))
    return replace(background, level=rank)
