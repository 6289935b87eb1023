"""Pages for browsers: runs, a run, its report, a question, atlases, health. They work without scripts.

In: requests that the guard let pass. Out: HTML, every text escaped by the templates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from haystack_kernel.errors import HaystackError, InvalidInputError
from haystack_kernel.manage.catalogue import RunFilter
from haystack_kernel.manage.changes import parse_changes
from haystack_kernel.manage.listing import STATUSES
from haystack_kernel.manage.tenancy import Spending
from haystack_kernel.report import candidate_table, query_card, rounds_table, score_table
from haystack_kernel.report.words import simulated_atlases, termination_text
from haystack_kernel.schema import DEMO_ATLAS
from haystack_kernel.service.api import MAY_START, DeskHere, RunIdHere, Who, link_to, note, slowly
from haystack_kernel.service.desk import doing
from haystack_kernel.service.guard import SIGN_IN
from haystack_kernel.service.identity import LINK_COOKIE, SESSION_COOKIE, TokenIdentity
from haystack_kernel.service.models import own
from haystack_kernel.service.problems import describe, new_problem
from haystack_kernel.service.rendering import page, templates
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from haystack_kernel.schema import RunRecord
    from haystack_kernel.service.desk import Desk

SIMULATED = "The cells of atlas {} are simulated, not measured."
router = APIRouter(include_in_schema=False)
_runs = APIRouter(prefix=f"/{layout.RUNS}")
_MAX_SHOWN_FILES = 200
_SHOW_FIRST = (layout.PREDICTIONS, layout.DE, layout.PATHWAYS, layout.PROMPTS, layout.NOTEBOOK, layout.REPORT)


# --- signing in, being alive ----------------------------------------------------------------------------------------


@router.get("/health/live")
async def live() -> PlainTextResponse:
    """Say that the process answers, also where every thread waits for a storage."""
    return PlainTextResponse("ok\n")


@router.get("/health/ready")
async def ready(desk: DeskHere) -> PlainTextResponse:
    """Say whether the storage can be read."""
    try:
        await desk.slow.do("", desk.runs.catalogue.index.rows, late="the storage does not answer")
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
            templates()
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
            min_score=number_of(self.min_score, name="lowest score"),
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
        stopped=termination_text(record),
        failed_while=doing(state["failure"]["step"]) if state["failure"] else "",
        notices=simulated_cells(record),
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
    return back_to(request, desk, run_id)


class _ConsentForm(BaseModel):
    approve: bool = False
    max_cost: str = Field(default="", max_length=20)

    def spending(self) -> Spending:
        """What the form consents to."""
        return Spending(approve=self.approve, max_cost=number_of(self.max_cost, name="most it may cost"))


@_runs.post("/{run_id}/resume")
async def resume_form(
    request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, form: Annotated[_ConsentForm, Form()]
) -> Response:
    """Go on with the run."""
    note(request, run=run_id, approve=form.approve, max_cost=form.max_cost)

    def work() -> Response:
        try:
            desk.runs.resume(person, run_id, spending=form.spending())
        except HaystackError as error:
            return _refused(request, desk, person=person, run_id=run_id, error=error)
        return back_to(request, desk, run_id)

    return await slowly(desk, person, work, late=MAY_START)


class _ForkForm(_ConsentForm):
    changes: str = Field(default="", max_length=4000)


@_runs.post("/{run_id}/fork")
async def fork_form(
    request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, form: Annotated[_ForkForm, Form()]
) -> Response:
    """Make a new run with some options changed."""

    def work() -> Response:
        try:
            changes = parse_changes(lines_of(form.changes))
            made = desk.runs.fork(person, run_id, changes=changes, spending=form.spending())
        except HaystackError as error:
            return _refused(request, desk, person=person, run_id=run_id, error=error)
        note(request, run=made.run_id, forked_from=run_id, approve=form.approve, max_cost=form.max_cost)
        return back_to(request, desk, made.run_id)

    return await slowly(desk, person, work, late=MAY_START)


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
    return back_to(request, desk, run_id)


@_runs.post("/{run_id}/link")
def link_form(
    request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, days: Annotated[str, Form(max_length=10)] = "1"
) -> Response:
    """Make a link, and show it once."""
    note(request, run=run_id, days=days)
    try:
        secret, _ = desk.runs.make_link(person, run_id, days=number_of(days, name="days") or 0)
    except HaystackError as error:
        return _refused(request, desk, person=person, run_id=run_id, error=error)
    return _run_page(request, desk, person=person, run_id=run_id, link=link_to(request, run_id, secret))


@_runs.post("/{run_id}/end-links")
def end_links_form(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """End every link to the run."""
    note(request, run=run_id)
    desk.runs.end_links(person, run_id)
    return back_to(request, desk, run_id)


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


# --- comparing, atlases, health -------------------------------------------------------------------------------------


@router.get("/compare", response_class=HTMLResponse)
def compare_page(request: Request, desk: DeskHere, person: Who, run: Annotated[list[str], Query()]) -> Response:
    """Two runs side by side."""
    if len(run) != 2:
        msg = f"{len(run)} runs are marked; mark two to compare them"
        raise InvalidInputError(msg, given=len(run))
    found = desk.runs.compare(person, run[0], run[1])
    return page(request, "compare", found=found, runs=run, body=found.html(with_titles=False))


@router.get("/atlases", response_class=HTMLResponse)
def atlases_page(request: Request, desk: DeskHere) -> Response:
    """The atlases."""
    return page(request, "atlases", atlases=desk.atlases())


@router.get("/atlases/{name}", response_class=HTMLResponse)
def atlas_page(request: Request, desk: DeskHere, name: str) -> Response:
    """What an atlas holds."""
    return page(
        request, "atlas", atlas=desk.atlas(name), is_simulated=SIMULATED.format(name) if name == DEMO_ATLAS else ""
    )


@router.get("/health", response_class=HTMLResponse)
def health_page(request: Request, desk: DeskHere, person: Who) -> Response:
    """Whether what the service needs is there, and what you may do."""
    return page(request, "health", lines=desk.health(), allowed=desk.runs.allowances.of(person.name))


router.include_router(_runs)


# --- parts ----------------------------------------------------------------------------------------------------------


def back_to(request: Request, desk: Desk, run_id: str) -> Response:
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


def simulated_cells(record: RunRecord) -> list[str]:
    """Sentences about atlases of the run whose cells are simulated."""
    return [SIMULATED.format(name) for name in simulated_atlases(record)]


def lines_of(text: str) -> list[str]:
    """The lines of a field, without empty ones."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def number_of(text: str, *, name: str) -> float | None:
    """The number that was typed into a field, None for an empty one; InvalidInputError names the field."""
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
