"""Wait for a job, with an injected clock.

In: a job handle and its executor. Out: the final status, or JobFailedError.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import ApprovalNeededError, JobFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Clock, Executor
    from haystack_kernel.schema import ExecutorName, JobHandle, JobSpec, JobStatus, Settings

_PART_OF_WAIT = 20  # so that the end of a job is noticed within a twentieth of the time that it took
_MARGIN_S = 600.0  # the service itself ends a task at its limit, and a machine takes a while to stop and report


class SystemClock:
    """The real clock: wall time for records, monotonic time for deadlines."""

    def now(self) -> datetime:
        """Return the wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        time.sleep(seconds)


def pace(executor: ExecutorName, *, spec: JobSpec, settings: Settings) -> dict[str, float]:
    """Choose the arguments ``poll_s``, ``timeout_s`` and ``queue_timeout_s`` of :func:`wait` for a job.

    Parameters
    ----------
    executor
        Where the job runs.
    spec
        The job, whose own time limit is taken over.
    settings
        Other limits, and pauses.

    Returns
    -------
    Keyword arguments of :func:`wait`.
    """
    if executor == "batch":
        batch = settings.batch
        return {
            "poll_s": batch.poll_interval_s,
            "timeout_s": spec.timeout_s + _MARGIN_S,
            "queue_timeout_s": batch.queue_timeout_s,
        }
    return {"poll_s": settings.jobs.poll_s, "timeout_s": spec.timeout_s, "queue_timeout_s": spec.timeout_s}


def wait(
    job: JobHandle,
    *,
    executor: Executor,
    clock: Clock,
    timeout_s: float,
    poll_s: float,
    queue_timeout_s: float | None = None,
    on_status: Callable[[JobStatus], None] | None = None,
) -> JobStatus:
    """Block until ``job`` ends well.

    Parameters
    ----------
    job
        From :meth:`Executor.submit`.
    executor
        Where it runs.
    clock
        Tells the time, and sleeps.
    timeout_s
        Longest run in seconds by the monotonic clock, so that setting the wall clock changes nothing. The count starts
        again with each attempt and with each finished task.
    poll_s
        Shortest pause in seconds between two looks; pauses grow to a twentieth of the wait, and to ten times that.
    queue_timeout_s
        Longest wait for a machine in seconds, counted separately and again for each attempt; None takes ``timeout_s``.
    on_status
        Called with each status, to show progress.

    Returns
    -------
    The last status, which is ``succeeded``.

    Raises
    ------
    ApprovalNeededError
        The job lost its machine, and the next attempt needs consent that this call does not have.
    JobFailedError
        The job failed or was cancelled, or a limit passed, in which case it is cancelled. ``facts`` hold the state, the
        exit code, the end of the log and the address of the job's page.
    """
    limits = {True: timeout_s, False: timeout_s if queue_timeout_s is None else queue_timeout_s}
    spent: dict[object, float] = {}
    phase: object = None
    began = before = clock.monotonic()
    while True:
        status = executor.tend(job)
        if on_status is not None:
            on_status(status)
        if status.is_terminal:
            break
        if status.needs_approval:  # waiting brings no consent
            raise ApprovalNeededError(status.needs_approval, job_id=job.job_id)
        now, is_running = clock.monotonic(), status.state == "running"
        spent[phase] = spent.get(phase, 0.0) + now - before
        before, phase = now, (status.attempt, is_running, status.n_done)
        if spent.get(phase, 0.0) >= limits[is_running]:
            ended = executor.cancel(job)
            if ended.state != "succeeded":  # it may have ended well in between
                raise _too_late(job, ended, last=status, limit_s=limits[is_running])
            return ended
        clock.sleep(min(max(poll_s, (now - began) / _PART_OF_WAIT), poll_s * 10))
    if status.state != "succeeded":
        why, page = status.detail or "no reason given", f" ({status.console})" if status.console else ""
        msg = f"job {job.job_id} {status.state}: {why}. Resume the run to try again{page}"
        raise JobFailedError(msg, **_facts(job, status))
    return status


def _too_late(job: JobHandle, ended: JobStatus, *, last: JobStatus, limit_s: float) -> JobFailedError:
    """The error for a job that was cancelled at a limit, with the setting to raise."""
    setting = "jobs.timeout_s" if last.state == "running" else "batch.queue_timeout_s"
    setting = setting if job.executor == "batch" else "jobs.timeout_s"
    why = f" ({last.detail})" if last.detail and last.state != "running" else ""
    msg = (
        f"job {job.job_id} was still {last.state} after {limit_s:g} s{why} and was cancelled; finished "
        f"predictions are kept: raise {setting} and resume the run"
    )
    facts = _facts(job, last) | {"log_tail": last.log_tail or ended.log_tail}
    return JobFailedError(msg, **facts)


def _facts(job: JobHandle, status: JobStatus) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "state": status.state,
        "exit_code": status.exit_code,
        "log_tail": status.log_tail,
        "console": status.console,
    }
