"""The application: routes behind the guard, errors as problem details, a watch over runs that end.

In: settings. Out: an ASGI application, for uvicorn: ``uvicorn --factory haystack_kernel.service.app:create``.
"""

from __future__ import annotations

import logging
import threading
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from haystack_kernel import __version__
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import HaystackError, InvalidInputError
from haystack_kernel.manage.notices import EndWatch
from haystack_kernel.report.html import STYLE
from haystack_kernel.service import api, asking, pages, rendering, wake
from haystack_kernel.service.desk import Desk
from haystack_kernel.service.guard import Guard
from haystack_kernel.service.identity import IapIdentity, Identity, LabIdentity, TokenIdentity, WakeIdentity
from haystack_kernel.service.problems import MEDIA_TYPE, Problem, describe, new_problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from haystack_kernel.ports import Consent, Ports
    from haystack_kernel.schema import Settings

LOG = logging.getLogger("haystack.service")
_STATIC = {"service.css": "text/css", "service.js": "text/javascript", "icon.svg": "image/svg+xml"}
_MAX_ERRORS = 20
_N_THREADS = 16  # that answer requests; more of them only wait for each other


def create(settings: Settings | None = None) -> FastAPI:
    """Build the application that the settings describe.

    Parameters
    ----------
    settings
        None reads them from the settings files and the environment.

    Returns
    -------
    The application.

    Raises
    ------
    InvalidInputError
        Nobody could sign in: there is no token, or no secret of Lab.

    Examples
    --------
    >>> app = create(load_settings(service={"token": "…"}))  # doctest: +SKIP
    """
    settings = settings or load_settings()
    return build(settings, identity=_identity(settings))


def build(settings: Settings, *, identity: Identity, open_ports: Callable[[Consent], Ports] | None = None) -> FastAPI:
    """Build the application for people whom ``identity`` tells; ``open_ports`` as in :class:`Desk`."""
    desk = Desk(settings, trusts_inputs=identity.kind != "iap", open_ports=open_ports)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _N_THREADS
        stopping = threading.Event()
        thread = threading.Thread(target=_watch, args=(app.state.watch, stopping, desk), name="end watch", daemon=True)
        thread.start()
        yield
        stopping.set()

    app = FastAPI(
        title="HAYSTACK",
        summary="Ask how cells would respond; follow the run; read the answer.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.desk, app.state.identity = desk, identity
    app.state.address = settings.service.address.rstrip("/")

    def address_of(run_id: str) -> str:
        return f"{app.state.address}{app.url_path_for('run_page', run_id=run_id)}"

    app.state.watch = EndWatch(desk.runs.catalogue, desk.ports, address_of=address_of, log=LOG.warning)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.include_router(asking.router)
    _add_static(app)
    _add_errors(app)
    _describe_problems(app)
    waker = WakeIdentity(settings.service) if settings.service.wake_account else None
    if waker is not None:
        app.include_router(wake.router)
    app.add_middleware(Guard, identity=identity, settings=settings.service, wake=waker, refusal=rendering.refusal)
    return app


def _identity(settings: Settings) -> Identity:
    service = settings.service
    if service.identity == "iap":
        return IapIdentity(service)
    secret = service.token if service.identity == "token" else service.lab_secret
    name = "token" if service.identity == "token" else "lab_secret"
    if secret is None or len(secret.get_secret_value()) < 16:
        msg = (
            f"identity {service.identity!r} needs service.{name} of 16 characters or more "
            f"(HAYSTACK_SERVICE__{name.upper()}); `haystack serve` makes a token by itself"
        )
        raise InvalidInputError(msg, missing=name)
    kind = TokenIdentity if service.identity == "token" else LabIdentity
    return kind(secret.get_secret_value(), name=service.person)


def _watch(watch: EndWatch, stopping: threading.Event, desk: Desk) -> None:
    """Tend runs and tell of those that end, until the service stops."""
    while not stopping.wait(desk.settings.service.watch_s):
        try:
            for run_id in watch.look():
                LOG.info("told the end of run %s", run_id)
        except HaystackError as error:  # the storage fails: the next look tries again
            LOG.warning("cannot look at the runs: %s", type(error).__name__)


def _add_static(app: FastAPI) -> None:
    """Serve our stylesheet, script and icon, and nothing else of the disk."""
    folder = resources.files("haystack_kernel.service") / "static"
    contents = {name: (folder / name).read_bytes() for name in _STATIC}
    contents["service.css"] += STYLE.encode()

    @app.get("/static/{name}", name="static", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in contents:
            raise HTTPException(404)
        kind = f"{_STATIC[name]}; charset=utf-8"
        return Response(contents[name], media_type=kind, headers={"Cache-Control": "public, max-age=600"})


def _add_errors(app: FastAPI) -> None:
    """Answer errors as problem details, or as a page where a browser asks for one."""

    def show(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> Response:
        headers = headers or {}
        if problem.status == 429:
            wait_s = getattr(problem, "retry_after_s", None) or 60
            headers = {**headers, "Retry-After": str(wait_s)}
        if rendering.wants_page(
            request.url.path, request.headers.get("accept", ""), root=request.scope.get("root_path", "")
        ):
            return rendering.problem_page(request, problem, headers=headers)
        body = problem.model_dump(exclude_none=True)
        return JSONResponse(body, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)

    def request_id(request: Request) -> str:
        return str(getattr(request.state, "request_id", ""))

    @app.exception_handler(HaystackError)
    async def on_known(request: Request, error: HaystackError) -> Response:
        return show(request, describe(error, request_id=request_id(request)))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        lines = []
        for item in error.errors()[:_MAX_ERRORS]:
            place = ".".join(str(part) for part in item["loc"][1:])[:100]
            lines.append(f"{place or item['loc'][0]}: {str(item['msg']).removeprefix('Value error, ')}")
        problem = new_problem(
            422, "; ".join(lines), kind="InvalidInput", next_="Change what is named.", request_id=request_id(request)
        )
        return show(request, problem)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        problem = new_problem(error.status_code, str(error.detail), request_id=request_id(request))
        return show(request, problem, dict(error.headers or {}))


def _describe_problems(app: FastAPI) -> None:
    """Put the form of problems into the OpenAPI document, which FastAPI does for models of answers alone."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = make()
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
