"""Explain how a text would be understood, as plain data for people and programs.

In: a question or a phrase. Out: task type, terms with alternatives, unknown terms, and the reason if it is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import find_mentions, load_knowledge, resolve
from haystack_kernel.planners.check import check_answerable, check_question, clean_text
from haystack_kernel.planners.offline.parse import parse_question
from haystack_kernel.schema import TermKind

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import Resolution

MAX_LABEL_WORDS = 8  # a longer text is a question


def explain(text: str, *, knowledge: Knowledge | None = None) -> dict[str, Any]:
    """Parse a text without refusing it.

    Parameters
    ----------
    text
        A question, or a phrase of biological terms. A phrase that is one label ("cDC1", "TNFa", "monoctye") is
        resolved as a whole, for every kind of term that knows it.
    knowledge
        Tables to look terms up in; None takes the packaged ones.

    Returns
    -------
    The non-empty fields of the query, ready for JSON, with ``taken_as`` in one line, ``answerable`` and, where that is
    false, ``refusal``.

    Examples
    --------
    >>> explain("How would B cells respond to IFN-beta?")["perturbation"]["name"]
    'IFN-beta'
    """
    knowledge = knowledge or load_knowledge()
    query = parse_question(text, knowledge=knowledge)
    if not query.unresolved and (labels := _as_label(query.question, knowledge=knowledge)):
        known = tuple(found for found in labels if found.match)
        query = query.model_copy(update={"resolutions": known, "unresolved": () if known else tuple(labels)})
    shown = {name: value for name, value in query.model_dump(mode="json").items() if value not in (None, [], {}, "")}
    shown["taken_as"] = query.reading
    try:
        check_question(text, knowledge=knowledge)
        check_answerable(query)
    except InvalidInputError as error:
        return {**shown, "answerable": False, "refusal": str(error)}
    return {**shown, "answerable": True}


def _as_label(text: str, *, knowledge: Knowledge) -> list[Resolution]:
    """Resolve the whole text as one term, for each kind that knows it, or else for those that know a similar one.

    Empty where the text is a question or has several terms, which are found one by one.
    """
    label = clean_text(text)
    is_label = bool(label) and not label.endswith("?") and len(label.split()) <= MAX_LABEL_WORDS
    if not is_label or len(find_mentions(label, knowledge=knowledge)) > 1:
        return []
    found = [resolve(label, kind=kind, knowledge=knowledge) for kind in get_args(TermKind)]
    best = max(_certainty(one) for one in found)
    return [one for one in found if _certainty(one) == best] if best else []


def _certainty(found: Resolution) -> int:
    """Return 3 for a known label, 2 for one of similar spelling, 1 for alternatives or a note, 0 for nothing."""
    if found.match:
        return 2 if found.match.how == "fuzzy" else 3
    return 1 if found.alternatives or found.note else 0
