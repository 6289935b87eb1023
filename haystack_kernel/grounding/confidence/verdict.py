"""What the run's engine adds to the simple baselines, by rule.

In: the baselines beside it, its composite, its agreement with itself from another draw of the prompt. Out: a verdict
and its words.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from inference.manifest import BASELINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.schema import BaselineVerdict, EngineAgreement

SAME = 0.95  # correlation that counts as the same response, however well the engine agrees with itself
TOLD_APART = 0.5  # difference of composites that counts


def engine_verdict(
    engine: str, *, agreement: Sequence[EngineAgreement], own: float, between_draws: float
) -> tuple[BaselineVerdict, str]:
    """Say what the engine adds to the simple baselines, by rule.

    Parameters
    ----------
    engine
        The run's engine.
    agreement
        The baselines.
    own
        Composite of the run; NaN: not scored.
    between_draws
        Correlation of the engine's responses to two draws of the prompt; NaN: not known.

    Returns
    -------
    Verdict and one sentence. ``adds_nothing``: the most similar baseline correlates with the prediction as well as the
    prediction from another draw of the prompt does, or at 0.95. Otherwise the composites decide: ``falls_behind`` or
    ``adds`` for a difference of 0.5 to the best baseline, ``not_told_apart`` below that.
    """
    name = engine.upper() if engine == "stack" else engine
    if engine in BASELINES:
        return "is_baseline", f"{name} is itself a simple baseline: no other engine was asked."
    compared = [item for item in agreement if not math.isnan(item.pearson)]
    if not compared:
        return "not_compared", "No simple baseline could be compared."
    closest = max(compared, key=lambda item: item.pearson)
    draws = f"{between_draws:.2f} between two draws of the prompt"
    if math.isnan(between_draws):
        draws = "no other draw of the prompt was made"
    similarity = f"r = {closest.pearson:.2f} with {closest.engine}; {draws}"
    if closest.pearson >= np.fmin(SAME, between_draws):
        return "adds_nothing", f"{name} is indistinguishable from the closest simple baseline ({similarity})."
    return _by_composite(name, agreement=agreement, own=own, similarity=similarity)


def _by_composite(
    name: str, *, agreement: Sequence[EngineAgreement], own: float, similarity: str
) -> tuple[BaselineVerdict, str]:
    """Verdict on an engine that predicts another response than every baseline: which one known biology prefers."""
    scored = [item for item in agreement if not math.isnan(item.composite)]
    if not scored or math.isnan(own):
        return "not_told_apart", f"{name} differs from the baselines ({similarity}), but no score tells which is right."
    best = max(scored, key=lambda item: item.composite)
    scores = f"score {own:.1f}, best baseline {best.engine} {best.composite:.1f}; {similarity}"
    if best.composite >= own + TOLD_APART:
        return "falls_behind", f"A simple baseline agrees better with known biology than {name} ({scores})."
    if own >= best.composite + TOLD_APART:
        return "adds", f"{name} agrees better with known biology than every simple baseline ({scores})."
    return "not_told_apart", f"{name} differs from the baselines, but known biology prefers neither ({scores})."
