"""Read a job of Google Cloud Batch: its state, why it waits, why it ended, how long its machines were paid for.

In: a Job and its Tasks, as the service returns them. Out: a Reading; pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
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
PASSING = {"CANCELLATION_IN_PROGRESS": "being cancelled", "DELETION_IN_PROGRESS": "being deleted"}
_EXIT_CODES = {
    50000: ("machine", "the service ended the task without naming a reason"),
    50001: ("preempted", "the machine was taken back"),
    50002: ("machine", "the machine stopped reporting"),
    50003: ("machine", "the machine was restarted"),
    50004: ("machine", "the task did not answer"),
    50005: ("too_long", "the time limit was reached: raise jobs.timeout_s (finished tasks are kept)"),
    50006: ("machine", "the machine was made anew"),
}
_TAKEN_BACK = {  # what a preemption means depends on how the machine was provisioned
    "SPOT": "the Spot machine was taken back",
    "PREEMPTIBLE": "the Spot machine was taken back",
    "FLEX_START": "the flex-start machine was taken back",
    "STANDARD": "the on-demand machine was taken away (host maintenance or a fault of the host)",
}
_CLASSLESS = 50000  # not retried, because its unknown reason may persist
RETRYABLE = ("preempted", "machine", "stockout", "drivers")
HOPELESS = ("quota_zero", "invalid", "drivers", "disk")
_REASONS = (  # why a job waits: cause, what the event says, what to do
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
_MACHINE_REASONS = (  # why a machine that came up was of no use, in events and in the log
    (
        "drivers",
        re.compile(
            r"install\w* (the )?(nvidia |gpu )*drivers?\b.{0,200}(fail|error|exit status [1-9]|timed? ?out)"
            r"|fail\w* to install (the )?(nvidia |gpu )*drivers?\b"
            r"|could not select device driver|nvidia-smi has failed|nvidia driver.{0,40}not loaded",
            re.IGNORECASE,
        ),
        "the GPU driver was not installed on the machine: if it fails on others too, set other batch.zones",
    ),
    (
        "disk",
        re.compile(r"no space left on device|the disk is full", re.IGNORECASE),
        "the boot disk of the machine is full: raise batch.boot_disk_gib",
    ),
)
_BEGUN_DRIVERS = re.compile(r"install\w* (the )?(nvidia |gpu )*drivers?\b", re.IGNORECASE)
_EXIT_TEXT = re.compile(r"exit code (\d+)")
_MOVE = re.compile(r"from (\w+) to (\w+)")


@dataclass(frozen=True)
class Reading:
    """A job at one moment."""

    state: JobState
    cause: str = ""  # why it waits or ended: a cause above, program or unknown; empty if nothing is known or wrong
    detail: str = ""
    exit_code: int | None = None
    n_done: int = 0
    seconds: float = 0.0  # for which each machine was paid, once the job has ended
    up_since: float | None = None  # when the service began to make the first machine
    up_seconds: float = 0.0  # from then to the last event, whether or not the program ran
    last_events: tuple[str, ...] = ()


def read_job(job: batch_v1.Job, tasks: Sequence[batch_v1.Task] = (), *, log: str = "") -> Reading:
    """Read the state of a job, and the reason for it.

    Parameters
    ----------
    job
        As returned by the service; its events may come in any order.
    tasks
        Its tasks, as far as the service shows them, which may be late or never.
    log
        End of the log of a job that failed. It names faults of the machine that share one exit code.
    """
    name = _state_name(job)
    events = in_order(job.status.status_events)
    counts = {key: int(value) for group in job.status.task_groups.values() for key, value in group.counts.items()}
    shared = Reading(
        "unknown",
        n_done=counts.get("SUCCEEDED", 0),
        last_events=tuple(event.description for event in events[-3:]),
        up_since=_since(events),
        up_seconds=paid_seconds(events, came_up=True),
    )
    if name not in _STATES:
        return replace(shared, detail=PASSING.get(name, f"state {name}"))
    state = _STATES[name]
    if state in ("queued", "scheduled"):
        cause, detail = _why_useless(events, log, job=job) or _why_waiting(events)
        return replace(shared, state=state, cause=cause, detail=detail)
    # The service's own count of running time leaves out the boot, but it needs no event.
    running = job.status.run_duration
    seconds = max(paid_seconds(events), float(running.total_seconds()) if running else 0.0)
    if state != "failed":
        return replace(shared, state=state, seconds=seconds)
    cause, detail, code = _why_failed(events, tasks, job=job)
    if cause in ("program", "machine", "unknown") and (found := _why_useless(events, log, job=job)):
        cause, detail = found
        seconds = max(seconds, shared.up_seconds)  # a machine that never got to work is paid for all the same
    return replace(shared, state=state, cause=cause, detail=detail, exit_code=code, seconds=seconds)


def explain_hang(log: str) -> tuple[str, str]:
    """Cause and remedy of a machine that is paid for and does not begin to work, from the end of its log."""
    if _BEGUN_DRIVERS.search(log):
        _, _, advice = _MACHINE_REASONS[0]
        return "drivers", f"the installation of the GPU driver does not end: {advice}"
    return "machine", "the machine does not begin to work; another one is tried"


def in_order(events: Iterable[batch_v1.StatusEvent]) -> list[batch_v1.StatusEvent]:
    """Sort events by their time, which the service does not do."""
    return sorted(events, key=lambda event: _time(event) or 0.0)


def paid_seconds(events: Sequence[batch_v1.StatusEvent], *, came_up: bool = False) -> float:
    """Seconds from the first start of the machines to the job's last event; 0 where no machine came up.

    Machines are made once the job is scheduled, so their boot counts. A job that never ran had no machine, unless
    something else shows that one ``came_up``.
    """
    ran = [at for to, at in _moves(events) if to == "RUNNING"]
    began = _since(events)
    if began is None or not (ran or came_up):
        return 0.0
    last = max(at for event in events if (at := _time(event)) is not None)
    return max(last - began, 0.0)


def _moves(events: Sequence[batch_v1.StatusEvent]) -> list[tuple[str, float]]:
    """States that the job moved to, with the time of each move."""
    found = ((_MOVE.search(event.description), _time(event)) for event in events)
    return [(move.group(2), at) for move, at in found if move is not None and at is not None]


def _since(events: Sequence[batch_v1.StatusEvent]) -> float | None:
    """When the service began to make the first machine; None before that."""
    moves = _moves(events)
    scheduled = [at for to, at in moves if to == "SCHEDULED"]
    ran = [at for to, at in moves if to == "RUNNING"]
    return min(scheduled or ran, default=None)


def exit_code_of(task: batch_v1.Task) -> int | None:
    """Exit code of a failed task's container; None for a task that did not fail or has no code.

    Only events with an execution are read: an event of success carries none, and reading an absent execution would
    give the code 0.
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


