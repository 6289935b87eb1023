"""From p values to one component with a score from 1 to 10, and from components to the one composite.

In: p values, components. Out: ``Component``, ``Composite``, with every cap and its reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.de.background import FULL, min_set_genes
from haystack_kernel.schema import Component, Composite

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from haystack_kernel.grounding.records import Basis, Evidence

NAN = float("nan")
CAP_UNMATCHED = 4.0
CAP_PANEL = 6.0  # few genes of a panel were expected to change, so that what they show is easily missed or exceeded
MIN_WEIGHT = 0.5
LOST_LEAD_P = 0.5  # least p value where something else explains the response better: no better than chance


def score_from_p(p: float) -> float:
    """Map a p value to a score: clip(1 - 3 log10(p / 0.5), 1, 10).

    Chance scores 1, p = 1 in 200 scores 7, p = 5 in 10,000 scores 10; NaN stays NaN.

    Raises
    ------
    InvalidInputError
        ``p`` is not in (0, 1].

    References
    ----------
    Defined here.
    """
    if math.isnan(p):
        return NAN
    if not 0 < p <= 1:
        msg = f"p = {p} lies outside (0, 1]; permutation p values are (1 + count) / (draws + 1)"
        raise InvalidInputError(msg, p=p)
    return min(max(1.0 - 3.0 * math.log10(p / 0.5), 1.0), 10.0)


def best_of_many(p: float, *, n_scored: int) -> float:
    """Chance that the best of ``n_scored`` predictions reaches ``p``: 1 - (1 - p)^n_scored; NaN stays NaN.

    A run reports its best round, so each further round gets one more chance to pass by luck.

    Raises
    ------
    InvalidInputError
        ``n_scored`` is below 1.

    References
    ----------
    Sidak, J Am Stat Assoc 62:626 (1967).
    """
    if n_scored < 1:
        msg = f"n_scored = {n_scored}; it counts the predictions scored so far, this one included, so at least 1"
        raise InvalidInputError(msg, n_scored=n_scored)
    if math.isnan(p) or p >= 1:
        return p
    return -math.expm1(n_scored * math.log1p(-p))


@dataclass(frozen=True)
class Finding:
    """What the test of one component found, before it becomes a score.

    Attributes
    ----------
    statistic
        Signed statistic; > 0: the expected direction.
    n_genes
        Number of tested genes that it rests on.
    p_self_contained, p_competitive, p_donors
        One-sided p values in the expected direction, the first over cells, the last over donors; NaN: not computed.
    why_no_self_contained
        Why the first of them is NaN.
    reasons
        What limits the reading, one clause each; empty clauses are left out.
    detail
        Further facts for the record.
    """

    statistic: float
    n_genes: int
    p_self_contained: float
    p_competitive: float
    p_donors: float = NAN
    why_no_self_contained: str = ""
    reasons: Iterable[str] = ()
    detail: dict[str, Any] = field(default_factory=dict)


def scored_component(name: str, weight: float, finding: Finding, *, basis: Basis) -> Component:
    """Score a component by the largest of its p values, corrected for the best of several predictions.

    The largest p value counts because each null alone is passed by an error that another one finds: differences between
    cells that any treatment makes pass the self-contained null, differences between wells pass it as long as it counts
    cells, and a prediction that the prompt does not support passes the competitive one.
    """
    reasons = [reason for reason in finding.reasons if reason]
    if math.isnan(finding.p_self_contained):
        tested = "tested against the competitive null alone"
        if not math.isnan(finding.p_donors):
            tested = "tested over donors, not over cells"
        reasons.append(f"{tested}: {finding.why_no_self_contained}")
    largest = float(np.nanmax([finding.p_self_contained, finding.p_donors, finding.p_competitive]))
    p = best_of_many(largest, n_scored=basis.context.n_scored)
    return Component(
        name=name,
        weight=weight,
        score=score_from_p(p),
        reason="; ".join(reasons),
        statistic=finding.statistic,
        p_signal=finding.p_self_contained,
        p_donors=finding.p_donors,
        p_specificity=finding.p_competitive,
        n_genes=finding.n_genes,
        detail={**finding.detail, "p": p, "n_draws": basis.settings.n_draws},
    )


def not_computed(name: str, weight: float, reason: str, *, n_genes: int = 0) -> Component:
    """A component without a score, and why."""
    return Component(name=name, weight=weight, score=NAN, reason=reason, n_genes=n_genes)


def too_few_tested(n_tested: int, *, basis: Basis) -> str:
    """Why nothing can be scored where fewer genes were tested than the settings demand; empty otherwise."""
    least = basis.settings.min_tested_genes
    return f"only {n_tested:,} genes were tested; at least {least:,} are needed" if n_tested < least else ""


def why_no_self_contained(evidence: Evidence) -> str:
    """Why the self-contained null of a set of genes could not be computed."""
    least = min_set_genes(len(evidence.background.genes))
    return evidence.self_contained.reason or f"the prompt measures fewer than {least} of its genes"


def composite(
    components: Sequence[Component], *, donor_matched: bool, n_tested: int = FULL, replication: float = math.inf
) -> Composite:
    """Weighted mean of the components that could be computed, capped by what the evidence allows.

    Parameters
    ----------
    components
        Components with their weights; the weight of a NaN component is shared among the rest in proportion.
    donor_matched
        Whether the prompt's control cells come from the same donors. Without that the value is at most 4, because
        differences between donors pass both nulls.
    n_tested
        Number of tested genes; below 1,000 they are a panel, and the value is at most 6.
    replication
        Donors that the response was measured in, see :attr:`SelfContained.replication`; infinite where it is not known.
        The value is at most 4 + 6 (1 - 2^-replication): one donor, or a few cells, can show a response beyond doubt and
        still not show that other donors have it.

    Returns
    -------
    ``value`` in [1, 10], unrounded; NaN with a reason when less than half of the weight could be computed. A missing
    share of the weight caps the value at 4 + 6 x the computed share.
    """
    computed = [component for component in components if not math.isnan(component.score)]
    missing = [component for component in components if math.isnan(component.score)]
    total = sum(component.weight for component in components)
    computed_weight = sum(component.weight for component in computed)
    share = computed_weight / total if total else 0.0
    if share < MIN_WEIGHT:
        why = "; ".join(f"{_words(component)}: {component.reason}" for component in missing) or "no components"
        reason = f"not scored: only {share:.0%} of the weight could be computed ({why})"
        return Composite(value=NAN, weight_computed=share, reason=reason)
    value = sum(component.weight * component.score for component in computed) / computed_weight
    cap, reason = _cap(missing, share=share, donor_matched=donor_matched, n_tested=n_tested, replication=replication)
    return Composite(
        value=min(value, cap), weight_computed=share, cap=cap, replication=_finite(replication), reason=reason
    )


def _finite(value: float) -> float:
    """The value, or NaN: a record in JSON holds no infinity."""
    return value if math.isfinite(value) else NAN


def _cap(
    missing: Sequence[Component], *, share: float, donor_matched: bool, n_tested: int, replication: float
) -> tuple[float, str]:
    """The largest composite that the evidence allows, and why."""
    cap, reasons = 10.0, []
    if share < 1 - 1e-9:
        cap = 4.0 + 6.0 * share
        names = ", ".join(_words(component) for component in missing)
        reasons.append(f"{names} not computed: {share:.0%} of the weight allows at most {cap:.1f}")
    if n_tested < FULL:
        cap = min(cap, CAP_PANEL)
        reasons.append(
            f"only {n_tested:,} genes were tested, fewer than {FULL:,}: a panel allows at most {CAP_PANEL:.0f}"
        )
    if not donor_matched:
        cap = min(cap, CAP_UNMATCHED)
        reasons.append(f"no donor-matched control: differences between donors cannot be excluded, at most {cap:.0f}")
    replicated = 10.0 - 6.0 * 2.0**-replication
    if replicated < cap:
        cap = replicated
        reasons.append(
            f"the response was measured in few donors or cells, worth {replication:.1f} well measured donors: at most "
            f"{cap:.1f}"
        )
    return cap, "; ".join(reasons)


def _words(component: Component) -> str:
    return component.name.replace("_", " ")
