"""Read a question with Claude; what it answers counts only as far as the tables and the rules confirm it.

In: the question, the tables with the names of the atlases. Out: a ``StructuredQuery``, or the reason for a refusal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import resolve
from haystack_kernel.planners import context
from haystack_kernel.planners.check import MAX_CHARACTERS, MIN_CHARACTERS, check_answerable, check_human
from haystack_kernel.planners.classes import Reading, find_objections
from haystack_kernel.planners.claude.client import Answering, as_data
from haystack_kernel.planners.fields import term_fields
from haystack_kernel.planners.guard import foul
from haystack_kernel.planners.unused import unused_phrases
from haystack_kernel.schema import (
    OBSERVATIONAL,
    Clarification,
    Objection,
    ObjectionKind,
    Resolution,
    StructuredQuery,
    TaskType,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.planners.claude.client import Service
    from haystack_kernel.schema import Match, TermKind

    Span = tuple[int, int]

_SURE = ("id", "name", "synonym")
_MOST_QUESTIONS = 4
_MOST_DOUBTS = 6
_LONGEST = 300  # characters of a sentence that is shown to the person who asks
_LONGEST_QUOTED = 40


class Term(Answering):
    """What a stretch of the question names."""

    words: str = Field(description="exact stretch of the question")
    name: str = Field(description="canonical name of what it means")


class Refusal(Answering):
    """Why the question cannot be answered as it stands."""

    kind: ObjectionKind
    words: str = Field(description="exact stretch of the question that raises it")
    reason: str = Field(description="predicate of a sentence that begins with 'the question'")
    questions: list[str] = Field(description="complete questions that could be asked instead")


class Asked(Answering):
    """One question back."""

    text: str
    questions: list[str] = Field(description="the complete question for each answer")


class Parsed(Answering):
    """What the question asks for."""

    task_type: TaskType
    cells: Term | None
    treatment: Term | None
    tissue: Term | None
    disease: Term | None
    donor: str
    reference_donor: str
    target_dataset: str
    reference_dataset: str
    condition: str
    compare_with_query: bool
    doubts: list[str]
    refusal: Refusal | None
    clarification: Asked | None


_KINDS: dict[str, TermKind] = {
    "cells": "cell_type",
    "treatment": "perturbation",
    "tissue": "tissue",
    "disease": "disease",
}
_COPIED = ("donor", "reference_donor", "target_dataset", "reference_dataset", "condition")


def understand(question: str, *, knowledge: Knowledge, service: Service, planner: str) -> StructuredQuery:
    """Read a question.

    Parameters
    ----------
    question
        Cleaned text.
    knowledge
        The tables, with the names of the atlases.
    service
        The language model.
    planner
        Name of the planner, for the query.

    Returns
    -------
    The query. Its ids exist in the tables, its words are words of the question, and the rules of
    :mod:`haystack_kernel.planners.classes` have no objection.

    Raises
    ------
    InvalidInputError
        Claude or the rules refuse the question, or it names no cell type or treatment; the message says what to ask.
    ServiceError
        The answer could not be used.

    Examples
    --------
    >>> understand(question, knowledge=knowledge, service=service, planner="claude").cell_type_id  # doctest: +SKIP
    'CL:0000236'
    """
    said = f"<question>\n{as_data(question)}\n</question>"

    def check(answer: Parsed) -> list[str]:
        return [*_faults(answer, question, knowledge=knowledge), *_shown_faults(answer, prompt=service.prompt)]

    parsed = service.ask(Parsed, said, check=check)
    query = _Builder(parsed, question, knowledge).query(planner)
    try:
        return check_answerable(query)
    except InvalidInputError as error:
        if query.objections or query.clarification is None:
            raise
        # what is missing is what Claude asks back about
        asked = query.clarification
        msg = f"{error} {asked.text} Ask instead: {' or '.join(map(repr, asked.questions))}"
        raise InvalidInputError(msg, **{**error.facts, "questions": list(asked.questions)}) from None


# --- what may be wrong with an answer -------------------------------------------------------------------------------


def _faults(parsed: Parsed, question: str, *, knowledge: Knowledge) -> Iterator[str]:
    """Yield what the question or the tables do not confirm, each with what would be possible."""
    for name in _COPIED:
        if (text := getattr(parsed, name)) and _place(text, question) is None:
            yield f"{name}: {_quoted(text)} is not a stretch of the question; copy it or leave it empty"
    if parsed.refusal is not None:
        if _place(parsed.refusal.words, question) is None:
            yield f"refusal.words: {_quoted(parsed.refusal.words)} is not a stretch of the question"
        yield from _unaskable("refusal", parsed.refusal.questions)
        return  # the terms of a refused question are not used
    if parsed.clarification is not None:
        if not parsed.clarification.questions:
            yield "clarification.questions: give the complete question for each answer"
        yield from _unaskable("clarification", parsed.clarification.questions)
    yield from _task_faults(parsed, question)
    for name, kind in _KINDS.items():
        if (term := getattr(parsed, name)) is not None:
            yield from _term_faults(name, term, question, kind=kind, knowledge=knowledge)


def _term_faults(name: str, term: Term, question: str, *, kind: TermKind, knowledge: Knowledge) -> Iterator[str]:
    if _place(term.words, question) is None:
        yield f"{name}.words: {_quoted(term.words)} is not a stretch of the question; copy it letter by letter"
    elif _is_empty(term.words, kind=kind, knowledge=knowledge):
        yield f"{name}.words: {_quoted(term.words)} names nothing; copy the words that name it"
    elif meant := _certain(term, kind=kind, knowledge=knowledge):
        yield f"{name}.name: the tables read {_quoted(term.words)} as {meant}; name that, and put doubts in doubts"
    if _known(term.name, kind=kind, knowledge=knowledge) is None:
        # nearest names come from the tables: labels of atlases are not shown
        found = resolve(term.name, kind=kind, knowledge=knowledge.without_vocabulary())
        near = [one.name for one in (found.match, *found.alternatives) if one is not None]
        possible = f"nearest known names: {'; '.join(near)}" if near else "no known name is close"
        yield f"{name}.name: {_quoted(term.name)} is not one known {kind.replace('_', ' ')} ({possible})"


def _task_faults(parsed: Parsed, question: str) -> Iterator[str]:
    """Yield where the task and the other fields are at odds, so that a run would work on another question."""
    task, has_donor = parsed.task_type, bool(parsed.donor)
    has_dataset = bool(parsed.target_dataset or parsed.reference_dataset)
    at_odds = {
        f"{task} has no treatment; take a task that has one, or leave treatment null": (
            task in OBSERVATIONAL and parsed.treatment is not None
        ),
        "a donor is named, so it is perturbation_novel_samples": task == "perturbation_novel_cell_types" and has_donor,
        "donor_expression_prediction needs a donor or a disease; without them it is cell_type_imputation": (
            task == "donor_expression_prediction" and not has_donor and parsed.disease is None
        ),
        "cross_dataset_generation needs a data set in target_dataset or reference_dataset": (
            task == "cross_dataset_generation" and not has_dataset
        ),
    }
    yield from (f"task_type: {said}" for said, is_so in at_odds.items() if is_so)
    if parsed.compare_with_query and not context.asks_for_query_control(question):
        yield "compare_with_query: the question does not ask for that in words; set it to false"


def _is_empty(words: str, *, kind: TermKind, knowledge: Knowledge) -> bool:
    """Whether words of a question name nothing: those of any question ("respond to")."""
    content = unused_phrases(words, used=[], terms=[], cells=(0, 0), names_people=False)
    return not content and resolve(words, kind=kind, knowledge=knowledge).match is None


def _certain(term: Term, *, kind: TermKind, knowledge: Knowledge) -> str:
    """What the tables read the words as without any doubt, where the model names something else; else empty."""
    by_words = resolve(term.words, kind=kind, knowledge=knowledge)
    if by_words.match is None or by_words.match.how not in _SURE or by_words.ambiguous or by_words.note:
        return ""
    found = _known(term.name, kind=kind, knowledge=knowledge)
    is_same = found is None or found.match is None or found.match.id == by_words.match.id
    return "" if is_same else by_words.match.name


def _shown_faults(parsed: Parsed, *, prompt: str) -> Iterator[str]:
    """Yield what may not be shown of the sentences that the model wrote itself."""
    texts = [("doubts", text) for text in parsed.doubts]
    if parsed.refusal is not None:
        texts += [("refusal.reason", parsed.refusal.reason)]
        texts += [("refusal.questions", text) for text in parsed.refusal.questions]
    if parsed.clarification is not None:
        texts += [("clarification.text", parsed.clarification.text)]
        texts += [("clarification.questions", text) for text in parsed.clarification.questions]
    for name, text in texts:
        yield from foul(name, text, prompt=prompt)


def _quoted(text: str) -> str:
    """What the model wrote, in few words: a refusal that quotes it is shown to the person who asks."""
    return repr(text if len(text) <= _LONGEST_QUOTED else f"{text[:_LONGEST_QUOTED]}\u2026")


def _unaskable(name: str, questions: list[str]) -> Iterator[str]:
    if len(questions) > _MOST_QUESTIONS:
        yield f"{name}.questions: give at most {_MOST_QUESTIONS}"
    for text in questions:
        if not MIN_CHARACTERS <= len(text) <= min(MAX_CHARACTERS, 2 * _LONGEST):
            yield f"{name}.questions: {_quoted(text)} is too short or too long for a question"


def _known(name: str, *, kind: TermKind, knowledge: Knowledge) -> Resolution | None:
    """The one term that a name means for certain."""
    found = resolve(name, kind=kind, knowledge=knowledge)
    return found if found.match is not None and found.match.how in _SURE and not found.ambiguous else None


def _place(words: str, question: str) -> Span | None:
    """Where a stretch stands in the question; capitals and blanks make no difference."""
    wanted = " ".join(words.split()).casefold()
    if not wanted or len(question.casefold()) != len(question):
        return None
    found = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", question.casefold())
    return found.span() if found else None


# --- the query ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Builder:
    parsed: Parsed
    question: str
    knowledge: Knowledge

    def query(self, planner: str) -> StructuredQuery:
        """The query, with the objections of Claude and of the rules."""
        parsed = self.parsed
        if parsed.refusal is not None:
            return StructuredQuery(
                question=self.question,
                task_type=parsed.task_type,
                objections=(self._refusal(parsed.refusal),),
                planner=planner,
            )
        found = {name: self._resolution(name) for name in _KINDS}
        reading, unused = self._account(has_disease=found["disease"] is not None)
        asked = parsed.clarification
        return StructuredQuery(
            question=self.question,
            task_type=parsed.task_type,
            **term_fields(found["cells"], found["treatment"], knowledge=self.knowledge),
            **self._surroundings(found),
            control_strategy="query_as_control" if parsed.compare_with_query else "synthetic_control",
            resolutions=tuple(one for one in found.values() if one is not None),
            unused=unused,
            objections=find_objections(reading),
            doubts=tuple(_sentence(text) for text in parsed.doubts[:_MOST_DOUBTS]),
            clarification=Clarification(text=_sentence(asked.text), questions=tuple(asked.questions))
            if asked
            else None,
            planner=planner,
        )

    def _account(self, *, has_disease: bool) -> tuple[Reading, tuple[str, ...]]:
        """What the rules look at for objections, and the content words that nothing was made from."""
        mentions = context.find_terms(self.question, knowledge=self.knowledge)
        spans = {name: span for name in _KINDS if (span := self._span(name))}
        copied = {name: place for name in _COPIED if (place := _place(getattr(self.parsed, name), self.question))}
        reading = Reading(
            question=self.question,
            mentions=mentions,
            cells=spans.get("cells", (0, 0)),
            treatment=spans.get("treatment", (0, 0)),
            datasets=[copied[name] for name in copied if name.endswith("dataset")],
            donors=[copied[name] for name in copied if name.endswith("donor")],
        )
        unused = unused_phrases(
            self.question,
            used=[*spans.values(), *copied.values(), *context.context_spans(self.question)],
            terms=[(item.start, item.end) for item in mentions],
            cells=reading.cells,
            names_people=bool(reading.donors) or has_disease,
        )
        return reading, unused

    def _surroundings(self, found: dict[str, Resolution | None]) -> dict[str, Any]:
        parsed, fields = self.parsed, dict[str, Any]()
        if (tissue := found["tissue"]) is not None and tissue.match is not None:
            entry = self.knowledge.tissues[tissue.match.id]
            fields |= {"tissue_id": entry.id, "tissue_name": entry.name, "tissue_genes": entry.genes}
        if (disease := found["disease"]) is not None and disease.match is not None:
            fields |= {"disease_id": disease.match.id, "disease_name": disease.match.name}
        names = {
            "donor_id": parsed.donor,
            "reference_donor": parsed.reference_donor,
            "reference_dataset": parsed.reference_dataset,
            "target_dataset": parsed.target_dataset,
            "condition": parsed.condition,
        }
        return fields | {name: text for name, text in names.items() if text}

    def _resolution(self, name: str) -> Resolution | None:
        """What a term means; where the tables read its words otherwise for certain, that is noted."""
        term: Term | None = getattr(self.parsed, name)
        if term is None:
            return None
        kind = _KINDS[name]
        found = _known(term.name, kind=kind, knowledge=self.knowledge)
        span = _place(term.words, self.question)
        if found is None or found.match is None or span is None:
            return None
        words = self.question[slice(*span)]
        by_words = resolve(words, kind=kind, knowledge=self.knowledge)
        if by_words.match is not None and by_words.match.id == found.match.id:
            return by_words.model_copy(update={"text": words})
        note = f"read as {found.match.name} by a language model"
        others: tuple[Match, ...] = ()
        if by_words.match is not None and by_words.match.how in _SURE:
            note, others = f"{note}; the tables read it as {by_words.match.name}", (by_words.match,)
        return Resolution(text=words, kind=kind, match=found.match, alternatives=others, note=note)

    def _span(self, name: str) -> Span | None:
        term: Term | None = getattr(self.parsed, name)
        return None if term is None else _place(term.words, self.question)

    def _refusal(self, refusal: Refusal) -> Objection:
        span = _place(refusal.words, self.question) or (0, 0)
        reason = " ".join(refusal.reason.split())[:_LONGEST].removeprefix("the question ").rstrip(".")
        askable = []
        for text in refusal.questions:
            try:
                askable.append(check_human(text))
            except InvalidInputError:
                continue
        return Objection(kind=refusal.kind, text=self.question[slice(*span)], reason=reason, questions=tuple(askable))


def _sentence(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]
