"""Judges of questions about a state of cells: do they look like their type, their tissue and their donor.

In: one prediction with the profiles of the reference. Out: a ``Component`` each; NaN with a reason where the atlas
lacks what the judgement needs.

Levels are judged, not changes: the start may be right already. Marker genes are judged by their change, in
:mod:`haystack_kernel.grounding.components.perturbational`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.components.score import best_of_many, score_from_p
from haystack_kernel.grounding.de.table import MEAN_TREATED
from haystack_kernel.grounding.nulls.draws import Tails, p_specificity
from haystack_kernel.grounding.signatures.sets import (
    EQUIVALENT,
    MIN_SET_GENES,
    Background,
    overlap_coefficient,
    standardise,
)
from haystack_kernel.schema import Component

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.grounding.records import Basis, Evidence
    from haystack_kernel.grounding.signatures.reference import Contrast, ReferenceProfiles
    from haystack_kernel.grounding.signatures.sets import SignedSet

NAN = float("nan")
LOST_LEAD_P = 0.5  # another type, donor or tissue fits better: no better than chance
N_VARIABLE = 1000  # genes that differ most among the centroids, on which they are compared
_BY_CONSTRUCTION = "measured on prompt cells, for want of others, so agreement is partly by construction"
NO_REFERENCE = "no reference cells of the cell type asked for were found outside the cells asked about"


class Likeness(NamedTuple):
    """How a profile compares with the centroids: correlation with the asked type, and with the best other one."""

    asked: float
    rival: str
    rival_value: float

    @property
    def margin(self) -> float:
        """Positive where the asked type is the nearest."""
        return self.asked - self.rival_value


def reference_sets(basis: Basis) -> dict[str, SignedSet]:
    """Signatures that the prompt itself must show: of the cell type in an imputation, of the donor where it is told."""
    reference = basis.reference
    if reference is None:
        return {}
    if basis.query.task_type == "donor_expression_prediction":
        return {keys.DONOR_EFFECT: dict(reference.donor.signature)}
    return {keys.CELL_TYPE_COHERENCE: dict(reference.signatures[reference.types[0]])}


def judge_coherence(name: str, weight: float, evidence: Evidence) -> Component:
    """Whether the prediction lies nearer to the asked cell type than to any other of the reference.

    The statistic is the margin between two Pearson correlations, of the predicted mean profile with the centroid of
    the asked type and with the best other one, each less the mean of all centroids. p_specificity: the genes by which
    the asked type exceeds the others, against matched decoys on the same differences; 0.5 at least where another type
    is nearer. p_signal: the same genes in the prompt against its control. A donor prediction starts from cells of the
    type, so keeping it scores no more than the donor effect does.
    """
    basis, reference = evidence.basis, evidence.basis.reference
    if reason := _why_not(evidence):
        return Component(name=name, weight=weight, score=NAN, reason=reason)
    if reference is None:
        return Component(name=name, weight=weight, score=NAN, reason=NO_REFERENCE)
    background = _levels(evidence, genes=reference.genes, base=reference.mean, sd=reference.sd)
    genes = reference.signatures[reference.types[0]]
    where = background.place(genes)[0]
    if where.size < MIN_SET_GENES:
        reason = f"{where.size} genes of the reference signature were tested; at least {MIN_SET_GENES} are needed"
        return Component(name=name, weight=weight, score=NAN, reason=reason, n_genes=int(where.size))
    likeness = nearest_type(_profile(evidence.de), reference=reference)
    reasons = [f"nearer to {likeness.rival} than to {reference.types[0]}"] if likeness.margin < 0 else []
    if reference.own_prompt:
        reasons.append(_BY_CONSTRUCTION)
    judged = _judged(name, weight, evidence, background=background, genes=genes, lost=likeness.margin < 0)
    why = "" if basis.query.task_type != "donor_expression_prediction" else "the prompt shows other cell types"
    finished = _finish(
        judged,
        basis=basis,
        p_signal=evidence.signal.get(name),
        why_no_signal=why or evidence.signal.reason or "the prompt measures too few of its genes",
        reasons=reasons,
        statistic=likeness.margin,
        detail={"r_asked": likeness.asked, "nearest_other": likeness.rival, "r_other": likeness.rival_value},
    )
    return _no_more_than_donor(finished, evidence) if why else finished


def _no_more_than_donor(kept: Component, evidence: Evidence) -> Component:
    donor = judge_donor(keys.DONOR_EFFECT, kept.weight, evidence)
    if np.isnan(donor.score):
        reason = f"the start has the type already, and no donor effect could be judged: {donor.reason}"
        return kept.model_copy(update={"score": NAN, "reason": reason})
    if donor.score >= kept.score:
        return kept
    reason = f"{kept.reason}; the start has the type already, so no more than the donor effect"
    return kept.model_copy(update={"score": donor.score, "reason": reason})


def judge_donor(name: str, weight: float, evidence: Evidence) -> Component:
    """Whether the prediction differs from other donors' cells of the type as the donor's other cell types do.

    The statistic is the mean over the donor's signature of s_g z_g, z = (prediction - asked type in the other donors) /
    (sd + median sd). p_specificity: matched decoys, and 0.5 at least where another donor's signature fits better.
    p_signal: the difference is shared among the donor's cell types, each scored by the signature of those before it,
    labels permuted within the type; in a donor prediction also the signature in the prompt, and the larger of the two.
    """
    if not evidence.basis.query.donor_id:
        return Component(name=name, weight=weight, score=NAN, reason="the question names no donor")
    reference = evidence.basis.reference
    return _judge_contrast(name, weight, evidence, contrast=None if reference is None else reference.donor)


def judge_tissue(name: str, weight: float, evidence: Evidence) -> Component:
    """Whether the prediction differs from the cell type elsewhere as other cell types of the tissue do.

    As :func:`judge_donor`; where too few cell types are measured in this tissue and in others, the tissue's genes of
    the knowledge tables stand in, by specificity alone.
    """
    query, reference = evidence.basis.query, evidence.basis.reference
    if not query.tissue_id:
        return Component(name=name, weight=weight, score=NAN, reason="the question names no tissue")
    contrast = None if reference is None else reference.tissue
    if (
        reference is not None
        and contrast is not None
        and contrast.reason
        and contrast.base.size
        and len(query.tissue_genes) >= MIN_SET_GENES
    ):
        known = dict.fromkeys(query.tissue_genes, 1)
        label = query.tissue_name or contrast.label
        contrast = replace(contrast, signature=known, rivals={}, reason="", label=label, own_prompt=False)
        likeness = nearest_type(_profile(evidence.de), reference=reference)
        if likeness.margin < 0:  # the genes of a tissue are those of its main cell types
            own_genes = f"the prediction is nearer to {likeness.rival}, whose own genes may be the tissue's"
            return _judge_contrast(name, weight, evidence, contrast=contrast, lost_to=own_genes)
    return _judge_contrast(name, weight, evidence, contrast=contrast)


def nearest_type(profile: pd.Series, *, reference: ReferenceProfiles) -> Likeness:
    """Compare a mean log1p-CP10k profile (indexed by gene) with the centroids.

    Returns
    -------
    Correlations on the up to 1,000 genes that differ most among the centroids and that the profile holds. Types whose
    signature overlaps the asked one by more than half count as the same answer and are no rivals.
    """
    held = np.flatnonzero(reference.genes.isin(profile.index))
    chosen = held[np.argsort(-reference.sd[held], kind="stable")[:N_VARIABLE]]
    start = profile[reference.genes[chosen]].to_numpy(float) - reference.mean[chosen]
    values = [_pearson(start, row[chosen] - reference.mean[chosen]) for row in reference.centroids]
    asked = reference.signatures[reference.types[0]]
    rivals = {
        name: value
        for name, value in zip(reference.types[1:], values[1:], strict=True)
        if overlap_coefficient(asked, reference.signatures[name]) <= EQUIVALENT
    }
    rival = max(rivals, key=lambda one: rivals[one], default="")
    return Likeness(values[0], rival, rivals.get(rival, -1.0))


def _judge_contrast(
    name: str, weight: float, evidence: Evidence, *, contrast: Contrast | None, lost_to: str = ""
) -> Component:
    basis = evidence.basis
    reason = _why_not(evidence) or (NO_REFERENCE if contrast is None else contrast.reason)
    if reason or contrast is None or basis.reference is None:
        return Component(name=name, weight=weight, score=NAN, reason=reason)
    background = _levels(evidence, genes=basis.reference.genes, base=contrast.base, sd=contrast.sd)
    where = background.place(contrast.signature)[0]
    if where.size < MIN_SET_GENES:
        reason = f"{where.size} genes of its signature were tested; at least {MIN_SET_GENES} are needed"
        return Component(name=name, weight=weight, score=NAN, reason=reason, n_genes=int(where.size))
    own = background.statistic(contrast.signature)
    rivals = {
        other: background.statistic(genes)
        for other, genes in contrast.rivals.items()
        if overlap_coefficient(contrast.signature, genes) <= EQUIVALENT
    }
    rival = max(rivals, key=lambda one: rivals[one], default="")
    if rivals.get(rival, -np.inf) > own:
        lost_to = f"{rival} fits the prediction better than {contrast.label}"
    judged = _judged(name, weight, evidence, background=background, genes=contrast.signature, lost=bool(lost_to))
    return _finish(
        judged,
        basis=basis,
        p_signal=Tails(float(np.fmax(contrast.signal.up, evidence.signal.get(name).up))),
        why_no_signal=f"too few cell types are measured in {contrast.label} and elsewhere",
        reasons=[*([lost_to] if lost_to else []), *([_BY_CONSTRUCTION] if contrast.own_prompt else [])],
        statistic=own,
        detail={"n_types": contrast.n_types, "n_rivals": len(rivals), "rival": rival},
    )


def _judged(
    name: str, weight: float, evidence: Evidence, *, background: Background, genes: SignedSet, lost: bool
) -> Component:
    """p_specificity of a signature, not yet scored."""
    settings, seed = evidence.basis.settings, evidence.basis.context.seed
    p_spec = p_specificity(background, genes, n_draws=settings.n_draws, seed=seed, name=name).up
    p_spec = max(p_spec, LOST_LEAD_P) if lost else p_spec
    n_genes = int(background.place(genes)[0].size)
    return Component(name=name, weight=weight, score=NAN, p_specificity=p_spec, n_genes=n_genes)


def _finish(
    judged: Component,
    *,
    basis: Basis,
    p_signal: Tails,
    why_no_signal: str,
    reasons: list[str],
    statistic: float,
    detail: dict[str, object],
) -> Component:
    """The component with its score: the worse of both p values, corrected for the best of many."""
    if np.isnan(p_signal.up):
        reasons = [*reasons, f"judged by specificity alone: {why_no_signal}"]
    p = best_of_many(float(np.nanmax([p_signal.up, judged.p_specificity])), n_scored=basis.context.n_scored)
    return judged.model_copy(
        update={
            "score": score_from_p(p),
            "reason": "; ".join(reasons),
            "statistic": statistic,
            "p_signal": p_signal.up,
            "detail": {**detail, "p": p, "n_draws": basis.settings.n_draws},
        }
    )


def _levels(evidence: Evidence, *, genes: pd.Index, base: NDArray[np.float64], sd: NDArray[np.float64]) -> Background:
    """The tested genes that the reference holds, with the prediction's standardised distance from ``base``."""
    profile = _profile(evidence.de)
    tested = evidence.background.genes
    places = pd.Series(np.arange(len(genes)), index=genes)
    shared = tested[tested.isin(genes)]
    at = places[shared].to_numpy(int)
    delta = profile[shared].to_numpy(float) - base[at]
    return Background(genes=pd.Index(shared), z=standardise(delta, sd[at]), level=base[at])


def _profile(de: pd.DataFrame) -> pd.Series:
    """Mean log1p-CP10k of the prediction, by gene."""
    rows = de.drop_duplicates(keys.GENE)
    return pd.Series(rows[MEAN_TREATED].to_numpy(float), index=rows[keys.GENE].to_numpy(object))


def _why_not(evidence: Evidence) -> str:
    n_tested, needed = len(evidence.background.genes), evidence.basis.settings.min_tested_genes
    return f"only {n_tested:,} genes were tested; at least {needed:,} are needed" if n_tested < needed else ""


def _pearson(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    if one.size < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])
