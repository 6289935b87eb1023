"""How a page is made: templates, units in words, pages about errors and refusals.

In: a request and values. Out: HTML, every text escaped by the templates.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from haystack_kernel.jobs import in_usd
from haystack_kernel.report.html import bar
from haystack_kernel.report.words import span
from haystack_kernel.service.problems import Problem, new_problem

if TYPE_CHECKING:
    from starlette.types import Scope


@cache
def templates() -> Environment:
    """The templates of all pages; what they are given is escaped."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"usd": in_usd, "span": span, "bytes": size, "when": when}
    found.globals["score_bar"] = bar
    return found


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
        templates()
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
        templates()
        .get_template("refusal.html.j2")
        .render(problem=new_problem(status, detail), root=root, can_sign_in=is_token and status == 401)
    )
    return text.encode()
