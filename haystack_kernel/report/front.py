"""The first screen of a report: the answer, how sure it is, what limits it, and one picture.

In: a run record and the tables of its best round. Out: HTML, every text escaped. Everything else lies folded below it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.report.html import Html, bar_picture, escape, items, paragraph
from haystack_kernel.report.summary import notices
from haystack_kernel.report.words import accuracy_text, change_text, next_text

if TYPE_CHECKING:
    from haystack_kernel.schema import RunRecord

_N_LIMITS = 1  # shown at once; the others unfold


def front(record: RunRecord, *, picture: str = "", links: str = "") -> Html:
    """Return the first screen of a report.

    Parameters
    ----------
    record
        The run; without an answer its state is said.
    picture
        The figure beside the text, as HTML; empty for none.
    links
        What can be taken from the page, as HTML.
    """
    said = record.interpretation
    words = paragraph("No interpretation is available yet.")
    if said is not None:
        words = "".join(paragraph(text, kind="headline") for text in _sentences(said.headline))
    left = items(notices(record), kind="warning") + words + _how_sure(record) + _limits(record) + links
    kind = "front pictured" if picture else "front"
    return Html(f'<div class="{kind}"><div class="said">{left}</div><div class="shown">{picture}</div></div>')


def _sentences(headline: str) -> list[str]:
    """The headline as two sentences: what changes, and what known biology says of it."""
    change, mark, verdict = headline.rpartition("; score ")
    return [f"{change}.", f"Score {verdict}"] if mark else [headline]


def _how_sure(record: RunRecord) -> str:
    best = record.best
    if best is None or best.composite is None:
        return ""
    if math.isnan(best.composite.value):
        picture, told = "", f"Not scored: {best.composite.reason or 'no component could be computed'}."
    else:
        picture = f"{bar_picture(best.composite.value)} "
        told = f"{best.composite.shown}; 1 is chance, {record.config.threshold:g} is asked for."
    verdict = _without_numbers(best.confidence.verdict_words) if best.confidence else ""
    accuracy = accuracy_text(record)
    hangs_on = " ".join(text for text in (change_text(record, brief=True), next_text(record)) if text)
    return (
        f"<h2>How sure</h2><p>{picture}{escape(f'{told} {verdict}'.rstrip())}</p>"
        f"{paragraph(accuracy) if accuracy else ''}{paragraph(hangs_on, kind='small') if hangs_on else ''}"
    )


def _without_numbers(verdict: str) -> str:
    """The verdict on the engine without the numbers in brackets at its end, which the table of confidence holds."""
    words, mark, _ = verdict.partition(" (")
    return f"{words}." if mark else verdict


def _limits(record: RunRecord) -> str:
    limits = record.interpretation.limitations if record.interpretation else ()
    if not limits:
        return ""
    rest = items(limits[_N_LIMITS:])
    more = f"<details><summary>{len(limits) - _N_LIMITS} more</summary>{rest}</details>" if rest else ""
    return f'<div class="limits"><h2>What limits it</h2>{items(limits[:_N_LIMITS])}{more}</div>'
