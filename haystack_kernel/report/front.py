"""The first screen of a report: the answer, how sure it is, what limits it, and one picture.

In: a run record and the tables of its best round. Out: HTML, every text escaped. Everything else lies folded below it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.report.html import Html, bar_picture, escape, items, paragraph
from haystack_kernel.report.summary import notices

if TYPE_CHECKING:
    from haystack_kernel.schema import Round, RunRecord

_N_LIMITS = 2  # shown at once; the others unfold


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
    value = best.composite.value
    if math.isnan(value):
        picture, told = "", f"Not scored: {best.composite.reason or 'no component could be computed'}."
    else:
        picture, told = f"{bar_picture(value)} ", f"{value:.1f}; 1 is chance, {record.config.threshold:g} is asked for."
    verdict = f" {best.confidence.verdict_words}" if best.confidence else ""
    return f"<h2>How sure</h2><p>{picture}{escape(told + verdict)}</p>{_unknown(best)}"


def _unknown(best: Round) -> str:
    """What could not be judged, which a reader would otherwise have to look for."""
    aspects = best.confidence.aspects if best.confidence else ()
    names = [item.name for item in aspects if math.isnan(item.value)]
    return paragraph(f"Not known: {', '.join(names)}.", kind="small unknown") if names else ""


def _limits(record: RunRecord) -> str:
    limits = record.interpretation.limitations if record.interpretation else ()
    if not limits:
        return ""
    rest = items(limits[_N_LIMITS:])
    more = f"<details><summary>{len(limits) - _N_LIMITS} more</summary>{rest}</details>" if rest else ""
    return f'<div class="limits"><h2>What limits it</h2>{items(limits[:_N_LIMITS])}{more}</div>'
