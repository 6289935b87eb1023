"""REST under ``/api/v1``: runs, questions, atlases. Each route calls one public verb, which checks the person's rights.

In: requests that the guard let pass. Out: JSON, files, events; errors as problem details.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.manage.catalogue import RunFilter
from haystack_kernel.manage.tenancy import Person
from haystack_kernel.planners.offline import explain
from haystack_kernel.report.render import script_sources
from haystack_kernel.schema import NAME_PATTERN, RUN_ID_PATTERN
from haystack_kernel.service.desk import Desk
from haystack_kernel.service.live import run_events
from haystack_kernel.service.models import (
    AtlasOut,
    AtlasRow,
    CandidateOut,
    CandidatesOut,
    EstimateOut,
    FileOut,
    ForkIn,
    LinkIn,
    LinkOut,
    LogOut,
    MeOut,
    PreviewIn,
    QuestionIn,
    RunOut,
    RunPage,
    RunQuery,
    RunRow,
    ShareIn,
    ShareOut,
    SpendingIn,
    SubmitIn,
    own,
)
from haystack_kernel.service.problems import MEDIA_TYPE, Problem
from haystack_kernel.service.streaming import has_already, send_file
from haystack_kernel.store import layout

_SAID = {
    400: "the request cannot be read",
    401: "nobody is signed in",
    402: "the run costs money and the request does not consent",
    403: "the person may not do this, or the request comes from another site",
    404: "there is none that the person may see",
    409: "it conflicts with what is there",
    413: "the request is too large",
    422: "an input is refused",
    429: "a limit is reached",
    503: "the storage or an outside service fails",
}
_PROBLEM = {"model": Problem, "content": {MEDIA_TYPE: {}}}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for the OpenAPI document."""
    every = sorted({400, 401, 403, 413, 422, 429, 503, *statuses})
    schema = {"$ref": "#/components/schemas/Problem"}
    return {status: {"description": _SAID[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in every}


def get_desk(request: Request) -> Desk:
    """The state of the application."""
    desk: Desk = request.app.state.desk
    return desk


def get_person(request: Request) -> Person:
    """The person whom the guard let in."""
    person: Person = request.state.person
    return person


def note(request: Request, **facts: object) -> None:
    """Add facts to the audit line of the request."""
    request.scope["state"].setdefault("audit", {}).update(facts)


def link_to(request: Request, run_id: str, secret: str) -> str:
    """The address of a link, as people know the service; a proxy may hide that from it."""
    found = request.url_for("open_link", run_id=run_id, secret=secret)
    address = get_desk(request).settings.service.address.rstrip("/")
    return f"{address}{found.path}" if address else str(found)


DeskHere = Annotated[Desk, Depends(get_desk)]
Who = Annotated[Person, Depends(get_person)]
RunIdHere = Annotated[str, Path(pattern=RUN_ID_PATTERN, description="id of a run")]

router = APIRouter(prefix="/api/v1", responses={})
_runs = APIRouter(prefix=f"/{layout.RUNS}", tags=["runs"])


READ_SLOWLY = "the atlases, or a file that the question names, are read too slowly. Nothing was started"
MAY_START = (
    "an atlas or a file is read too slowly. The run may start all the same: look at the list before you ask again"
)


async def slowly(desk: Desk, person: Person, work: Callable[[], Response], *, late: str) -> Response:
    """The answer of work that may take long; see :class:`haystack_kernel.service.slow_work.SlowWork`."""
    made: Response = await desk.slow.do(person.name, work, late=late)
    return made


def answer(request: Request, value: Any, *, status: int = 200) -> Response:  # noqa: ANN401 - a model or a list of them
    """A JSON answer with an ETag; 304 where the reader has it already."""
    if isinstance(value, list):
        body = f"[{','.join(item.model_dump_json() for item in value)}]".encode()
    else:
        body = value.model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if has_already(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, status_code=status, media_type="application/json", headers=headers)


# --- runs -----------------------------------------------------------------------------------------------------------


@_runs.get("", response_model=RunPage, responses=_problems())
def list_runs(request: Request, desk: DeskHere, person: Who, query: Annotated[RunQuery, Query()]) -> Response:
    """List runs, newest first."""
    wanted = query.model_dump(exclude={"after", "limit"}, exclude_none=True)
    page = desk.runs.catalogue.page(RunFilter(**wanted), person=own(person), after=query.after, limit=query.limit)
    rows = [RunRow.of(row) for row in page.rows]
    return answer(request, RunPage(runs=rows, n_found=page.n_found, following=page.following))


@_runs.post("", status_code=201, response_model=RunOut, responses=_problems(402, 404, 409))
async def submit_run(
    request: Request,
    desk: DeskHere,
    person: Who,
    body: SubmitIn,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)] = None,
) -> Response:
    """Hand a question to a job; the same idempotency key finds the run that was made before."""

    def work() -> Response:
        run, is_new = desk.runs.submit(person, body.question, options=body.options, spending=body.spending, key=key)
        note(request, run=run.run_id, max_cost=body.max_cost, approve=body.approve)
        if desk.settings.service.log_questions:
            note(request, question=body.question)
        made = answer(request, RunOut.model_validate(desk.look(person, run.run_id)), status=201 if is_new else 200)
        made.headers["Location"] = str(request.url_for("get_run", run_id=run.run_id).path)
        return made

    return await slowly(desk, person, work, late=MAY_START)


