"""What a language model wrote and was told: its text in the answer, marked, and the transcript with its bill.

In: the record and its calls. Out: escaped HTML; nothing that a model or a file wrote can become markup.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from haystack_kernel.jobs import in_usd
from haystack_kernel.report.html import Html, escape, items, paragraph, table
from haystack_kernel.report.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from haystack_kernel.schema import Call, CitedQuote, ModelText

_LONGEST = 4000  # characters of one turn that are shown; transcript.json holds all
_CHECKED = (
    "Written by {model}, a language model. A program put in every number from the record, found every quotation in its "
    "paper, and refused names of genes and directions that the record does not hold. What a sentence concludes was not "
    "checked by anybody."
)
_FREE = "answered from a transcript; nothing was paid"


def written_by(text: ModelText) -> Html:
    """Return what a language model wrote about the result, marked as such, with its quotations.

    Parameters
    ----------
    text
        As the record holds it.

    Returns
    -------
    Paragraphs, next experiments and quotations.

    Examples
    --------
    >>> written_by(record.interpretation.model_text)  # doctest: +SKIP
    """
    said = "".join(paragraph(one) for one in text.paragraphs)
    if text.next_experiments:
        said += f"<h4>What to measure next</h4>{items(text.next_experiments)}"
    if text.quotes:
        quoted = "".join(f"<li>{_quote(one)}</li>" for one in text.quotes)
        said += f"<h4>Papers quoted</h4><ol>{quoted}</ol>"
    mark = paragraph(_CHECKED.format(model=text.model), kind="small")
    return Html(f'<div class="model-written"><h3>In the words of a language model</h3>{mark}{said}</div>')


def transcript_part(calls: Sequence[Call]) -> Html:
    """Return the requests to a language model by step: what each used and cost, and the conversation, folded.

    Parameters
    ----------
    calls
        Of the run, in order.

    Returns
    -------
    A table, then one folded conversation per step.

    Examples
    --------
    >>> transcript_part(CallFolder(store, run_id).calls)  # doctest: +SKIP
    """
    columns = ("step", "model", "tokens read", "from the cache", "tokens written", "cost", "seconds", "outcome")
    rows = [
        (
            call.step,
            call.model,
            call.usage.input_tokens,
            call.usage.cache_read_tokens,
            call.usage.output_tokens,
            _cost(call),
            round(call.seconds, 1),
            _outcome(call),
        )
        for call in calls
    ]
    paid = [call for call in calls if not call.is_free]
    total = sum((call.usage.usd for call in paid), start=0.0)
    caption = f"{counted(len(calls), 'request')} to a language model, {in_usd(total)} by list prices"
    steps = dict.fromkeys(call.step for call in calls)
    folded = "".join(_conversation(step, [call for call in calls if call.step == step]) for step in steps)
    note = "Data were shown with keys in place of labels. The instructions of each step are those of this version."
    return Html(table(columns, rows, caption=caption) + folded + paragraph(note, kind="small"))


def transcript_gist(calls: Sequence[Call]) -> str:
    """Return the section in a line: requests, and what they cost."""
    paid = sum((call.usage.usd for call in calls if not call.is_free), start=0.0)
    return f"{counted(len(calls), 'request')}, {in_usd(paid)} by list prices"


def _cost(call: Call) -> str:
    if call.is_free:
        return "0"
    return f"at most {in_usd(call.reserved_usd)}" if call.status is None else in_usd(call.usage.usd)


def _outcome(call: Call) -> str:
    if call.status is None:
        return "no answer arrived"
    if call.rejected:
        return f"not used: {call.rejected[:200]}"
    if call.is_free:
        return _FREE
    return "answered" if call.status == 200 else f"status {call.status}"


def _conversation(step: str, calls: Sequence[Call]) -> str:
    """The longest conversation of a step, which repeats the others, and its last answer."""
    last = max(calls, key=lambda call: (len(call.request.get("messages", ())), call.number))
    turns = [(turn["role"], turn["content"]) for turn in last.request.get("messages", ())]
    answer = last.answer.get("content") if isinstance(last.answer, dict) else last.answer
    if answer:
        turns.append(("assistant", answer))
    shown = "".join(_turn(role, content) for role, content in turns)
    return f"<details><summary>The conversation of step {escape(repr(step))}</summary>{shown}</details>"


def _turn(role: str, content: Any) -> str:  # noqa: ANN401 - as the service writes it
    who = "HAYSTACK" if role == "user" else "the model"
    parts = "".join(f'<pre class="turn" tabindex="0">{escape(_cut(text))}</pre>' for text in _texts(content))
    return f"<p><b>{who}</b></p>{parts}"


def _texts(content: Any) -> Iterator[str]:  # noqa: ANN401 - text, or blocks
    if isinstance(content, str):
        yield content
        return
    for block in content if isinstance(content, list) else ():
        kind = block.get("type")
        if kind == "text":
            yield block["text"]
        elif kind == "tool_use":
            yield f"{block['name']}({json.dumps(block['input'], ensure_ascii=False)})"
        elif kind == "tool_result":
            inner = block.get("content", "")
            yield inner if isinstance(inner, str) else "\n".join(_texts(inner))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"


def _quote(one: CitedQuote) -> str:
    where = f"https://doi.org/{one.doi}" if one.doi else ""
    if not where and one.pmid:
        where = f"https://pubmed.ncbi.nlm.nih.gov/{one.pmid}/"
    title = escape(one.title)
    if where:
        title = f'<a href="{escape(where)}" target="_blank" rel="noopener noreferrer">{title}</a>'
    year = f" ({one.year})" if one.year else ""
    return f"{title}{year}: “{escape(one.quote)}”"
