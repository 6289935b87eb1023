"""Components of questions about a state of cells: do the cells look like their type, their tissue and their donor.

In: one prediction with the profiles of the reference. Out: a ``Component`` each; NaN with a reason where the atlas
lacks what a component needs.

Levels are scored here and not changes, because the cells that a prediction starts from may be right already. Marker
genes are scored by their change, in :mod:`haystack_kernel.grounding.components.gene_set`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.components.score import (
    LOST_LEAD_P,
    Finding,
    not_computed,
    scored_component,
    too_few_tested,
)
from haystack_kernel.grounding.de.background import MIN_SET_GENES, Background, standardise
from haystack_kernel.grounding.de.profiles import correlate
from haystack_kernel.grounding.de.table import MEAN_TREATED
from haystack_kernel.grounding.nulls.competitive import competitive_null
from haystack_kernel.grounding.signatures.sets import EQUIVALENT, overlap_coefficient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from haystack_kernel.grounding.de.background import SignedSet
    from haystack_kernel.grounding.records import Evidence
    from haystack_kernel.grounding.signatures.reference import Contrast, ReferenceProfiles
    from haystack_kernel.schema import Component

N_VARIABLE = 1000  # genes that differ most among the centroids, on which they are compared
NO_REFERENCE = "no reference cells of the cell type asked for were found outside the cells asked about"
_BY_CONSTRUCTION = "measured on prompt cells because too few others exist, so agreement is partly by construction"


class TypeSimilarity(NamedTuple):
    """Correlation of a profile with the asked cell type, and with the most similar other one."""

    asked: float
    other: str
    other_value: float

    @property
    def margin(self) -> float:
        """Positive where the asked type is the most similar."""
        return self.asked - self.other_value


@dataclass(frozen=True)
class _Signature:
    """A signature of levels: ``genes`` on a ``background`` whose z is the distance from what is usual."""

    genes: SignedSet
    background: Background

    @property
    def n_genes(self) -> int:
        return int(self.background.locate(self.genes)[0].size)

    def p_competitive(self, name: str, evidence: Evidence, *, lost: bool) -> float:
        """Competitive null of the signature; at least 0.5 where something else fits the prediction better."""
        settings, seed = evidence.basis.settings, evidence.basis.context.seed
        p = competitive_null(self.background, self.genes, n_draws=settings.n_draws, seed=seed, name=name).up
        return max(p, LOST_LEAD_P) if lost else p


def score_coherence(name: str, weight: float, evidence: Evidence) -> Component:
    """Score whether the prediction is more similar to the asked cell type than to any other of the reference.

    The statistic is the margin between two Pearson correlations, of the predicted mean profile with the centroid of
    the asked type and with the most similar other one, each after the mean of all centroids is subtracted. Competitive
    null: the genes by which the asked type exceeds the others, against matched random sets on the same differences; p
    is at least 0.5 where another type is more similar. Self-contained null: the same genes in the prompt against its
    control. In a donor prediction the query cells already have the type, so that keeping it earns no more than the
    donor effect does.
    """
    basis, reference = evidence.basis, evidence.basis.reference
    if reason := too_few_tested(len(evidence.background.genes), basis=basis):
        return not_computed(name, weight, reason)
    if reference is None:
        return not_computed(name, weight, NO_REFERENCE)
    background = _levels(evidence, genes=reference.genes, base=reference.mean, sd=reference.sd)
    signature = _Signature(reference.signatures[reference.types[0]], background)
    if signature.n_genes < MIN_SET_GENES:
        reason = (
            f"{signature.n_genes} genes of the reference signature were tested; at least {MIN_SET_GENES} are needed"
        )
        return not_computed(name, weight, reason, n_genes=signature.n_genes)
    similarity = nearest_type(_profile(evidence.de), reference=reference)
    has_lost = similarity.margin < 0
    is_donor_prediction = basis.query.task_type == "donor_expression_prediction"
    why = evidence.self_contained.reason or "the prompt measures too few of its genes"
    finding = Finding(
        statistic=similarity.margin,
        n_genes=signature.n_genes,
        p_self_contained=evidence.self_contained.get(name).up,
        p_donors=evidence.self_contained.over_donors(name).up,
        p_competitive=signature.p_competitive(name, evidence, lost=has_lost),
        why_no_self_contained="the prompt shows other cell types" if is_donor_prediction else why,
        reasons=(
            f"more similar to {similarity.other} than to {reference.types[0]}" if has_lost else "",
            _BY_CONSTRUCTION if reference.own_prompt else "",
        ),
        detail={
            "r_asked": similarity.asked,
            "nearest_other": similarity.other,
            "r_other": similarity.other_value,
        },
    )
    coherence = scored_component(name, weight, finding, basis=basis)
    if not is_donor_prediction:
        return coherence
    # The query cells already have the type, so keeping it earns no more than the donor effect does.
    donor = score_donor(keys.DONOR_EFFECT, weight, evidence)
    if np.isnan(donor.score):
        reason = "the query cells already have the type, and the donor effect could not be scored"
        return coherence.model_copy(update={"score": donor.score, "reason": reason})
    if donor.score >= coherence.score:
        return coherence
    reason = f"{coherence.reason}; the query cells already have the type, so no more than the donor effect counts"
    return coherence.model_copy(update={"score": donor.score, "reason": reason})


def score_donor(name: str, weight: float, evidence: Evidence) -> Component:
    """Score whether the prediction differs from other donors' cells of the type as the donor's other cell types do.

    The statistic is the mean over the donor's signature of s_g z_g, z = (prediction - asked type in the other donors) /
    (sd + median sd). Competitive null: matched random sets; p is at least 0.5 where another donor's signature fits
    better. Self-contained null: the difference is shared among the donor's cell types, each scored by the signature of
    those before it, labels permuted within the type. In a donor prediction it is in addition the signature in the
    prompt, and the larger p counts. Where patients are compared with healthy donors, the donor null is that of
    :func:`people_null`, because the signature was chosen in these people; without it there is no score.
    """
    query, people = evidence.basis.query, evidence.self_contained.people
    if not query.donor_id and not query.compared_disease:
        return not_computed(name, weight, "the question names no donor")
    if people is not None and people.reason:
        return not_computed(name, weight, people.reason)
    reference = evidence.basis.reference
    return _score_contrast(name, weight, evidence, contrast=None if reference is None else reference.donor)


def score_tissue(name: str, weight: float, evidence: Evidence) -> Component:
    """Score whether the prediction differs from the cell type elsewhere as other cell types of the tissue do.

    As :func:`score_donor`. Where too few cell types are measured both in this tissue and in others, the tissue's genes
    in the knowledge tables take the place of its signature, tested against the competitive null alone.
    """
    query, reference = evidence.basis.query, evidence.basis.reference
    if not query.tissue_id:
        return not_computed(name, weight, "the question names no tissue")
    if reference is None:
        return _score_contrast(name, weight, evidence, contrast=None)
    contrast = reference.tissue
    is_known = contrast.base.size > 0 and len(query.tissue_genes) >= MIN_SET_GENES
    if not (contrast.reason and is_known):
        return _score_contrast(name, weight, evidence, contrast=contrast)
    known = dict.fromkeys(query.tissue_genes, 1)
    label = query.tissue_name or contrast.label
    contrast = replace(contrast, signature=known, competing={}, reason="", label=label, own_prompt=False)
    similarity = nearest_type(_profile(evidence.de), reference=reference)
    lost_to = ""
    if similarity.margin < 0:  # the genes of a tissue are mostly those of its main cell types
        lost_to = f"the prediction is more similar to {similarity.other}, whose own genes may be the tissue's"
    return _score_contrast(name, weight, evidence, contrast=contrast, lost_to=lost_to)


def nearest_type(profile: pd.Series, *, reference: ReferenceProfiles) -> TypeSimilarity:
    """Compare a mean log1p-CP10k profile (indexed by gene) with the centroids of the reference.

    Returns
    -------
    Correlations on the up to 1,000 genes that differ most among the centroids and that the profile holds; 0 where one
    cannot be computed. Types whose signature overlaps the asked one by more than half count as the same answer and do
    not compete. Without any other type ``other`` is "" and ``other_value`` -1.
    """
    held = np.flatnonzero(reference.genes.isin(profile.index))
    chosen = held[np.argsort(-reference.sd[held], kind="stable")[:N_VARIABLE]]
    mean = reference.mean[chosen]
    predicted = profile[reference.genes[chosen]].to_numpy(float) - mean
    values = [float(np.nan_to_num(correlate(predicted, row[chosen] - mean))) for row in reference.centroids]
    asked = reference.signatures[reference.types[0]]
    others = {
        name: value
        for name, value in zip(reference.types[1:], values[1:], strict=True)
        if overlap_coefficient(asked, reference.signatures[name]) <= EQUIVALENT
    }
    other, other_value = _largest(others, default=-1.0)
    return TypeSimilarity(values[0], other, other_value)


def _score_contrast(
    name: str, weight: float, evidence: Evidence, *, contrast: Contrast | None, lost_to: str = ""
) -> Component:
    """Score the signature of a donor or tissue; ``lost_to`` says what is known to fit the prediction better."""
    basis = evidence.basis
    if reason := too_few_tested(len(evidence.background.genes), basis=basis):
        return not_computed(name, weight, reason)
    if contrast is None or basis.reference is None:
        return not_computed(name, weight, NO_REFERENCE)
    if contrast.reason:
        return not_computed(name, weight, contrast.reason)
    background = _levels(evidence, genes=basis.reference.genes, base=contrast.base, sd=contrast.sd)
    signature = _Signature(contrast.signature, background)
    if signature.n_genes < MIN_SET_GENES:
        reason = f"{signature.n_genes} genes of its signature were tested; at least {MIN_SET_GENES} are needed"
        return not_computed(name, weight, reason, n_genes=signature.n_genes)
    statistic = background.statistic(contrast.signature)
    competing = {
        other: background.statistic(genes)
        for other, genes in contrast.competing.items()
        if overlap_coefficient(contrast.signature, genes) <= EQUIVALENT
    }
    strongest, value = _largest(competing, default=-np.inf)
    if value > statistic:
        lost_to = f"{strongest} fits the prediction better than {contrast.label}"
    detail: dict[str, Any] = {"n_types": contrast.n_types}
    detail |= {"n_competing": len(competing), "strongest_competing": strongest}
    people = evidence.self_contained.people
    over_donors = evidence.self_contained.over_donors(name).up
    finding = Finding(
        statistic=statistic,
        n_genes=signature.n_genes,
        # fmax: the larger of the two, or the one that could be computed
        p_self_contained=float(np.fmax(contrast.self_contained.up, evidence.self_contained.get(name).up)),
        p_donors=over_donors if people is None or name != keys.DONOR_EFFECT else people.p,
        p_competitive=signature.p_competitive(name, evidence, lost=bool(lost_to)),
        why_no_self_contained=f"too few cell types are measured in {contrast.label} and elsewhere",
        reasons=(lost_to, _BY_CONSTRUCTION if contrast.own_prompt else ""),
        detail=detail,
    )
    return scored_component(name, weight, finding, basis=basis)


def _largest(values: Mapping[str, float], *, default: float) -> tuple[str, float]:
    """Name and value of the largest entry; "" and ``default`` where there is none."""
    name = max(values, key=lambda one: values[one], default="")
    return name, values.get(name, default)


def _levels(evidence: Evidence, *, genes: pd.Index, base: NDArray[np.float64], sd: NDArray[np.float64]) -> Background:
    """The tested genes that the reference holds, with the prediction's standardised distance from ``base``."""
    profile = _profile(evidence.de)
    tested = evidence.background.genes
    shared = tested[tested.isin(genes)]
    at = pd.Series(np.arange(len(genes)), index=genes)[shared].to_numpy(int)
    delta = profile[shared].to_numpy(float) - base[at]
    return Background(genes=pd.Index(shared), z=standardise(delta, sd[at]), level=base[at])


def _profile(de: pd.DataFrame) -> pd.Series:
    """Mean log1p-CP10k of the prediction, by gene."""
    rows = de.drop_duplicates(keys.GENE)
    return pd.Series(rows[MEAN_TREATED].to_numpy(float), index=rows[keys.GENE].to_numpy(object))
