"""The confidence in the best round: the verdict on its engine, one row per aspect, and the feedback of all rounds.

In: a run record. Out: HTML fragments, every text escaped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.report.html import Html, items, paragraph, table
from haystack_kernel.report.words import accuracy_text

if TYPE_CHECKING:
    from haystack_kernel.schema import RunRecord

_HOW = (
    "The score measures agreement with known biology; these rows say how reliable the prediction is. "
    "Rows that are unavailable say why."
)
_TESTED = (
    "Correlation of predicted and measured mean log-shifts over the tested genes; share of the genes measured beyond "
    "three standard errors that change in the predicted direction; share of the 50 largest measured rises among the 50 "
    "largest predicted ones. No control cell was a query cell. The score does not know of these cells."
)


def trust_table(record: RunRecord) -> Html:
    """Return the confidence in the best round as a table.

    Parameters
    ----------
    record
        The run. Before a round was scored the table is replaced by a sentence that says so.

    Returns
    -------
    The verdict on the engine, one row per aspect, and what each round found.

    Examples
    --------
    >>> trust_table(run.record)  # doctest: +SKIP
    """
    best = record.best
    if best is None or best.confidence is None:
        return Html(paragraph("Confidence unavailable: the round was not scored."))
    rows: list[tuple[str, float, str]] = []
    expected = best.confidence.expected
    if expected is not None:
        basis = f"{accuracy_text(record)} It rests on {expected.words}." if expected.words else accuracy_text(record)
        rows.append(("expected accuracy", expected.value, basis))
    for item in best.confidence.aspects:
        said = f"unavailable: {item.reason}" if math.isnan(item.value) else item.words
        rows.append((item.name, item.value, said))
    shown = table(("aspect", "value", "meaning"), rows, caption="Confidence of the best round")
    taught = [f"Round {past.number}: {fact.sentence}." for past in record.rounds for fact in past.feedback]
    learned = f"<h3>What the rounds showed</h3>{items(taught)}" if taught else ""
    verdict = paragraph(best.confidence.verdict_words) if best.confidence.verdict_words else ""
    return Html(f"{verdict}{shown}{paragraph(_HOW, kind='small')}{learned}")


def truth_table(record: RunRecord) -> Html:
    """Return the best round against the measured responses that were hidden from it; empty where none was hidden."""
    if not record.truth:
        return Html("")
    columns = (
        "measured",
        *(f"{side} cells" for side in record.truth[0].sides),
        "genes",
        "correlation",
        "same direction",
        "top 50",
    )
    rows = [
        (one.label, one.n_treated, one.n_control, one.n_genes, one.pearson, one.same_direction, one.top_overlap)
        for one in record.truth
    ]
    shown = table(columns, rows, caption="The prediction against measured cells that were hidden from the search")
    reasons = items([one.words for one in record.truth if one.reason])
    return Html(f"{shown}{paragraph(_TESTED, kind='small')}{reasons}")
