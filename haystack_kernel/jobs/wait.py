"""Waiting for a job, with an injected clock; the only module that sleeps.

In: a job handle and its executor. Out: the final status, or JobFailedError.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from haystack_kernel.errors import JobFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Clock, Executor
    from haystack_kernel.schema import JobHandle, JobStatus


class SystemClock:
    """The real clock: wall time for records, monotonic time for deadlines."""

    def now(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def wait(
    job: JobHandle,
    *,
    executor: Executor,
    clock: Clock,
    timeout_s: float,
    poll_s: float,
    on_status: Callable[[JobStatus], None] | None = None,
) -> JobStatus:
    """Block until ``job`` ends well.

    Parameters
    ----------
    timeout_s
        Longest wait by the monotonic clock, so that a clock set by hand changes nothing.
    poll_s
        First pause between two looks; grows to ten times that.
    on_status
        Called with each status seen, for progress.

    Raises
    ------
    JobFailedError
        It failed, was cancelled, or ``timeout_s`` passed (it is cancelled then); ``facts`` hold state, exit code and
        the end of its log.
    """
    deadline, pause = clock.monotonic() + timeout_s, poll_s
    while True:
        status = executor.tend(job)
        if on_status is not None:
            on_status(status)
        if status.is_terminal:
            break
        if clock.monotonic() >= deadline:
            executor.cancel(job)
            msg = (
                f"job {job.job_id} was still {status.state} after {timeout_s:g} s and was cancelled; finished "
                f"predictions are kept: raise jobs.timeout_s and resume the run"
            )
            raise JobFailedError(msg, job_id=job.job_id, state=status.state, log_tail=status.log_tail)
        clock.sleep(pause)
        pause = min(pause * 1.2, poll_s * 10)
    if status.state != "succeeded":
        msg = f"job {job.job_id} {status.state}: {status.detail or 'no reason given'}. Resume the run to try again"
        raise JobFailedError(
            msg, job_id=job.job_id, state=status.state, exit_code=status.exit_code, log_tail=status.log_tail
        )
    return status
