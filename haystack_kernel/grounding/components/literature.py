"""Literature support: do the genes of which papers tell the direction move that way.

In: the signed genes read from papers that were searched for without a word of the prediction. Out: a ``Component``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel.grounding.components.score import best_of_many, score_from_p
from haystack_kernel.grounding.nulls.draws import p_specificity
from haystack_kernel.grounding.signatures.competing import rivals_of_asked
from haystack_kernel.grounding.signatures.sets import MIN_SET_GENES
from haystack_kernel.literature.reading import Reading
from haystack_kernel.schema import Component

if TYPE_CHECKING:
    from haystack_kernel.grounding.records import Basis, Evidence
    from haystack_kernel.grounding.signatures.sets import Background

NAN = float("nan")
MIN_PAPERS = 3
OFF = "the literature sources were not asked: switched off"


def judge_literature(name: str, weight: float, evidence: Evidence) -> Component:
    """Score the genes whose direction papers tell.

    The statistic is the mean of s_g z_g, s_g what the majority of papers says. p = max of p_signal (prompt labels
    permuted) and p_specificity: the same papers, with gene names permuted among tested genes named about as often
    (and among equals, expressed about as highly), after the genes of every perturbation that explains the response
    better than the asked one are taken out.
    """
    background, basis = evidence.background, evidence.basis
    reading = basis.literature or Reading(reason=OFF)
    where, signs = background.place(reading.signed)
    if reason := _why_not(reading, n_genes=int(where.size), background=background, basis=basis):
        return Component(name=name, weight=weight, score=NAN, reason=reason, n_genes=int(where.size))
    effects = signs * background.z[where]
    rivals, removed = rivals_of_asked(background, reading.signed, basis=basis)
    settings, seed = basis.settings, basis.context.seed
    p_spec = p_specificity(
        by_popularity(background, reading),
        reading.signed,
        removed=removed,
        n_draws=settings.n_draws,
        seed=seed,
        name=name,
    ).up
    p_sig = evidence.signal.get(name).up
    reasons = [f"{rivals[0]} explains the response better; its genes were left out"] if rivals else []
    if np.isnan(p_sig):
        why = evidence.signal.reason or f"the prompt measures fewer than {MIN_SET_GENES} of its genes"
        reasons.append(f"judged by specificity alone: {why}")
    p = best_of_many(float(np.nanmax([p_sig, p_spec])), n_scored=basis.context.n_scored)
    detail: dict[str, Any] = {
        "p": p,
        "rivals": rivals[:5],
        "n_draws": settings.n_draws,
        "n_papers": reading.n_papers,
        "n_telling": reading.n_telling,
        "n_agree": int((effects > 0).sum()),
        "n_oppose": int((effects < 0).sum()),
    }
    return Component(
        name=name,
        weight=weight,
        score=score_from_p(p),
        reason="; ".join(reasons),
        statistic=float(np.mean(effects)),
        p_signal=p_sig,
        p_specificity=p_spec,
        n_genes=int(where.size),
        detail=detail,
    )


def by_popularity(background: Background, reading: Reading) -> Background:
    """The background with genes levelled by how many papers name them, then by expression; ranks from 0."""
    named = np.array([reading.popularity.get(str(gene), 0) for gene in background.genes], dtype=float)
    order = np.lexsort((background.level, named))
    rank = np.empty(len(order))
    rank[order] = np.arange(len(order))
    return replace(background, level=rank)


def _why_not(reading: Reading, *, n_genes: int, background: Background, basis: Basis) -> str:
    """Why the component cannot be computed; empty when it can."""
    if reading.reason:
        return reading.reason
    least = basis.settings.min_tested_genes
    if len(background.genes) < least:
        return f"only {len(background.genes):,} genes were tested; at least {least:,} are needed"
    if n_genes < MIN_SET_GENES or reading.n_telling < MIN_PAPERS:
        return (
            f"{reading.n_telling} of {reading.n_papers} papers tell the direction of {n_genes} tested genes; at least "
            f"{MIN_PAPERS} papers and {MIN_SET_GENES} genes are needed"
        )
    return ""
