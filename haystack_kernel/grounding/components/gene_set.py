"""Components that are one signed gene set: expected pathways, response genes, marker genes.

In: effects on the tested genes, the self-contained null of the same set, query and knowledge. Out: a ``Component``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.components.expected import expected_sets
from haystack_kernel.grounding.components.score import (
    LOST_LEAD_P,
    Finding,
    not_computed,
    scored_component,
    too_few_tested,
    why_no_self_contained,
)
from haystack_kernel.grounding.de.background import min_set_genes
from haystack_kernel.grounding.nulls.competitive import competitive_null
from haystack_kernel.grounding.signatures.competing import (
    compete,
    competing_genes,
    competing_signatures,
    left_out_words,
)
from haystack_kernel.grounding.signatures.regulons import activated_factors, undetected_targets
from haystack_kernel.grounding.signatures.sets import equivalents

if TYPE_CHECKING:
    from collections.abc import Collection

    from haystack_kernel.grounding.de.background import Background, SignedSet
    from haystack_kernel.grounding.nulls.tails import Tails
    from haystack_kernel.grounding.records import Basis, Evidence
    from haystack_kernel.schema import Component

N_SHOWN = 5  # competing signatures named in the record
_OF_QUESTION = (keys.PATHWAY, keys.TARGET)  # sets that stand for the asked perturbation


class Specificity(NamedTuple):
    """P values of the competitive null, and the signatures that competed, strongest first."""

    tails: Tails
    competing: list[str]


def score_gene_set(name: str, weight: float, evidence: Evidence) -> Component:
    """Score a component that is one signed gene set of :func:`expected_sets`.

    The statistic is the mean of s_g z_g over the set. Of the response genes (target activation) a ridge regression
    asks in addition whether another perturbation's signature explains the response better; if one does, p is at
    least 0.5.
    """
    background, basis = evidence.background, evidence.basis
    genes = expected_sets(basis)[name]
    where, signs = background.locate(genes)
    if reason := _why_not(name, genes, n_tested=int(where.size), evidence=evidence):
        return not_computed(name, weight, reason, n_genes=int(where.size))
    if name in _OF_QUESTION:
        spared = tuple(basis.query.expected_pathways)
        tails, competing = without_competing(background, genes, name=name, basis=basis, spared=spared)
    else:  # markers say what a cell is; no perturbation competes for them
        settings, seed = basis.settings, basis.context.seed
        tails = competitive_null(background, genes, n_draws=settings.n_draws, seed=seed, name=name)
        competing = []
    p_competitive, reasons, detail = tails.up, left_out_words(competing), dict[str, Any]()
    if name == keys.TARGET:
        lost, detail = _ridge(genes, background=background, basis=basis)
        if lost:
            p_competitive = max(p_competitive, LOST_LEAD_P)
            reasons.append(lost)
    detail |= {"competing": competing[:N_SHOWN], "leading_genes": leading_genes(background, genes)}
    finding = Finding(
        statistic=float(np.mean(signs * background.z[where])),
        n_genes=int(where.size),
        p_self_contained=evidence.self_contained.get(name).up,
        p_competitive=p_competitive,
        p_donors=evidence.self_contained.over_donors(name).up,
        why_no_self_contained=why_no_self_contained(evidence),
        reasons=reasons,
        detail=detail,
    )
    component = scored_component(name, weight, finding, basis=basis)
    if name == keys.TARGET and (remark := undetected_targets(evidence)):
        return component.model_copy(update={"reason": "; ".join(filter(None, (component.reason, remark)))})
    return component


def without_competing(
    background: Background, genes: SignedSet, *, name: str, basis: Basis, spared: Collection[str]
) -> Specificity:
    """Test a set against the competitive null, without the genes of every competing signature.

    Parameters
    ----------
    background
        Tested genes with their effects.
    genes
        Signed set, signs multiplied by the expected direction.
    name
        Name of the set, which gives it random numbers of its own.
    basis
        Query, knowledge, settings and context.
    spared
        Pathways that the set stands for. A competing perturbation claims its response and its pathways, but not these.

    Returns
    -------
    P values and the competing signatures, strongest first. The asked perturbation and its equivalents do not compete
    with what was asked; a perturbation does not compete with a pathway that it is known to act on.
    """
    knowledge, query = basis.knowledge, basis.query
    known = knowledge.perturbations
    if name in _OF_QUESTION or set(spared) & set(query.expected_pathways):
        asked = query.perturbation.name if query.perturbation else None
        exempt = equivalents(query.expected_targets, known, name=asked)
    else:
        exempt = {other for other, entry in known.items() if set(spared) & set(entry.pathways)}
    competing = competing_signatures(background, genes, perturbations=known, exempt=exempt)
    removed = competing_genes(competing, knowledge, spared=spared)
    settings, seed = basis.settings, basis.context.seed
    tails = competitive_null(background, genes, removed=removed, n_draws=settings.n_draws, seed=seed, name=name)
    return Specificity(tails, competing)


def leading_genes(background: Background, genes: SignedSet, *, n_top: int = 8) -> list[str]:
    """Genes of a set that move most in the expected direction, strongest first."""
    where, signs = background.locate(genes)
    gain = signs * background.z[where]
    order = [i for i in np.argsort(-gain, kind="stable")[:n_top] if gain[i] > 0]
    return [str(background.genes[where[i]]) for i in order]


def _ridge(genes: SignedSet, *, background: Background, basis: Basis) -> tuple[str, dict[str, Any]]:
    """Compare the asked signature with those of other perturbations: why it lost ("" if it leads), and facts."""
    lead = compete(background, basis.query.expected_targets or genes, signatures=_other_signatures(basis))
    factors = activated_factors(basis)
    detail = {
        "ridge_asked": lead.asked,
        "ridge_competing": lead.competing,
        "ridge_competing_value": lead.competing_value,
        "ridge_ranking": [f"{name or 'asked'} {value:.2f}" for name, value in lead.ranking],
        "factors": [f"{factor} {'+' if sign > 0 else '-'}" for factor, sign in factors.items()],
    }
    if lead.leads:
        return "", detail
    return f"the signature of {lead.competing or 'no perturbation'} fits the response better than the asked one", detail


def _other_signatures(basis: Basis) -> dict[str, SignedSet]:
    """Responses of all other cytokines and drugs, and of the asked one's own type: genes compete only with genes."""
    asked = basis.query.perturbation
    types = {"cytokine", "drug"}
    if asked is not None and asked.type is not None:
        types.add(asked.type)
    name = asked.name if asked is not None else None
    known = basis.knowledge.perturbations.items()
    return {other: entry.response for other, entry in known if entry.type in types and entry.response and other != name}


def _why_not(name: str, genes: SignedSet, *, n_tested: int, evidence: Evidence) -> str:
    """Why a component cannot be computed; empty when it can."""
    query = evidence.basis.query
    if reason := too_few_tested(len(evidence.background.genes), basis=evidence.basis):
        return reason
    least = min_set_genes(len(evidence.background.genes))
    if genes and n_tested >= least:
        return ""
    if genes:
        return f"{n_tested} of its {len(genes)} genes were tested; at least {least} are needed"
    if name in _OF_QUESTION:
        asked = query.perturbation.name if query.perturbation else "this question"
        what = "pathways" if name == keys.PATHWAY else "response genes"
        return f"no expected {what} of {asked} are in the knowledge tables"
    if query.task_type != "cell_type_imputation":
        return "scored for cell type imputation only: elsewhere these genes are not expected to change"
    return "no marker genes of the cell type are in the knowledge tables"
