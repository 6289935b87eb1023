"""Errors as problem details (RFC 9457): what was given, what is possible, what to do next.

In: an error. Out: a status and a body; nothing of the inside of the program is in it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from haystack_kernel import errors
from haystack_kernel.store import hide_home

MEDIA_TYPE = "application/problem+json"
_MAX_DETAIL = 4000

# class -> (status, what to do next); the first that fits counts
_KINDS: dict[type[errors.HaystackError], tuple[int, str]] = {
    errors.NotAllowedError: (403, "Ask the owner of the run, or fork it."),
    errors.LimitError: (429, "Wait as long as Retry-After says, or ask who runs the service to raise the limit."),
    errors.ApprovalNeededError: (402, "Approve the run and give the most it may cost (approve and max_cost)."),
    errors.InvalidInputError: (422, "Change what the message names, then try again."),
    errors.MissingKeyError: (422, "Change what the message names, then try again."),
    errors.NoCandidateError: (422, "Widen the question, or name another atlas."),
    errors.NotFoundError: (404, "Check the name; the lists show what there is."),
    errors.ConflictError: (409, "Look at the run again, then decide."),
    errors.ContractError: (409, "Tell who runs the service: two versions disagree."),
    errors.MissingExtraError: (501, "Tell who runs the service: a package is missing."),
    errors.ServiceError: (503, "Try again in a minute."),
    errors.StorageError: (503, "Try again; if it stays, tell who runs the service."),
    errors.JobFailedError: (409, "Look at the log of the run, then resume it."),
}
_TITLES = {
    400: "The request cannot be read",
    401: "Not signed in",
    402: "Approval needed",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "The request took too long",
    409: "Conflict",
    413: "The request is too large",
    415: "The format is not read here",
    416: "No such part",
    421: "Not this service",
    422: "The input is refused",
    429: "A limit is reached",
    500: "The service failed",
    501: "Not installed",
    503: "Not available now",
}


class Problem(BaseModel):
    """Problem details of an error."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="urn that names the kind of error")
    title: str
    status: int
    detail: str = Field(description="what was given and why it is refused")
    next: str = Field(default="", description="what to do next")
    given: Any = None
    possible: Any = None
    request_id: str = Field(default="", description="names this request in the audit lines")


def describe(error: errors.HaystackError, *, request_id: str = "") -> Problem:
    """Return the problem details of an error of this package."""
    status, next_ = next((found for kind, found in _KINDS.items() if isinstance(error, kind)), (500, ""))
    facts = error.facts
    possible = next((facts[name] for name in ("possible", "nearest", "known", "alternatives") if facts.get(name)), None)
    given = next((facts[name] for name in ("given", "key", "status", "since") if facts.get(name)), None)
    problem = new_problem(status, hide_home(str(error)), kind=type(error).__name__, next_=next_, request_id=request_id)
    shown = {
        name: facts[name]
        for name in ("run_id", "limit", "retry_after_s", "likely_usd", "low_usd", "high_usd", "spent_usd")
        if isinstance(facts.get(name), (str, int, float))
    }
    return problem.model_copy(update={"given": _plain(given), "possible": _plain(possible), **shown})


def new_problem(status: int, detail: str, *, kind: str = "", next_: str = "", request_id: str = "") -> Problem:
    """Return problem details of a status."""
    name = kind.removesuffix("Error") or "".join(word.capitalize() for word in _TITLES.get(status, "Error").split())
    return Problem(
        type=f"urn:haystack:problem:{name}",
        title=_TITLES.get(status, "Error"),
        status=status,
        detail=detail[:_MAX_DETAIL],
        next=next_,
        request_id=request_id,
    )


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON
    """``value`` as plain JSON values, cut to a sensible size."""
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in list(value)[:50]]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return hide_home(str(value))[:500]