def _why_failed(
    events: Sequence[batch_v1.StatusEvent], tasks: Sequence[batch_v1.Task], *, job: batch_v1.Job
) -> tuple[str, str, int | None]:
    """Cause, remedy and exit code of a job that failed."""
    codes = _exit_codes(events, tasks)
    if not codes:
        cause, detail = _why_waiting(events)
        said = events[-1].description if events else "no event says why"
        return (cause or "unknown", detail or f"no task left an exit code; the last event: {said}", None)
    code = max(codes, key=_weight)
    cause, words = _kind(code)
    if code == _CLASSLESS:
        cause = "unknown"
    policy = _policy(job)
    if cause == "preempted" and policy is not None:
        words = _TAKEN_BACK.get(str(policy.provisioning_model.name), words)
    many = f" ({len(codes)} tasks failed)" if len(codes) > 1 else ""
    return cause, f"{words}{many}", code


def _exit_codes(events: Sequence[batch_v1.StatusEvent], tasks: Sequence[batch_v1.Task]) -> list[int]:
    """Exit codes of the failed tasks, or else the last code that the text of an event names."""
    codes = [code for task in tasks if (code := exit_code_of(task)) is not None]
    if codes:
        return codes
    # The service may never show the tasks of a job; the text of an event then still names the code.
    texts = [event.description for task in tasks for event in in_order(task.status.status_events)]
    texts += [event.description for event in events]
    return [int(found.group(1)) for text in texts if (found := _EXIT_TEXT.search(text))][-1:]


def _weight(code: int) -> int:
    """Rank an exit code among several: the program's own highest, then what must not be repeated, then the rest."""
    if code not in _EXIT_CODES:
        return 2
    return 1 if _kind(code)[0] not in RETRYABLE or code == _CLASSLESS else 0


def _kind(code: int) -> tuple[str, str]:
    return _EXIT_CODES.get(code, ("program", f"the program ended with exit code {code}: see the end of its log"))


def _why_useless(events: Sequence[batch_v1.StatusEvent], log: str, *, job: batch_v1.Job) -> tuple[str, str] | None:
    """Cause and remedy where the events or the log name a fault of the machine itself; None where they do not."""
    for text in (*(event.description for event in reversed(events)), *reversed(log.splitlines())):
        for cause, pattern, advice in _MACHINE_REASONS:
            if pattern.search(text):
                policy = _policy(job)
                disk = int(policy.boot_disk.size_gb) if policy is not None else 0
                now = f" (it has {disk} GiB)" if cause == "disk" and disk else ""
                return cause, f"{advice}{now} (it says: {text.strip()[:300]})"
    return None


def _policy(job: batch_v1.Job) -> Any:  # noqa: ANN401 - a protocol buffer, or None
    instances = job.allocation_policy.instances
    return instances[0].policy if instances else None


def _why_waiting(events: Sequence[batch_v1.StatusEvent]) -> tuple[str, str]:
    """Cause and remedy of waiting, from the newest event that names a cause; empty texts where none does."""
    for event in reversed(events):
        for cause, pattern, advice in _REASONS:
            if pattern.search(event.description):
                return cause, f"{advice} (the service says: {event.description[:300]})"
    return "", ""


def _time(event: batch_v1.StatusEvent) -> float | None:
    at: datetime | None = event.event_time
    return at.timestamp() if at else None


def _state_name(job: batch_v1.Job) -> str:
    """Name of the job's state; a number that this version does not know stays a number, without a warning."""
    names: Any = type(job.status).State
    number = type(job).pb(job).status.state
    return next((state.name for state in names if state.value == number), str(number))
