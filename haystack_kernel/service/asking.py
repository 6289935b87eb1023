"""The page that asks a question: it is looked at first, then approved and asked.

In: the form of the page. Out: how the question reads, what it would use and cost; or a run.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import Annotated, Any, get_args

import anyio.to_thread
from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from haystack_kernel.config.engines import engine_names
from haystack_kernel.errors import HaystackError
from haystack_kernel.manage.changes import parse_changes
from haystack_kernel.manage.previews import Preview
from haystack_kernel.manage.tenancy import Person, Spending
from haystack_kernel.report import candidate_table, query_card
from haystack_kernel.schema import ExecutorName, StructuredQuery
from haystack_kernel.service.api import MAY_START, READ_SLOWLY, DeskHere, Who, note, slowly
from haystack_kernel.service.desk import Desk
from haystack_kernel.service.pages import back_to, lines_of, number_of, simulated_cells
from haystack_kernel.service.problems import Problem, describe
from haystack_kernel.service.rendering import page

router = APIRouter(include_in_schema=False)
_EXECUTORS = list(get_args(ExecutorName))


class _AskForm(BaseModel):
    """The form of a question: looked at first, then asked."""

    question: str = Field(default="", max_length=2000)
    atlases: list[str] = []
    engine: str = ""
    executor: str = ""
    more: str = Field(default="", max_length=4000)
    approve: bool = False
    max_cost: str = Field(default="", max_length=20)
    key: str = Field(default="", max_length=100)
    meant: str = Field(default="", max_length=400, description="what a word of the question is said to mean")
    instead: str = Field(default="", max_length=2000, description="a question that was offered instead")
    do: str = "look"

    def options(self) -> dict[str, Any]:
        """The options that were given."""
        given: dict[str, Any] = {"engine": self.engine, "executor": self.executor}
        found = {name: value for name, value in given.items() if value}
        if self.atlases:
            found["atlases"] = self.atlases
        return {**found, **parse_changes(lines_of(self.more))}

    def spending(self) -> Spending:
        """What the form consents to."""
        return Spending(approve=self.approve, max_cost=number_of(self.max_cost, name="most it may cost"))


@router.get("/ask", response_class=HTMLResponse)
def ask_page(request: Request, desk: DeskHere, person: Who, question: str = "") -> Response:
    """The empty form."""
    return _ask_page(request, desk, person=person, form=_AskForm(question=question[:2000]))


@router.post("/ask", response_class=HTMLResponse)
async def ask(request: Request, desk: DeskHere, person: Who, form: Annotated[_AskForm, Form()]) -> Response:
    """Show how a question reads, what it would use and cost; or start it."""
    late = MAY_START if form.do == "ask" else READ_SLOWLY
    try:
        return await slowly(desk, person, partial(_ask, request, desk, person, form), late=late)
    except HaystackError as error:  # too late, or too many at once: nothing that was typed is lost
        show = partial(_ask_page, request, desk, person=person, form=form, refused=error)
        return await anyio.to_thread.run_sync(show)


def _ask(request: Request, desk: Desk, person: Person, form: _AskForm) -> Response:
    if form.meant:  # "word => term": the reader chose what a word means
        word, _, term = form.meant.partition(" => ")
        form = form.model_copy(update={"question": form.question.replace(word, term, 1), "do": "look"})
    if form.instead:
        form = form.model_copy(update={"question": form.instead, "do": "look"})
    seen, refused = None, None
    try:
        if form.do == "ask":
            run, _ = desk.runs.submit(
                person, form.question, options=form.options(), spending=form.spending(), key=form.key or None
            )
            note(request, run=run.run_id, approve=form.approve, max_cost=form.max_cost)
            if desk.settings.service.log_questions:
                note(request, question=form.question)
            return back_to(request, desk, run.run_id)
        seen = desk.runs.preview(form.question, options=form.options())
    except HaystackError as error:
        refused = error
    return _ask_page(request, desk, person=person, form=form, seen=seen, refused=refused)


def _ask_page(
    request: Request,
    desk: Desk,
    *,
    person: Person,
    form: _AskForm,
    seen: Preview | None = None,
    refused: HaystackError | None = None,
) -> Response:
    record = seen.record if seen is not None else None
    problem, instead = _refusal(refused)
    return page(
        request,
        "ask",
        status=problem.status if problem else 200,
        form=form,
        seen=seen,
        problem=problem,
        reading=query_card(record) if record is not None else "",
        candidates=candidate_table(record).html() if record is not None else "",
        n_candidates=len(record.candidates) if record is not None else 0,
        meanings=_meanings(record.query) if record is not None else _nearest(refused),
        instead=instead,
        usual_s=desk.usual_s(record.config) if record is not None else None,
        notices=simulated_cells(record) if record is not None else [],
        atlases=desk.atlases(),
        default_atlases=desk.settings.atlases,
        engines=engine_names(desk.settings),
        executors=_EXECUTORS,
        allowed=desk.runs.allowances.of(person.name),
        key=form.key or secrets.token_hex(12),
    )


def _refusal(error: HaystackError | None) -> tuple[Problem | None, list[str]]:
    """Why a question is refused, for the page, and questions that can be asked instead."""
    if error is None:
        return None, []
    problem, instead = describe(error), error.facts.get("questions")
    if not isinstance(instead, (list, tuple)):
        return problem, []
    detail = problem.detail.partition(" Ask instead:")[0]  # the page offers the questions themselves
    return problem.model_copy(update={"detail": f"{detail.rstrip('.')}.", "next": "Ask one of these instead:"}), list(
        instead
    )


def _nearest(error: HaystackError | None) -> list[dict[str, Any]]:
    """Words that are not known, with the nearest that are."""
    nearest = error.facts.get("nearest") if error is not None else None
    if not isinstance(nearest, dict):
        return []
    return [{"text": word, "is": "", "others": list(names)[:5]} for word, names in nearest.items() if names]


def _meanings(query: StructuredQuery | None) -> list[dict[str, Any]]:
    """Words of a question that may mean something else, with the other meanings."""
    found = []
    for term in (*query.resolutions, *query.unresolved) if query is not None else ():
        name = term.match.name if term.match else ""
        if others := [item.name for item in term.alternatives if item.name != name]:
            found.append({"text": term.text, "is": name, "others": others[:5]})
    return found
