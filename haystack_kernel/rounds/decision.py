"""Whether another round follows, which one is the best so far, and what the next one should do otherwise.

In: scored rounds. Out: best round, why the rounds end, the sentence that says so; feedback.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.rounds.record import query_of

if TYPE_CHECKING:
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import (
        Feedback,
        RoundSettings,
        RunRecord,
        Termination,
    )


def decide(record: RunRecord, *, settings: RoundSettings) -> tuple[int, Termination | None, str]:
    """Best round so far, why the rounds end (None: they go on), and the sentence that says so.

    The best round has the highest unrounded composite; a round without a score loses to any with one; of equals the
    earliest wins. Plateau: the last ``plateau_rounds`` rounds brought no gain of ``plateau_gain`` over the best before.
    """
    scores = [item.composite.value if item.composite else math.nan for item in record.rounds]
    values = [-math.inf if math.isnan(score) else score for score in scores]  # a round without a score ranks last
    best = max(range(len(values)), key=lambda index: (values[index], -index))
    top, n = values[best], len(values)
    shown = "not scored" if math.isinf(top) else f"{top:.1f}"
    if top >= record.config.threshold:
        return best + 1, "threshold", f"stop: {shown} reaches the threshold {record.config.threshold:g}"
    if n >= record.config.max_rounds:
        return best + 1, "max_rounds", f"stop: {n} of {record.config.max_rounds} rounds are used (best {shown})"
    window = settings.plateau_rounds
    recent, before = max(values[-window:]), max(values[:-window], default=-math.inf)
    if n > window and (math.isinf(recent) or recent < before + settings.plateau_gain):
        gain = f"no gain of {settings.plateau_gain:g} in {window} rounds"
        return best + 1, "plateau", f"stop: {gain} (best {shown})"
    return best + 1, None, f"go on: best so far {shown}, threshold {record.config.threshold:g}"


def read_feedback(record: RunRecord, ports: Ports) -> tuple[Feedback, ...]:
    """What the last round teaches the next one; nothing where it reached the threshold."""
    from haystack_kernel.grounding import find_feedback

    return find_feedback(
        record.rounds[-1],
        query=query_of(record),
        knowledge=load_knowledge(ports.settings.knowledge),
        threshold=record.config.threshold,
    )
