"""Pages for browsers: runs, a run, its report, a question, atlases, health. They work without scripts.

In: requests that the guard let pass. Out: HTML, every text escaped by the templates.
"""

from __future__ import annotations

import secrets
from functools import cache
from pathlib import Path as Folder
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field

from haystack_kernel.errors import HaystackError, InvalidInputError
from haystack_kernel.jobs import in_usd
from haystack_kernel.manage.catalogue import RunFilter
from haystack_kernel.manage.changes import parse_changes
from haystack_kernel.manage.listing import STATUSES
from haystack_kernel.manage.tenancy import Spending
from haystack_kernel.report import candidate_table, query_card, rounds_table, score_table
from haystack_kernel.report.html import bar
from haystack_kernel.schema import Engine, ExecutorName, StructuredQuery
from haystack_kernel.service.api import DeskHere, RunIdHere, Who, link_to, note
from haystack_kernel.service.guard import SIGN_IN
from haystack_kernel.service.identity import LINK_COOKIE, SESSION_COOKIE, TokenIdentity
from haystack_kernel.service.models import own
from haystack_kernel.service.problems import Problem, describe, new_problem
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from starlette.types import Scope

    from haystack_kernel.service.desk import Desk

router = APIRouter(include_in_schema=False)
_runs = APIRouter(prefix=f"/{layout.RUNS}")
_ENGINES, _EXECUTORS = (list(kind.__args__) for kind in (Engine, ExecutorName))  # type: ignore[attr-defined]
_MAX_SHOWN_FILES = 200
_SHOW_FIRST = (layout.PREDICTIONS, layout.DE, layout.PATHWAYS, layout.PROMPTS, layout.NOTEBOOK, layout.REPORT)


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Folder(__file__).parent / "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"usd": in_usd, "span": span, "bytes": size, "when": when}
    found.globals["score_bar"] = bar
    return found


