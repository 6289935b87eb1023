"""Look at one attempt: combine what the run folder records with what the cloud says.

In: an Attempt and its Ledger. Out: Seen. Nothing is written except the confirmation that the cloud has the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.errors import ConflictError
from haystack_kernel.jobs.batch.attempts import Confirmed
from haystack_kernel.jobs.batch.events import GROUP, read_job
from haystack_kernel.jobs.batch.request import HASH_DIGITS, clean_label
from haystack_kernel.jobs.batch.service import AbsentError
from haystack_kernel.jobs.cost import bill_of

if TYPE_CHECKING:
    from google.cloud import batch_v1

    from haystack_kernel.jobs.batch.attempts import Attempt, Ending, Ledger
    from haystack_kernel.jobs.batch.events import Reading
    from haystack_kernel.jobs.batch.logs import LogReader
    from haystack_kernel.jobs.batch.service import BatchService
    from haystack_kernel.ports import Clock
    from haystack_kernel.schema import BatchSettings, Bill, JobState

UNCONFIRMED = "unconfirmed"
VANISHED = "vanished"
_ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Seen:
    """An attempt at one moment; ``cause`` as in :mod:`haystack_kernel.jobs.batch.events`, or one of the two above."""

    state: JobState
    cause: str = ""
    detail: str = ""
    exit_code: int | None = None
    n_done: int = 0
    bill: Bill | None = None  # final if the attempt has ended, otherwise so far
    up_seconds: float = 0.0  # for which each machine has been paid, whether or not the program ran
    is_recorded: bool = False  # whether its end is in the run folder

    @property
    def has_ended(self) -> bool:
        """Whether the attempt is over."""
        return self.state in _ENDED


class Watch:
    """Looks at attempts, and remembers by the monotonic clock how long each odd state has lasted.

    Parameters
    ----------
    service
        The cloud.
    settings
        Section ``batch``, which says how long to be patient.
    clock
        Measures the patience.
    logs
        Read if a job failed, because they name faults that no exit code tells.
    """

    def __init__(self, service: BatchService, settings: BatchSettings, *, clock: Clock, logs: LogReader) -> None:
        self._service = service
        self._settings = settings
        self._clock = clock
        self._logs = logs
        self._since: dict[tuple[str, str], float] = {}

    def look(self, ledger: Ledger, attempt: Attempt) -> Seen:
        """Return what is known of the attempt now.

        A job that the cloud does not find, or that failed without a reason, counts as unknown for a while: for some
        minutes the cloud may not find a healthy job, or may not yet say why a job failed.

        Raises
        ------
        ConflictError
            The cloud has a job of that id that was made from another spec.
        ServiceError
            The cloud cannot be asked.
        """
        ending = ledger.ending(attempt)
        if ending is not None:
            return seen_of(ending)
        try:
            job = self._service.get(attempt.job_id)
        except AbsentError:
            return self._absent(ledger, attempt)
        self.forget(attempt, "absent")
        check_same(job, attempt)
        if ledger.confirmed(attempt) is None:
            ledger.confirm(attempt, Confirmed(name=job.name, uid=job.uid))
        reading = read_job(job)
        if reading.state == "failed":
            tasks = self._service.tasks(attempt.job_id, GROUP)
            reading = read_job(job, tasks)
            if reading.cause in ("program", "machine", "unknown"):
                reading = read_job(job, tasks, log=self._logs.tail(job.uid))
            if reading.cause == "unknown" and reading.exit_code is None and not self.is_over(attempt, "reason"):
                return Seen("unknown", detail="it failed; the service has not said why yet", n_done=reading.n_done)
        return self._of_reading(reading, attempt)

    def is_over(self, attempt: Attempt, what: str, *, patience_s: float | None = None) -> bool:
        """Whether ``what`` has held for longer than the patience (default ``settle_s``), counted from the first ask."""
        patience_s = self._settings.settle_s if patience_s is None else patience_s
        since = self._since.setdefault((attempt.job_id, what), self._clock.monotonic())
        return self._clock.monotonic() - since >= patience_s

    def forget(self, attempt: Attempt, what: str) -> None:
        """Note that ``what`` no longer holds."""
        self._since.pop((attempt.job_id, what), None)

    def bill(self, attempt: Attempt, *, state: str, seconds: float) -> Bill:
        """Return the bill of an attempt whose machines were each paid for ``seconds``."""
        return bill_of(attempt, self._settings, state=state, seconds=seconds)

    def _absent(self, ledger: Ledger, attempt: Attempt) -> Seen:
        """What is known of an attempt whose job the cloud does not find."""
        if ledger.confirmed(attempt) is None:
            return Seen("queued", UNCONFIRMED, "recorded, not yet known to the cloud")
        if not self.is_over(attempt, "absent"):
            return Seen("unknown", detail="the cloud does not find the job it had")
        detail = f"job {attempt.job_id} vanished from the cloud: somebody deleted it; what it published is kept"
        bill = self.bill(attempt, state="vanished: its time limit is counted", seconds=attempt.spec.timeout_s)
        return Seen("failed", VANISHED, detail, bill=bill)

    def _of_reading(self, reading: Reading, attempt: Attempt) -> Seen:
        """What a reading of the cloud's job says of the attempt, with its bill."""
        detail = reading.detail
        if reading.state == "cancelled":
            detail = "cancelled from outside this run (console, gcloud or another process)"
        if reading.state == "failed" and reading.last_events:
            detail = f"{detail}. Last events: {' | '.join(reading.last_events)}"
        bill = None
        if reading.state in _ENDED:
            bill = self.bill(attempt, state=reading.state, seconds=reading.seconds)
        elif reading.state == "running" and reading.up_since is not None:
            # The clock of the cloud and that of this machine may differ, but no job is older than its intent.
            now, intended = self._clock.now().timestamp(), attempt.created_at.timestamp()
            so_far = max(now - max(reading.up_since, intended), 0.0)
            bill = self.bill(attempt, state="running: so far", seconds=so_far)
        return Seen(
            reading.state,
            reading.cause,
            detail,
            reading.exit_code,
            reading.n_done,
            bill,
            up_seconds=reading.up_seconds,
        )


def check_same(job: batch_v1.Job, attempt: Attempt) -> None:
    """Raise ConflictError unless ``job`` was made from the attempt's spec."""
    wanted, found = clean_label(attempt.spec.spec_hash[:HASH_DIGITS]), job.labels.get("spec-hash", "")
    if found != wanted:
        msg = (
            f"the cloud has a job {attempt.job_id} made from another spec (label spec-hash {found or 'absent'}, "
            f"expected {wanted}); start a new run, or delete that job if it is a leftover"
        )
        raise ConflictError(msg, job_id=attempt.job_id, expected=wanted, found=found)


def seen_of(ending: Ending) -> Seen:
    """Return an end from the record."""
    return Seen(ending.state, ending.cause, ending.detail, ending.exit_code, bill=ending.bill, is_recorded=True)