@_runs.get("/{run_id}", response_model=RunOut, responses=_problems(404))
def get_run(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """Describe where a run stands."""
    return answer(request, RunOut.model_validate(desk.look(person, run_id)))


@_runs.get("/{run_id}/record", responses={200: {"description": "the run record"}, **_problems(404)})
def get_record(desk: DeskHere, person: Who, run_id: RunIdHere) -> dict[str, Any]:
    """Return the whole record of a run."""
    record: dict[str, Any] = desk.runs.read(person, run_id).record.model_dump(mode="json")
    return record


@_runs.post("/{run_id}/cancel", response_model=RunOut, responses=_problems(404, 409))
def cancel_run(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """Stop a run and its jobs; finished steps are kept."""
    note(request, run=run_id)
    desk.runs.cancel(person, run_id)
    desk.forget(run_id)
    return answer(request, RunOut.model_validate(desk.look(person, run_id)))


@_runs.post("/{run_id}/resume", response_model=RunOut, responses=_problems(402, 404, 409))
async def resume_run(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, body: SpendingIn) -> Response:
    """Go on with a run that stopped, in a new attempt of its job."""
    note(request, run=run_id, max_cost=body.max_cost, approve=body.approve)

    def work() -> Response:
        desk.runs.resume(person, run_id, spending=body.spending)
        desk.forget(run_id)
        return answer(request, RunOut.model_validate(desk.look(person, run_id)))

    return await slowly(desk, person, work, late=MAY_START)


@_runs.post("/{run_id}/fork", status_code=201, response_model=RunOut, responses=_problems(402, 404, 409))
async def fork_run(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, body: ForkIn) -> Response:
    """Make a run of your own from one that you may read, with some options changed."""

    def work() -> Response:
        made = desk.runs.fork(person, run_id, changes=body.changes, question=body.question, spending=body.spending)
        note(request, run=made.run_id, forked_from=run_id, max_cost=body.max_cost, approve=body.approve)
        return answer(request, RunOut.model_validate(desk.look(person, made.run_id)), status=201)

    return await slowly(desk, person, work, late=MAY_START)


@_runs.get("/{run_id}/log", response_model=LogOut, responses=_problems(404))
def get_log(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """Return the ends of the logs of the run's jobs."""
    return answer(request, LogOut.model_validate(desk.log(person, run_id)))


@_runs.get(
    "/{run_id}/events",
    responses={
        200: {"description": "server-sent events `run`, each the whole state", "content": {"text/event-stream": {}}},
        **_problems(404),
    },
    response_class=Response,
)
async def get_events(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """Follow a run by server-sent events until it ends."""
    return await run_events(request, desk, person, run_id)


@_runs.get("/{run_id}/files", response_model=list[FileOut], responses=_problems(404))
def list_files(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """List the files of a run."""
    found = desk.runs.files(person, run_id)
    return answer(request, [FileOut(path=path, n_bytes=size) for path, size in found.items()])


_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the file", "content": {"application/octet-stream": {}}},
    206: {"description": "the part that `Range` asks for", "content": {"application/octet-stream": {}}},
    416: {"description": "the part lies outside the file", "content": {MEDIA_TYPE: {}}},
}


@_runs.head("/{run_id}/files/{path:path}", include_in_schema=False)
@_runs.get("/{run_id}/files/{path:path}", responses={**_FILE, **_problems(404)}, response_class=Response)
def get_file(
    request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, path: Annotated[str, Path(max_length=300)]
) -> Response:
    """Download a file of a run, or a part of it."""
    found = desk.runs.open_file(person, run_id, path)
    name = re.sub(r"[^\w.-]", "_", path.rpartition("/")[2], flags=re.ASCII) or "file"
    headers = {
        "Content-Disposition": f"attachment; filename=\"{name}\"; filename*=UTF-8''{quote(f'{run_id}-{name}')}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return send_file(request, found, media_type="application/octet-stream", headers=headers)


_REPORT: dict[int | str, dict[str, Any]] = {
    status: {**said, "content": {"text/html": {}}} if status != 416 else said for status, said in _FILE.items()
}


@_runs.head("/{run_id}/report", include_in_schema=False)
@_runs.get("/{run_id}/report", responses={**_REPORT, **_problems(404)}, response_class=Response)
def get_report(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """Return the report of a run; a browser shows it in a box of its own, in which no script but ours runs."""
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {script_sources()}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
        "sandbox allow-scripts allow-downloads allow-popups allow-popups-to-escape-sandbox"
    )
    found = desk.runs.open_file(person, run_id, layout.REPORT)
    headers = {"Content-Security-Policy": policy, "X-Frame-Options": "SAMEORIGIN"}
    return send_file(request, found, media_type="text/html; charset=utf-8", headers=headers)


# --- sharing --------------------------------------------------------------------------------------------------------


@_runs.get("/{run_id}/access", response_model=ShareOut, responses=_problems(404))
def get_access(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """Say who may read a run; whoever it is shared with sees the owner alone."""
    access = desk.runs.access(person, run_id)
    if access is not None and not desk.runs.may_steer(person, run_id):
        access = access.model_copy(update={"shared_with": (), "links": ()})
    return answer(request, ShareOut.of(access))


@_runs.put("/{run_id}/access", response_model=ShareOut, responses=_problems(404))
def put_access(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, body: ShareIn) -> Response:
    """Share a run with people or with everyone, or end that."""
    note(request, run=run_id, everyone=body.everyone, n_people=len(body.people))
    return answer(
        request, ShareOut.of(desk.runs.share(person, run_id, people=tuple(body.people), everyone=body.everyone))
    )


@_runs.post("/{run_id}/links", status_code=201, response_model=LinkOut, responses=_problems(404))
def make_link(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere, body: LinkIn) -> Response:
    """Make a link with which whoever is signed in may read the run until it expires."""
    note(request, run=run_id, days=body.days)
    secret, access = desk.runs.make_link(person, run_id, days=body.days)
    url = link_to(request, run_id, secret)
    return answer(request, LinkOut(**ShareOut.of(access).model_dump(), url=url), status=201)


@_runs.delete("/{run_id}/links", response_model=ShareOut, responses=_problems(404))
def end_links(request: Request, desk: DeskHere, person: Who, run_id: RunIdHere) -> Response:
    """End every link to a run."""
    note(request, run=run_id)
    return answer(request, ShareOut.of(desk.runs.end_links(person, run_id)))


# --- questions, atlases, oneself ------------------------------------------------------------------------------------


@router.get("/compare", tags=["runs"], responses={200: {"description": "how two runs agree"}, **_problems(404)})
def compare_runs(
    desk: DeskHere,
    person: Who,
    a: Annotated[str, Query(pattern=RUN_ID_PATTERN)],
    b: Annotated[str, Query(pattern=RUN_ID_PATTERN)],
) -> JSONResponse:
    """Compare two runs."""
    return JSONResponse(_without_nan(desk.runs.compare(person, a, b).to_dict()))


@router.post("/parse", tags=["questions"], responses={200: {"description": "the question as read"}, **_problems()})
def parse(desk: DeskHere, body: QuestionIn) -> dict[str, Any]:
    """Say how a question is understood, with alternatives and whether a run could answer it."""
    return explain(body.question, knowledge=load_knowledge(desk.settings.knowledge))


@router.post("/candidates", tags=["questions"], response_model=CandidatesOut, responses=_problems(404))
async def candidates(request: Request, desk: DeskHere, person: Who, body: PreviewIn) -> Response:
    """Search the atlases for the prompt candidates of a question; nothing is saved or started."""

    def work() -> Response:
        record = desk.runs.preview(body.question, options=body.options).record
        query = record.query.model_dump(mode="json") if record.query else {}
        found = [CandidateOut.of(item) for item in record.candidates]
        return answer(request, CandidatesOut(query=query, candidates=found))

    return await slowly(desk, person, work, late=READ_SLOWLY)


@router.post("/estimate", tags=["questions"], response_model=EstimateOut, responses=_problems(404))
async def estimate(request: Request, desk: DeskHere, person: Who, body: PreviewIn) -> Response:
    """Estimate what a question may cost; nothing is saved or started."""

    def work() -> Response:
        seen = desk.runs.preview(body.question, options=body.options, with_candidates=False)
        allowed = desk.runs.allowances.of(person.name)
        return answer(request, EstimateOut.of(seen, usd_left=max(allowed.usd_per_day - allowed.spent_today_usd, 0.0)))

    return await slowly(desk, person, work, late=READ_SLOWLY)


@router.get("/atlases", tags=["atlases"], response_model=list[AtlasRow], responses=_problems())
def list_atlases(request: Request, desk: DeskHere) -> Response:
    """List the atlases."""
    return answer(request, [AtlasRow.model_validate(one) for one in desk.atlases()])


@router.get("/atlases/{name}", tags=["atlases"], response_model=AtlasOut, responses=_problems(404))
def get_atlas(request: Request, desk: DeskHere, name: Annotated[str, Path(pattern=NAME_PATTERN)]) -> Response:
    """Say what an atlas holds."""
    return answer(request, AtlasOut.model_validate(desk.atlas(name)))


@router.get("/me", tags=["service"], response_model=MeOut, responses=_problems())
def get_me(request: Request, desk: DeskHere, person: Who) -> Response:
    """Say who you are to the service and what is left of your limits."""
    allowed = desk.runs.allowances.of(person.name)
    return answer(
        request,
        MeOut(
            name=person.name,
            is_admin=person.is_admin,
            running=allowed.running,
            runs_at_once=allowed.runs_at_once,
            spent_today_usd=round(allowed.spent_today_usd, 4),
            usd_per_day=allowed.usd_per_day,
        ),
    )


@router.get("/health", tags=["service"], responses={200: {"description": "checks"}, **_problems()})
def get_health(desk: DeskHere) -> list[dict[str, Any]]:
    """Say whether what the service needs is there."""
    return desk.health()


router.include_router(_runs)


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - JSON
    """``value`` with NaN as null, which JSON has no number for."""
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN
        return None
    return value.item() if hasattr(value, "item") else value
