"""The components of the score: what known biology expects, tested against both nulls.

In: effects on the tested genes, p_signal of the same sets, the query and the knowledge tables. Out: one ``Component``
per row of the score, in display order; NaN with a reason where one cannot be computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.components.literature import judge_literature
from haystack_kernel.grounding.components.network import expected_by_network, judge_network
from haystack_kernel.grounding.components.observational import (
    judge_coherence,
    judge_donor,
    judge_tissue,
    reference_sets,
)
from haystack_kernel.grounding.components.score import best_of_many, score_from_p
from haystack_kernel.grounding.nulls.draws import Tails, p_specificity
from haystack_kernel.grounding.records import Evidence
from haystack_kernel.grounding.signatures.regulons import activated_factors, undetected_targets, widen
from haystack_kernel.grounding.signatures.sets import (
    MIN_SET_GENES,
    compete,
    effect_background,
    equivalents,
    merge_signed,
    rival_genes,
    stronger_rivals,
)
from haystack_kernel.schema import OBSERVATIONAL, Component

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import anndata as ad
    import pandas as pd

    from haystack_kernel.grounding.nulls.draws import Signal
    from haystack_kernel.grounding.records import Basis
    from haystack_kernel.grounding.signatures.sets import Background, SignedSet

NAN = float("nan")
LOST_LEAD_P = 0.5  # another signature explains the response better: no better than chance
OBSERVATIONAL_WEIGHT = 0.25


@dataclass(frozen=True)
class Verdict:
    """p_specificity of one set with what moved it."""

    tails: Tails
    rivals: tuple[str, ...] = ()
    reason: str = ""
    detail: tuple[tuple[str, Any], ...] = ()


def is_observational(basis: Basis) -> bool:
    """Whether the question is about a state of cells, not about a perturbation."""
    query = basis.query
    return query.task_type in OBSERVATIONAL or (query.perturbation is None and not query.expected_targets)


def component_weights(basis: Basis) -> dict[str, float]:
    """Weights of the components of the query's task, in display order."""
    if is_observational(basis):
        names = (keys.MARKER, keys.TISSUE_SIGNATURE, keys.DONOR_EFFECT, keys.CELL_TYPE_COHERENCE)
        return dict.fromkeys(names, OBSERVATIONAL_WEIGHT)
    weights = basis.settings
    return {
        keys.PATHWAY: weights.weight_pathway,
        keys.TARGET: weights.weight_target,
        keys.LITERATURE: weights.weight_literature,
        keys.NETWORK: weights.weight_network,
    }


def expected_sets(basis: Basis) -> dict[str, SignedSet]:
    """Signed genes of every component that tests some, weighted for the network; empty where nothing is expected."""
    query, pathways = basis.query, basis.knowledge.pathways
    if is_observational(basis):
        judged = query.task_type == "cell_type_imputation"
        return {
            keys.MARKER: dict.fromkeys(query.marker_genes, 1) if judged else {},
            **reference_sets(basis),
        }
    known = [(pathways[name].genes, sign) for name, sign in query.expected_pathways.items() if name in pathways]
    read = basis.literature.signed if basis.literature is not None else {}
    return {
        keys.PATHWAY: merge_signed(known),
        keys.TARGET: widen(query.expected_targets, activated_factors(basis), knowledge=basis.knowledge),
        keys.LITERATURE: read,
        keys.NETWORK: expected_by_network(basis),
    }


def compute_components(
    de: pd.DataFrame, *, predicted: ad.AnnData, signal: Signal, basis: Basis
) -> tuple[Component, ...]:
    """Score every component of the query's task.

    Parameters
    ----------
    de
        From :func:`compute_de`.
    predicted
        The cells that ``de`` is about, raw counts.
    signal
        p_signal of :func:`expected_sets`, by component name.
    basis
        Query, knowledge, settings and context.

    Returns
    -------
    Per component p = max(p_signal, p_specificity), one-sided in the expected direction, corrected for the best of
    ``n_scored`` predictions, mapped to 1..10. The statistic is the mean over the set of s_g z_g.
    """
    background = effect_background(de, perturbations=basis.knowledge.perturbations)
    evidence = Evidence(de=de, predicted=predicted, background=background, signal=signal, basis=basis)
    return tuple(JUDGES[name](name, weight, evidence) for name, weight in component_weights(basis).items())


def judge_set(name: str, weight: float, evidence: Evidence) -> Component:
    """Score a component that is one signed gene set of :func:`expected_sets`."""
    background, basis = evidence.background, evidence.basis
    genes = expected_sets(basis)[name]
    if reason := _why_not(name, genes, background=background, basis=basis):
        n_genes = int(background.place(genes)[0].size)
        return Component(name=name, weight=weight, score=NAN, reason=reason, n_genes=n_genes)
    judged = _judge(name, genes, background=background, signal=evidence.signal, basis=basis)
    if name == keys.TARGET and (note := undetected_targets(evidence)):
        return judged.model_copy(update={"reason": "; ".join(filter(None, (judged.reason, note)))})
    return judged


