"""How a text would be understood, as plain data for people and programs.

In: a question or a phrase. Out: task type, terms with their close seconds, unknown terms, and why it is refused if so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.question.check import check_answerable, check_question
from haystack_kernel.question.parse import parse_question

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge


def explain(text: str, *, knowledge: Knowledge | None = None) -> dict[str, Any]:
    """Parse ``text`` without refusing it.

    Parameters
    ----------
    text
        A question, or a phrase of biological terms.
    knowledge
        Tables to look terms up in; None takes the packaged ones.

    Returns
    -------
    Fields of the query that hold something, ready for JSON, with ``answerable`` and, where it is false, ``refusal``.
    """
    knowledge = knowledge or load_knowledge()
    query = parse_question(text, knowledge=knowledge)
    shown = {name: value for name, value in query.model_dump(mode="json").items() if value not in (None, [], {}, "")}
    try:
        check_question(text, knowledge=knowledge)
        check_answerable(query)
    except InvalidInputError as error:
        return {**shown, "answerable": False, "refusal": str(error)}
    return {**shown, "answerable": True}
