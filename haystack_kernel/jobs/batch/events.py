"""What a job of Google Cloud Batch says of itself: state, why it waits, why it ended, how long it was paid for.

In: a Job and its Tasks, as the service returns them. Out: a Reading; pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from google.cloud import batch_v1

    from haystack_kernel.schema import JobState

GROUP = "group0"  # the name the service gives a job's only task group

_STATES: dict[str, JobState] = {
    "QUEUED": "queued",
    "SCHEDULED": "scheduled",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}
_PASSING = {"CANCELLATION_IN_PROGRESS": "being cancelled", "DELETION_IN_PROGRESS": "being deleted"}
_EXIT_CODES = {
    50000: ("machine", "the service ended the task without naming a reason"),
    50001: ("preempted", "the Spot machine was taken back"),
    50002: ("machine", "the machine stopped reporting"),
    50003: ("machine", "the machine was restarted"),
    50004: ("machine", "the task did not answer"),
    50005: ("too_long", "the time limit was reached: raise jobs.timeout_s (finished tasks are kept)"),
    50006: ("machine", "the machine was made anew"),
}
_CLASSLESS = 50000  # not retried: what it stands for may come again
RETRYABLE = ("preempted", "machine", "stockout")
HOPELESS = ("quota_zero", "invalid")
_REASONS = (  # of waiting: cause, what the event says, what to do
    (
        "quota_zero",
        re.compile(r"quota.*limit:?\s*0(\.0+)?(?!\.?\d)", re.IGNORECASE | re.DOTALL),
        "the project has none of this quota there: ask for it (IAM & Admin > Quotas), or set another batch.machine",
    ),
    (
        "quota",
        re.compile(r"quota.?exceeded|exceeded.*quota", re.IGNORECASE | re.DOTALL),
        "the quota is used up for now: wait for other jobs to end, or ask for more",
    ),
    (
        "stockout",
        re.compile(r"resource_pool_exhausted|stockout|does not have enough resources|out of stock", re.IGNORECASE),
        "no such machine is free there: give more batch.zones, or another batch.machine",
    ),
    (
        "invalid",
        re.compile(r"invalid_field_value|non-retryable", re.IGNORECASE),
        "the service cannot use the request: check machine, network and service account of section batch",
    ),
)
_EXIT_TEXT = re.compile(r"exit code (\d+)")
_MOVE = re.compile(r"from (\w+) to (\w+)")


@dataclass(frozen=True)
class Reading:
    """A job at one moment."""

    state: JobState
    cause: str = ""  # why it waits or ended: a cause above, program, unknown; empty where nothing is known or wrong
    detail: str = ""
    exit_code: int | None = None
    n_done: int = 0
    seconds: float = 0.0  # each machine was paid for, of a job that has ended
    last_events: tuple[str, ...] = ()


def read_job(job: batch_v1.Job, tasks: Sequence[batch_v1.Task] = ()) -> Reading:
    """State and reason of a job.

    Parameters
    ----------
    job
        As returned by the service; its events may come in any order.
    tasks
        Its tasks, as far as they exist: the service may show them late or never.
    """
    name = _state_name(job)
    events = in_order(job.status.status_events)
    counts = {key: int(value) for group in job.status.task_groups.values() for key, value in group.counts.items()}
    n_done = counts.get("SUCCEEDED", 0)
    last = tuple(event.description for event in events[-3:])
    if name not in _STATES:
        return Reading("unknown", detail=_PASSING.get(name, f"state {name}"), n_done=n_done, last_events=last)
    state = _STATES[name]
    seconds = max(paid_seconds(events), _run_seconds(job))
    if state in ("queued", "scheduled"):
        cause, detail = _why_waiting(events)
        return Reading(state, cause, detail, n_done=n_done, last_events=last)
    if state != "failed":
        return Reading(state, n_done=n_done, seconds=seconds, last_events=last)
    cause, detail, code = _why_failed(events, tasks)
    return Reading("failed", cause, detail, code, n_done=n_done, seconds=seconds, last_events=last)


def in_order(events: Iterable[batch_v1.StatusEvent]) -> list[batch_v1.StatusEvent]:
    """Events by their time; the service does not sort them."""
    return sorted(events, key=lambda event: _time(event) or 0.0)


def paid_seconds(events: Sequence[batch_v1.StatusEvent]) -> float:
    """Seconds from the machines' first start to the job's last event; 0 where no machine came up.

    Machines are made once the job is scheduled, so their boot counts; a job that never ran had none.
    """
    moves = [(found.group(2), _time(event)) for event in events if (found := _MOVE.search(event.description))]
    began = [at for to, at in moves if to == "SCHEDULED" and at is not None]
    ran = [at for to, at in moves if to == "RUNNING" and at is not None]
    if not ran:
        return 0.0
    last = max(at for event in events if (at := _time(event)) is not None)
    return max(last - min(began or ran), 0.0)


def exit_code_of(task: batch_v1.Task) -> int | None:
    """How a failed task's container ended; None for a task that did not fail or does not say.

    An event of success carries no execution, and an execution without a code reads as 0, so only events that have one
    are looked at.
    """
    names: Any = type(task.status).State
    if type(task).pb(task).status.state != names.FAILED.value:
        return None
    codes = [
        int(event.task_execution.exit_code)
        for event in in_order(task.status.status_events)
        if "task_execution" in event
    ]
    return codes[-1] if codes else None


def _why_failed(events: Sequence[batch_v1.StatusEvent], tasks: Sequence[batch_v1.Task]) -> tuple[str, str, int | None]:
    codes = [code for task in tasks if (code := exit_code_of(task)) is not None]
    if not codes:
        texts = [event.description for task in tasks for event in in_order(task.status.status_events)]
        texts += [event.description for event in events]
        codes = [int(found.group(1)) for text in texts if (found := _EXIT_TEXT.search(text))][-1:]
    if not codes:
        cause, detail = _why_waiting(events)
        said = events[-1].description if events else "no event says why"
        return (cause or "unknown", detail or f"no task left an exit code; the last event: {said}", None)
    own = [code for code in codes if code not in _EXIT_CODES]
    stubborn = [code for code in codes if _kind(code)[0] not in RETRYABLE or code == _CLASSLESS]
    code = (own or stubborn or codes)[0]
    cause, words = _kind(code)
    if code == _CLASSLESS:
        cause = "unknown"
    many = f" ({len(codes)} tasks failed)" if len(codes) > 1 else ""
    return cause, f"{words}{many}", code


def _kind(code: int) -> tuple[str, str]:
    return _EXIT_CODES.get(code, ("program", f"the program ended with exit code {code}: see the end of its log"))


def _why_waiting(events: Sequence[batch_v1.StatusEvent]) -> tuple[str, str]:
    """Cause and remedy by the newest event that names one."""
    for event in reversed(events):
        for cause, pattern, advice in _REASONS:
            if pattern.search(event.description):
                return cause, f"{advice} (the service says: {event.description[:300]})"
    return "", ""


def _run_seconds(job: batch_v1.Job) -> float:
    """What the service itself counts as running: less than is paid for, but it needs no event."""
    return float(job.status.run_duration.total_seconds()) if job.status.run_duration else 0.0


def _time(event: batch_v1.StatusEvent) -> float | None:
    at: datetime | None = event.event_time
    return at.timestamp() if at else None


def _state_name(job: batch_v1.Job) -> str:
    """Name of the state; a number this version does not know stays a number (the wrapper would warn of it)."""
    names: Any = type(job.status).State
    number = type(job).pb(job).status.state
    return next((state.name for state in names if state.value == number), str(number))