def span(seconds: float | None) -> str:
    """A duration in words of two units at most."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(n_bytes: int) -> str:
    """A size in bytes, KiB or MiB."""
    if n_bytes < 1024:
        return f"{n_bytes} B"
    return f"{n_bytes / 1024:.0f} KiB" if n_bytes < 2**20 else f"{n_bytes / 2**20:.1f} MiB"


def when(moment: Any) -> str:  # noqa: ANN401 - a datetime, or None
    """A time to the minute, in UTC."""
    return f"{moment:%Y-%m-%d %H:%M}" if moment is not None else ""


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:  # noqa: ANN401
    """A page of the service."""

    def url(route: str, /, **parts: Any) -> str:  # noqa: ANN401
        return request.url_for(route, **parts).path

    person = getattr(request.state, "person", None)
    identity = request.app.state.identity
    text = (
        _templates()
        .get_template(f"{template}.html.j2")
        .render(url=url, person=person, identity=identity.kind, path=request.url.path, **values)
    )
    return HTMLResponse(text, status_code=status)


def wants_page(path: str, accept: str, *, root: str = "") -> bool:
    """Whether whoever asks is a browser that looks at pages."""
    inner = path.removeprefix(root) if root and path.startswith(root) else path
    return "text/html" in accept and not inner.startswith("/api/")


def problem_page(request: Request, problem: Problem, *, headers: dict[str, str]) -> Response:
    """A page about an error."""
    made = page(request, "problem", status=problem.status, problem=problem)
    made.headers.update(headers)
    return made


def refusal(scope: Scope, status: int, detail: str) -> bytes | None:
    """The page that a browser gets where the guard refuses it; it is made without the application."""
    headers = dict(scope["headers"])
    root = scope.get("root_path", "")
    if not wants_page(scope["path"], headers.get(b"accept", b"").decode("latin-1"), root=root):
        return None
    app = scope.get("app")
    is_token = app is not None and app.state.identity.kind == "token"
    text = (
        _templates()
        .get_template("refusal.html.j2")
        .render(problem=new_problem(status, detail), root=root, can_sign_in=is_token and status == 401)
    )
    return text.encode()


# --- signing in, being alive ----------------------------------------------------------------------------------------


@router.get("/health/live")
def live() -> PlainTextResponse:
    """Say that the process answers."""
    return PlainTextResponse("ok\n")


@router.get("/health/ready")
def ready(desk: DeskHere) -> PlainTextResponse:
    """Say whether the storage can be read."""
    try:
        desk.runs.catalogue.index.rows()
    except HaystackError:
        return PlainTextResponse("the storage cannot be read\n", status_code=503)
    return PlainTextResponse("ok\n")


@router.get(SIGN_IN)
def open_sign_in(request: Request, token: str = "") -> Response:
    """Sign in with the printed address."""
    return _sign_in(request, token)


@router.post(SIGN_IN)
def sign_in(request: Request, token: Annotated[str, Form()] = "") -> Response:
    """Sign in with a token that was typed."""
    return _sign_in(request, token)


def _sign_in(request: Request, token: str) -> Response:
    identity = request.app.state.identity
    if not isinstance(identity, TokenIdentity) or not identity.holds(token.strip()):
        problem = new_problem(401, "this is not the token of the service; `haystack serve` printed it when it started")
        text = (
            _templates()
            .get_template("refusal.html.j2")
            .render(
                problem=problem,
                root=request.scope.get("root_path", ""),
                can_sign_in=isinstance(identity, TokenIdentity),
            )
        )
        return HTMLResponse(text, status_code=401)
    answer = RedirectResponse(request.url_for("runs_page").path, status_code=303)
    answer.set_cookie(
        SESSION_COOKIE,
        identity.session,
        httponly=True,
        samesite="strict",
        path="/",
        secure=_is_encrypted(request),
    )
    return answer


@router.post("/sign-out")
def sign_out(request: Request) -> Response:
    """Forget the sign-in of this browser."""
    answer = RedirectResponse(request.url_for("runs_page").path, status_code=303)
    answer.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@router.get("/")
def home(request: Request) -> Response:
    """Lead to the runs."""
    return RedirectResponse(request.url_for("runs_page").path, status_code=307)


# --- runs -----------------------------------------------------------------------------------------------------------


class _RunsQuery(BaseModel):
    """What the form above the runs sends; fields that were left empty are empty texts."""

    model_config = ConfigDict(extra="ignore")

    status: str = ""
    text: str = Field(default="", max_length=200)
    cell_type: str = Field(default="", max_length=200)
    treatment: str = Field(default="", max_length=200)
    owner: str = Field(default="", max_length=200)
    min_score: str = Field(default="", max_length=10)
    since: str = Field(default="", max_length=40)
    until: str = Field(default="", max_length=40)
    after: str = Field(default="", max_length=200)

    def wanted(self) -> RunFilter:
        """The filter; InvalidInputError for a score that is none."""
        return RunFilter(
            status=self.status or None,
            text=self.text,
            cell_type=self.cell_type,
            treatment=self.treatment,
            owner=self.owner,
            min_score=_number(self.min_score, name="lowest score"),
            since=self.since or None,
            until=self.until or None,
        )


@_runs.get("", response_class=HTMLResponse)
def runs_page(request: Request, desk: DeskHere, person: Who, query: Annotated[_RunsQuery, Query()]) -> Response:
    """The runs, newest first."""
    problem, found = None, None
    try:
        found = desk.runs.catalogue.page(query.wanted(), person=own(person), after=query.after or None, limit=25)
    except InvalidInputError as error:
        problem = describe(error)
    asked = query.model_dump(exclude={"after"})
    return page(
        request,
        "runs",
        status=problem.status if problem else 200,
        problem=problem,
        found=found,
        query=asked,
        has_filter=any(asked.values()),
        following=str(request.url.include_query_params(after=found.following).query)
        if found and found.following
        else "",
        statuses=STATUSES,
        is_first=not query.after,
    )


@_runs.get("/{run_id}", response_class=HTMLResponse)
def run_page(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """One run: where it stands, how it was read, what it used, its files."""
    return _run_page(request, desk, person=person, run_id=run_id)


def _run_page(request: Request, desk: Desk, *, person: Any, run_id: str, **more: Any) -> Response:  # noqa: ANN401
    state = desk.look(person, run_id)
    record = desk.runs.read(person, run_id).record
    access = desk.runs.access(person, run_id)
    files = desk.runs.files(person, run_id)
    first = [name for name in _SHOW_FIRST if name in files]
    others = [name for name in files if name not in first]
    problem = more.pop("problem", None)
    return page(
        request,
        "run",
        status=problem.status if problem else 200,
        state=state,
        record=record,
        access=access if state["may_steer"] else None,
        reading=query_card(record),
        candidates=candidate_table(record).html() if record.candidates else "",
        rounds=rounds_table(record) if record.rounds else "",
        scores=score_table(record) if record.best is not None else "",
        log=desk.log(person, run_id),
        files=[(name, files[name]) for name in (*first, *others)][:_MAX_SHOWN_FILES],
        n_files=len(files),
        n_first=len(first),
        now=desk.ports.clock.now(),
        problem=problem,
        **{"link": "", **more},
    )


@_runs.get("/{run_id}/log", response_class=HTMLResponse)
def log_part(desk: DeskHere, person: Who, run_id: RunIdHere) -> PlainTextResponse:
    """The ends of the logs as text, for the script of the page."""
    found = desk.log(person, run_id)
    return PlainTextResponse("\n".join(text for text in found.values() if text))


@_runs.get("/{run_id}/report", response_class=HTMLResponse)
def report_page(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """The report of a run in a box of its own."""
    state = desk.look(person, run_id)
    has_report = layout.REPORT in desk.runs.files(person, run_id)
    return page(request, "report", state=state, has_report=has_report)


# --- what changes a run ---------------------------------------------------------------------------------------------


@_runs.post("/{run_id}/cancel")
def cancel_form(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """Stop the run."""
    note(request, run=run_id)
    desk.runs.cancel(person, run_id)
    return _back(request, desk, run_id)


class _ConsentForm(BaseModel):
    approve: bool = False
    max_cost: str = Field(default="", max_length=20)

    def spending(self) -> Spending:
        """What the form consents to."""
        return Spending(approve=self.approve, max_cost=_number(self.max_cost, name="most it may cost"))


@_runs.post("/{run_id}/resume")
def resume_form(
    request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, form: Annotated[_ConsentForm, Form()]
) -> Response:
    """Go on with the run."""
    note(request, run=run_id, approve=form.approve, max_cost=form.max_cost)
    try:
        desk.runs.resume(person, run_id, spending=form.spending())
    except HaystackError as error:
        return _refused(request, desk, person=person, run_id=run_id, error=error)
    return _back(request, desk, run_id)


class _ForkForm(_ConsentForm):
    changes: str = Field(default="", max_length=4000)


@_runs.post("/{run_id}/fork")
def fork_form(
    request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, form: Annotated[_ForkForm, Form()]
) -> Response:
    """Make a new run with some options changed."""
    try:
        changes = parse_changes(_lines(form.changes))
        made = desk.runs.fork(person, run_id, changes=changes, spending=form.spending())
    except HaystackError as error:
        return _refused(request, desk, person=person, run_id=run_id, error=error)
    note(request, run=made.run_id, forked_from=run_id, approve=form.approve, max_cost=form.max_cost)
    return _back(request, desk, made.run_id)


class _ShareForm(BaseModel):
    people: str = Field(default="", max_length=20_000)
    everyone: bool = False


@_runs.post("/{run_id}/share")
def share_form(
    request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, form: Annotated[_ShareForm, Form()]
) -> Response:
    """Say who may read the run."""
    people = tuple(form.people.replace(",", " ").split())
    note(request, run=run_id, everyone=form.everyone, n_people=len(people))
    try:
        desk.runs.share(person, run_id, people=people, everyone=form.everyone)
    except HaystackError as error:
        return _refused(request, desk, person=person, run_id=run_id, error=error)
    return _back(request, desk, run_id)


@_runs.post("/{run_id}/link")
def link_form(
    request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, days: Annotated[str, Form(max_length=10)] = "1"
) -> Response:
    """Make a link, and show it once."""
    note(request, run=run_id, days=days)
    try:
        secret, _ = desk.runs.make_link(person, run_id, days=_number(days, name="days") or 0)
    except HaystackError as error:
        return _refused(request, desk, person=person, run_id=run_id, error=error)
    return _run_page(request, desk, person=person, run_id=run_id, link=link_to(request, run_id, secret))


@_runs.post("/{run_id}/end-links")
def end_links_form(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """End every link to the run."""
    note(request, run=run_id)
    desk.runs.end_links(person, run_id)
    return _back(request, desk, run_id)


@router.get("/shared/{run_id}/{secret}", name="open_link")
def open_link(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, secret: str) -> Response:
    """Open a link that shares a run: the browser keeps its secret for that run."""
    target = request.url_for("run_page", run_id=run_id).path
    answer = RedirectResponse(target, status_code=303)
    if secret.isascii() and len(secret) <= 100 and secret.replace("-", "").replace("_", "").isalnum():
        age_s = round(desk.settings.service.link_days * 86_400)
        answer.set_cookie(
            f"{LINK_COOKIE}{run_id}",
            secret,
            max_age=age_s,
            httponly=True,
            samesite="lax",
            path="/",
            secure=_is_encrypted(request),
        )
    return answer


# --- asking ---------------------------------------------------------------------------------------------------------


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
    do: str = "look"

    def options(self) -> dict[str, Any]:
        """The options that were given."""
        given: dict[str, Any] = {"engine": self.engine, "executor": self.executor}
        found = {name: value for name, value in given.items() if value}
        if self.atlases:
            found["atlases"] = self.atlases
        return {**found, **parse_changes(_lines(self.more))}

    def spending(self) -> Spending:
        """What the form consents to."""
        return Spending(approve=self.approve, max_cost=_number(self.max_cost, name="most it may cost"))


@router.get("/ask", response_class=HTMLResponse)
def ask_page(request: Request, desk: DeskHere, person: Who, question: str = "") -> Response:
    """The empty form."""
    return _ask_page(request, desk, person=person, form=_AskForm(question=question[:2000]))


@router.post("/ask", response_class=HTMLResponse)
def ask(request: Request, desk: DeskHere, person: Who, form: Annotated[_AskForm, Form()]) -> Response:
    """Show how a question reads, what it would use and cost; or start it."""
    if form.meant:  # "word => term": the reader chose what a word means
        word, _, term = form.meant.partition(" => ")
        form = form.model_copy(update={"question": form.question.replace(word, term, 1), "do": "look"})
    seen, problem = None, None
    try:
        if form.do == "ask":
            run, _ = desk.runs.submit(
                person, form.question, options=form.options(), spending=form.spending(), key=form.key or None
            )
            note(request, run=run.run_id, approve=form.approve, max_cost=form.max_cost)
            if desk.settings.service.log_questions:
                note(request, question=form.question)
            return _back(request, desk, run.run_id)
        seen = desk.runs.preview(form.question, options=form.options())
    except HaystackError as error:
        problem = describe(error)
    return _ask_page(request, desk, person=person, form=form, seen=seen, problem=problem)


def _ask_page(
    request: Request,
    desk: Desk,
    *,
    person: Any,  # noqa: ANN401
    form: _AskForm,
    seen: Any = None,  # noqa: ANN401
    problem: Problem | None = None,
) -> Response:
    record = seen.record if seen is not None else None
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
        meanings=_meanings(record.query if record is not None else None),
        atlases=desk.atlases(),
        default_atlases=desk.settings.atlases,
        engines=_ENGINES,
        executors=_EXECUTORS,
        allowed=desk.runs.allowances.of(person.name),
        key=form.key or secrets.token_hex(12),
    )


def _meanings(query: StructuredQuery | None) -> list[dict[str, Any]]:
    """Words of a question that may mean something else, with the other meanings."""
    found = []
    for term in (*query.resolutions, *query.unresolved) if query is not None else ():
        name = term.match.name if term.match else ""
        if others := [item.name for item in term.alternatives if item.name != name]:
            found.append({"text": term.text, "is": name, "others": others[:5]})
    return found


# --- comparing, atlases, health -------------------------------------------------------------------------------------


@router.get("/compare", response_class=HTMLResponse)
def compare_page(request: Request, desk: DeskHere, person: Who, run: Annotated[list[str], Query()]) -> Response:
    """Two runs side by side."""
    if len(run) != 2:
        msg = f"{len(run)} runs are marked; mark two to compare them"
        raise InvalidInputError(msg, given=len(run))
    found = desk.runs.compare(person, run[0], run[1])
    return page(request, "compare", found=found, runs=run, body=found.html())


@router.get("/atlases", response_class=HTMLResponse)
def atlases_page(request: Request, desk: DeskHere) -> Response:
    """The atlases."""
    return page(request, "atlases", atlases=desk.atlases())


@router.get("/atlases/{name}", response_class=HTMLResponse)
def atlas_page(request: Request, desk: DeskHere, name: str) -> Response:
    """What an atlas holds."""
    return page(request, "atlas", atlas=desk.atlas(name))


@router.get("/health", response_class=HTMLResponse)
def health_page(request: Request, desk: DeskHere, person: Who) -> Response:
    """Whether what the service needs is there, and what you may do."""
    return page(request, "health", lines=desk.health(), allowed=desk.runs.allowances.of(person.name))


router.include_router(_runs)


# --- parts ----------------------------------------------------------------------------------------------------------


def _back(request: Request, desk: Desk, run_id: str) -> Response:
    """To the page of a run that was just changed."""
    desk.forget(run_id)
    return RedirectResponse(request.url_for("run_page", run_id=run_id).path, status_code=303)


def _refused(request: Request, desk: Desk, *, person: Any, run_id: str, error: HaystackError) -> Response:  # noqa: ANN401
    """The page of a run with the reason why nothing was changed, where the person may see it at all."""
    desk.runs.access(person, run_id)
    return _run_page(request, desk, person=person, run_id=run_id, problem=describe(error))


def _is_encrypted(request: Request) -> bool:
    """Whether the browser's connection is encrypted; Identity-Aware Proxy takes no other."""
    return request.url.scheme == "https" or request.app.state.identity.kind == "iap"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _number(text: str, *, name: str) -> float | None:
    text = text.strip().replace(",", ".")
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not 0 <= found <= 1e6:
        msg = f"{name}: {text[:20]!r} is no number that fits; give one such as 7.5"
        raise InvalidInputError(msg, given=text[:20])
    return found
