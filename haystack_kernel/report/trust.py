"""How far to trust the best round: the verdict on its engine, one row per aspect, and what the round taught.

In: a run record. Out: HTML fragments, every text escaped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.report.html import Html, items, paragraph, table

if TYPE_CHECKING:
    from haystack_kernel.schema import Aspect, RunRecord

_HOW = (
    "The score says how far the prediction agrees with known biology; these say how much weight it can bear. "
    "What is not known has its reason."
)


def trust_table(record: RunRecord) -> Html:
    """The confidence block of the best round; a sentence before there is one."""
    best = record.best
    if best is None or best.confidence is None:
        return Html(paragraph("Nothing was scored yet, so there is nothing to trust or to doubt."))
    rows = [_row(item) for item in best.confidence.aspects]
    shown = table(("aspect", "value", "what it means"), rows, caption="Confidence of the best round")
    taught = [f"Round {past.number}: {item.sentence}." for past in record.rounds for item in past.feedback]
    learned = f"<h3>What the rounds taught</h3>{items(taught)}" if taught else ""
    verdict = paragraph(best.confidence.verdict_words) if best.confidence.verdict_words else ""
    return Html(f"{verdict}{shown}{paragraph(_HOW, kind='small')}{learned}")


def _row(item: Aspect) -> tuple[object, ...]:
    said = f"not known: {item.reason}" if math.isnan(item.value) else item.words
    return item.name, item.value, said
