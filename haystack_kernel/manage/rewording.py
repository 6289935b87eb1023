"""Correct how a question reads by changing its words, so that the question stays what is answered.

In: a question, how it was understood, and what is wanted. Out: the question in other words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.schema import StructuredQuery

FIELDS = ("cell type", "treatment", "tissue", "disease", "donor")
_ADDED = {"tissue": "in {}", "disease": "with {}", "donor": "of donor {}"}
_BEFORE = r"(?:\s+(?:in|from|of|with|the|donor|patients|human))*\s*"


def reword(question: str, words: str, term: str) -> str:
    """Put ``term`` in the place of ``words``, which may be written in any case.

    Parameters
    ----------
    question
        The question.
    words
        Some of its words.
    term
        What is to stand in their place.

    Returns
    -------
    The question in other words.

    Raises
    ------
    InvalidInputError
        The words are not in the question.

    Examples
    --------
    >>> reword("How would b cells respond to IFN?", "B cells", "NK cells")
    'How would NK cells respond to IFN?'
    """
    found = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", question, re.IGNORECASE)
    if not words or found is None:
        msg = f"{words!r} does not stand in the question, so it cannot be replaced there; write the question anew"
        raise InvalidInputError(msg, given=words)
    return question[: found.start()] + term + question[found.end() :]


def shown_terms(query: StructuredQuery) -> dict[str, str]:
    """Return what a reader may correct: field -> its term, empty where the question names none."""
    return {
        "cell type": query.cell_type_name or query.cell_type_text or "",
        "treatment": query.perturbation.name if query.perturbation else "",
        "tissue": query.tissue_name or "",
        "disease": query.disease_name or "",
        "donor": query.donor_id or "",
    }


def correct(question: str, query: StructuredQuery, wanted: Mapping[str, str]) -> str:
    """Change the words of a question until it says what is wanted.

    Parameters
    ----------
    question
        The question.
    query
        How it was understood.
    wanted
        Field (one of :data:`FIELDS`) -> term. An empty term takes the words out; a field that the question does not
        name is added at its end.

    Returns
    -------
    The question in other words; as it was where nothing differs.

    Raises
    ------
    InvalidInputError
        The words that a field was read from are not in the question, or a question cannot do without them.

    Examples
    --------
    >>> correct("How would B cells respond to IFN-beta?", query, {"tissue": "lung"})  # doctest: +SKIP
    'How would B cells respond to IFN-beta in lung?'
    """
    written = _written(query)
    for name, term in shown_terms(query).items():
        new = " ".join(wanted.get(name, term).split())
        if new.casefold() == term.casefold():
            continue
        if not new and name not in _ADDED:
            msg = f"a question needs a {name}; it was {term!r}"
            raise InvalidInputError(msg, given=new)
        if not term:
            if name not in _ADDED:
                msg = f"the question names no {name}; write {new!r} into the question"
                raise InvalidInputError(msg, given=new)
            question = f"{question.rstrip(' ?.')} {_ADDED[name].format(new)}?"
        elif new:
            question = reword(question, written.get(name) or term, new)
        else:
            question = _without(question, written.get(name) or term)
    return question


def _without(question: str, words: str) -> str:
    """The question without some words and the small ones that led to them."""
    found = re.search(rf"{_BEFORE}(?<!\w){re.escape(words)}(?!\w)", question, re.IGNORECASE)
    if found is None:
        return reword(question, words, "")  # which says so
    return question[: found.start()] + question[found.end() :]


def _written(query: StructuredQuery) -> dict[str, str]:
    """Field -> the words of the question that it was read from."""
    kinds = {"cell_type": "cell type", "perturbation": "treatment", "tissue": "tissue", "disease": "disease"}
    found = {kinds[item.kind]: item.text for item in query.resolutions if item.kind in kinds}
    found |= {"cell type": query.cell_type_text or found.get("cell type", "")}
    if query.perturbation is not None:
        found["treatment"] = query.perturbation.text
    return found
