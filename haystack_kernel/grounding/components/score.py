"""From p values to scores from 1 to 10, and from components to the one composite, with every cap and its reason.

In: p values, components. Out: scores, a ``Composite``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import Composite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.schema import Component

NAN = float("nan")
CAP_UNMATCHED = 4.0
MIN_WEIGHT = 0.5


def score_from_p(p: float) -> float:
    """clip(1 - 3 log10(p / 0.5), 1, 10): chance is 1, 1 in 200 is 7, 5 in 10,000 is 10; NaN stays NaN.

    Raises
    ------
    InvalidInputError
        ``p`` is not in (0, 1].
    """
    if math.isnan(p):
        return NAN
    if not 0 < p <= 1:
        msg = f"p = {p} lies outside (0, 1]; permutation p values are (1 + count) / (draws + 1)"
        raise InvalidInputError(msg, p=p)
    return min(max(1.0 - 3.0 * math.log10(p / 0.5), 1.0), 10.0)


def best_of_many(p: float, *, n_scored: int) -> float:
    """P that the best of ``n_scored`` predictions reaches ``p`` by chance: 1 - (1 - p)^K; NaN stays NaN.

    Raises
    ------
    InvalidInputError
        ``n_scored`` is below 1.
    """
    if n_scored < 1:
        msg = f"n_scored = {n_scored}; it counts the predictions scored so far, this one included, so at least 1"
        raise InvalidInputError(msg, n_scored=n_scored)
    if math.isnan(p) or p >= 1:
        return p
    return -math.expm1(n_scored * math.log1p(-p))


def composite(components: Sequence[Component], *, donor_matched: bool) -> Composite:
    """Weighted mean of the components that could be computed, capped by what the evidence allows.

    Parameters
    ----------
    components
        With weights; the weight of a NaN component is shared among the rest in proportion.
    donor_matched
        Whether the prompt's control comes from the same donors; without it the value is at most 4, because
        differences between donors pass both nulls.

    Returns
    -------
    ``value`` in [1, 10], unrounded; NaN with a reason when less than half of the weight was computed. A missing
    share caps the value at 4 + 6 x the computed weight.
    """
    total = sum(component.weight for component in components)
    computed = [component for component in components if not math.isnan(component.score)]
    weight = sum(component.weight for component in computed) / total if total else 0.0
    missing = [component.name.replace("_", " ") for component in components if math.isnan(component.score)]
    if not computed or weight < MIN_WEIGHT:
        why = "; ".join(f"{c.name.replace('_', ' ')}: {c.reason}" for c in components if math.isnan(c.score))
        reason = f"not scored: only {weight:.0%} of the weight could be computed ({why or 'no components'})"
        return Composite(value=NAN, weight_computed=weight, reason=reason)
    value = sum(component.weight * component.score for component in computed) / sum(c.weight for c in computed)
    cap, reasons = 10.0, []
    if weight < 1 - 1e-9:
        cap = 4.0 + 6.0 * weight
        reasons.append(f"{', '.join(missing)} not computed: {weight:.0%} of the weight allows at most {cap:.1f}")
    if not donor_matched:
        cap = min(cap, CAP_UNMATCHED)
        reasons.append(f"no donor-matched control: differences between donors cannot be excluded, at most {cap:.0f}")
    return Composite(value=min(value, cap), weight_computed=weight, cap=cap, reason="; ".join(reasons))