def specificity(
    background: Background, genes: SignedSet, *, name: str, basis: Basis, spared: Collection[str]
) -> Verdict:
    """p_specificity of a set after taking out the genes of every perturbation that explains the response better.

    Parameters
    ----------
    background
        Tested genes with their effects.
    genes
        Signed set, signs multiplied by the expected direction.
    name
        Names the set's random numbers.
    basis
        Query, knowledge, settings and context.
    spared
        Pathways that the set stands for. A rival's genes are its response and its pathways, but not these.

    Returns
    -------
    p and the rivals, strongest first. The asked perturbation and its equivalents are no rivals of what was asked.
    """
    knowledge, query = basis.knowledge, basis.query
    known = knowledge.perturbations
    if name in (keys.PATHWAY, keys.TARGET) or set(spared) & set(query.expected_pathways):
        exempt = equivalents(
            query.expected_targets, known, name=query.perturbation.name if query.perturbation else None
        )
    else:
        exempt = {other for other, entry in known.items() if set(spared) & set(entry.pathways)}
    rivals = stronger_rivals(background, genes, perturbations=known, exempt=exempt)
    removed = rival_genes(rivals, knowledge, spared=spared)
    settings, seed = basis.settings, basis.context.seed
    tails = p_specificity(background, genes, removed=removed, n_draws=settings.n_draws, seed=seed, name=name)
    reason = f"{rivals[0]} explains the response better; its genes were left out" if rivals else ""
    return Verdict(tails=tails, rivals=tuple(rivals), reason=reason)


def _judge(name: str, genes: SignedSet, *, background: Background, signal: Signal, basis: Basis) -> Component:
    is_asked = name in (keys.PATHWAY, keys.TARGET)
    if is_asked:
        verdict = specificity(background, genes, name=name, basis=basis, spared=tuple(basis.query.expected_pathways))
    else:
        settings, seed = basis.settings, basis.context.seed
        verdict = Verdict(p_specificity(background, genes, n_draws=settings.n_draws, seed=seed, name=name))
    p_spec, reasons, detail = verdict.tails.up, [verdict.reason], dict[str, Any]()
    if name == keys.TARGET:
        lead = compete(background, basis.query.expected_targets or genes, signatures=_rival_signatures(basis))
        detail = {"ridge_asked": lead.asked, "ridge_rival": lead.rival, "ridge_rival_value": lead.rival_value}
        detail["ridge_ranking"] = [f"{name or 'asked'} {value:.2f}" for name, value in lead.ranking]
        detail["factors"] = [
            f"{factor} {'+' if sign > 0 else '-'}" for factor, sign in activated_factors(basis).items()
        ]
        if not lead.leads:
            p_spec = max(p_spec, LOST_LEAD_P)
            reasons.append(
                f"the signature of {lead.rival or 'no perturbation'} fits the response better than the asked one"
            )
    p_sig = signal.get(name).up
    if np.isnan(p_sig):
        why = signal.reason or f"the prompt measures fewer than {MIN_SET_GENES} of its genes"
        reasons.append(f"judged by specificity alone: {why}")
    p = best_of_many(float(np.nanmax([p_sig, p_spec])), n_scored=basis.context.n_scored)
    where, signs = background.place(genes)
    detail |= {"p": p, "rivals": list(verdict.rivals[:5]), "n_draws": basis.settings.n_draws}
    detail["leading_genes"] = leading_genes(background, genes)
    return Component(
        name=name,
        weight=component_weights(basis)[name],
        score=score_from_p(p),
        reason="; ".join(reason for reason in reasons if reason),
        statistic=float(np.mean(signs * background.z[where])),
        p_signal=p_sig,
        p_specificity=p_spec,
        n_genes=int(where.size),
        detail=detail,
    )


def leading_genes(background: Background, genes: SignedSet, *, n_top: int = 8) -> list[str]:
    """Genes of a set that move most in the expected direction, strongest first."""
    where, signs = background.place(genes)
    gain = signs * background.z[where]
    order = [i for i in np.argsort(-gain, kind="stable")[:n_top] if gain[i] > 0]
    return [str(background.genes[where[i]]) for i in order]


def _why_not(name: str, genes: SignedSet, *, background: Background, basis: Basis) -> str:
    """Why a component cannot be computed; empty when it can."""
    settings, query = basis.settings, basis.query
    if len(background.genes) < settings.min_tested_genes:
        return f"only {len(background.genes):,} genes were tested; at least {settings.min_tested_genes:,} are needed"
    if not genes:
        asked = query.perturbation.name if query.perturbation else "this question"
        if name in (keys.PATHWAY, keys.TARGET):
            what = "pathways" if name == keys.PATHWAY else "response genes"
            return f"no expected {what} of {asked} are in the knowledge tables"
        if query.task_type != "cell_type_imputation":
            return "judged for cell type imputation only: elsewhere these genes are not expected to change"
        return "no marker genes of the cell type are in the knowledge tables"
    n_tested = int(background.place(genes)[0].size)
    if n_tested < MIN_SET_GENES:
        return f"{n_tested} of its {len(genes)} genes were tested; at least {MIN_SET_GENES} are needed"
    return ""


def _rival_signatures(basis: Basis) -> dict[str, dict[str, int]]:
    """Response signatures of all other cytokines and drugs, and of the asked perturbation's own type."""
    asked = basis.query.perturbation
    types = {"cytokine", "drug"} | ({asked.type} if asked is not None and asked.type is not None else set())
    return {
        name: entry.response
        for name, entry in basis.knowledge.perturbations.items()
        if entry.type in types and entry.response and (asked is None or name != asked.name)
    }


JUDGES: dict[str, Callable[[str, float, Evidence], Component]] = {
    keys.PATHWAY: judge_set,
    keys.TARGET: judge_set,
    keys.LITERATURE: judge_literature,
    keys.NETWORK: judge_network,
    keys.MARKER: judge_set,
    keys.TISSUE_SIGNATURE: judge_tissue,
    keys.DONOR_EFFECT: judge_donor,
    keys.CELL_TYPE_COHERENCE: judge_coherence,
}
