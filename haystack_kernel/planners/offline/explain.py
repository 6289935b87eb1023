"""How a text would be understood, as plain data for people and programs.

In: a question or a phrase. Out: task type, terms with their close seconds, unknown terms, and why it is refused if so.
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
    """Parse ``text`` without refusing it.

    Parameters
    ----------
    text
        A question, or a phrase of biological terms. A phrase that is one label ("cDC1", "TNFa", "monoctye") is
        resolved as a whole, for every kind of term that knows it.
    knowledge
        Tables to look terms up in; None takes the packaged ones.

    Returns
    -------
    Fields of the query that hold something, ready for JSON, with ``answerable`` and, where it is false, ``refusal``.
    """
    knowledge = knowledge or load_knowledge()
    query = parse_question(text, knowledge=knowledge)
    if not query.unresolved and (labels := _as_label(query.question, knowledge=knowledge)):
        known = tuple(found for found in labels if found.match)
        query = query.model_copy(update={"resolutions": known, "unresolved": () if known else tuple(labels)})
    shown = {name: value for name, value in query.model_dump(mode="json").items() if value not in (None, [], {}, "")}
    try:
        check_question(text, knowledge=knowledge)
        check_answerable(query)
    except InvalidInputError as error:
        return {**shown, "answerable": False, "refusal": str(error)}
    return {**shown, "answerable": True}


def _as_label(text: str, *, knowledge: Knowledge) -> list[Resolution]:
    """The whole text as one term, of each kind that knows it; of the others, those that know something near.

    Empty where the text is a question, or several terms: they are found one by one.
    """
    label = clean_text(text)
    if not label or label.endswith("?") or len(label.split()) > MAX_LABEL_WORDS:
        return []
    if len(find_mentions(label, knowledge=knowledge)) > 1:
        return []
    found = [resolve(label, kind=kind, knowledge=knowledge) for kind in get_args(TermKind)]
    known = [one for one in found if one.match]
    sure = [one for one in known if one.match and one.match.how != "fuzzy"]
    return sure or known or [one for one in found if one.alternatives or one.note]
