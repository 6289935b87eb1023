"""Jobs on Google Cloud Batch, owned by the client: started once, followed from anywhere, tried again within bounds.

In: a JobSpec. Out: cloud jobs whose ids follow from it. Before anything is asked of the cloud the intent is recorded
in the run folder by a file that only one process can create, and the cloud takes an id only once, so a lost answer, a
killed kernel or a second orchestrator finds the job instead of buying another. The service itself never retries a task
(its retries overwrite logs and hide what happened); :meth:`BatchExecutor.tend` starts the next attempt, under an id of
its own and one rung further on the ladder (zones, Spot, on demand), only for what the machine did to the task, never
for what the program did. The inference program publishes each output whole, with a digest, as it finishes, and skips
it when it is there, so an attempt costs what is still missing and no finished task is paid twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from haystack_kernel.errors import ConflictError, ServiceError
from haystack_kernel.jobs.batch.attempts import Attempt, Ending, Ledger, attempt_id, rung_of
from haystack_kernel.jobs.batch.events import HOPELESS, RETRYABLE, read_job
from haystack_kernel.jobs.batch.launch import Launcher
from haystack_kernel.jobs.batch.logs import LogReader
from haystack_kernel.jobs.batch.request import APP, check_settings
from haystack_kernel.jobs.batch.service import BatchService, require_batch
from haystack_kernel.jobs.batch.watch import UNCONFIRMED, Seen, Watch, seen_of
from haystack_kernel.jobs.cost import estimate_cost
from haystack_kernel.jobs.places import Places
from haystack_kernel.jobs.spec import expected_handle, run_id_of
from haystack_kernel.schema import JobStatus

if TYPE_CHECKING:
    from haystack_kernel.ports import Clock
    from haystack_kernel.schema import JobHandle, JobSpec, Settings

_CANCEL_POLL_S, _CANCEL_PATIENCE_S = 5.0, 900.0


class BatchExecutor:
    """Implements :class:`haystack_kernel.ports.Executor` on Google Cloud Batch.

    Parameters
    ----------
    settings
        Storage, where the intents are kept, and section ``batch``. Nothing is imported or opened before the first
        job, so a machine without the extra ``gcp`` can build it.
    clock
        Deadlines and pauses.
    """

    name = "batch"

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._service = BatchService(settings.batch, clock=clock)
        self._watch = Watch(self._service, settings.batch, clock=clock)
        self._places = Places(settings.bucket.patience_s, clock=clock)
        self._launcher = Launcher(self._service, settings, places=self._places, clock=clock)
        self._logs = LogReader(settings.batch.project, clock=clock, connect=self._service.logging_client)

    def submit(self, spec: JobSpec) -> JobHandle:
        """Start the job, or attach to the attempt that waits, runs or has succeeded.

        Raises
        ------
        InvalidInputError
            A setting is missing or wrong, or the service refuses the request; nothing was started.
        ConflictError
            The run folder or the cloud has another job of this id.
        ServiceError
            The cloud cannot be asked; calling again finds what was started.
        """
        require_batch()
        check_settings(spec, self._settings.batch)
        run_id_of(spec.job_id)
        folder = self._launcher.folder(spec.run_id, spec.job_id)
        ledger = self._ledger(folder)
        attempt = ledger.newest()
        if attempt is None:
            attempt = self._launcher.intend(ledger, spec, number=1, first=1)
        elif attempt.spec.spec_hash != spec.spec_hash:
            msg = f"{folder} holds job {spec.job_id} made from another spec; start a new run"
            raise ConflictError(msg, job_id=spec.job_id)
        else:
            seen = self._watch.look(ledger, attempt)
            if seen.has_ended and self._end(ledger, attempt, seen).state != "succeeded":
                attempt = self._launcher.intend(ledger, spec, number=attempt.number + 1, first=attempt.number + 1)
        self._launcher.create(ledger, attempt)
        handle = expected_handle(spec, executor="batch", now=self._clock.now())
        return handle.model_copy(update={"location": self._service.name(attempt.job_id)})

    def status(self, job: JobHandle) -> JobStatus:
        """State now, with the end of the log; an attempt that :meth:`tend` would follow by another counts as queued."""
        ledger = self._ledger_of(job)
        attempt = ledger.newest()
        if attempt is None:
            return _no_trace(job)
        try:
            seen = self._watch.look(ledger, attempt)
        except ServiceError as error:
            return self._status(ledger, attempt, Seen("unknown", detail=str(error)))
        if self._goes_on(ledger, attempt, seen):
            seen = Seen("queued", detail=f"{seen.detail}; the next attempt starts when the run is worked on")
        return self._status(ledger, attempt, seen, with_log=True)

    def tend(self, job: JobHandle) -> JobStatus:
        """State now, after doing what the job needs: asking again for what was never confirmed, the next attempt.

        Raises
        ------
        ServiceError
            The credentials are refused. A cloud that is out of reach for now is no error: the state is unknown.
        InvalidInputError, ConflictError
            As :meth:`submit`.
        """
        ledger = self._ledger_of(job)
        attempt = ledger.newest()
        if attempt is None:
            return _no_trace(job)
        try:
            return self._tend(ledger, attempt)
        except ServiceError as error:
            if not error.facts.get("retryable"):
                raise
            return self._status(ledger, attempt, Seen("unknown", detail=str(error)))

    def cancel(self, job: JobHandle) -> JobStatus:
        """Stop the job, wait until it has stopped, and keep its record; no further attempt follows."""
        ledger = self._ledger_of(job)
        attempt = ledger.newest()
        if attempt is None:
            return _no_trace(job)
        seen = self._watch.look(ledger, attempt)
        if self._goes_on(ledger, attempt, seen):  # an attempt of that number that is over keeps others from making it
            self._end(ledger, attempt, seen)
            attempt = self._launcher.intend(ledger, attempt.spec, number=attempt.number + 1, first=attempt.first)
            seen = self._watch.look(ledger, attempt)
        if not seen.has_ended:
            seen = self._stop(ledger, attempt)
        seen = self._end(ledger, attempt, seen)
        if ledger.confirmed(attempt) is None:  # another process may have created it while that was written
            self._launcher.cancel(attempt)
        return self._status(ledger, attempt, seen, with_log=True)

    def orphans(self) -> list[str]:
        """Names of the jobs in the cloud that carry this application's label, live on, and are in no run folder."""
        found = []
        for job in self._service.list("app", APP):
            job_id, run_id = job.name.rpartition("/")[2], job.labels.get("run-id", "")
            reading = read_job(job)
            if reading.state in ("succeeded", "failed", "cancelled"):
                continue
            ledger = self._ledger(self._launcher.folder(run_id, job.labels.get("job", "")))
            known = {attempt_id(job.labels.get("job", ""), number) for number in ledger.numbers()}
            if job_id not in known:
                found.append(job.name)
        return found

    # --- one step on ---

    def _tend(self, ledger: Ledger, attempt: Attempt) -> JobStatus:
        seen = self._watch.look(ledger, attempt)
        if seen.cause == UNCONFIRMED:
            self._launcher.create(ledger, attempt)
            seen = self._watch.look(ledger, attempt)
        if seen.state in ("queued", "scheduled"):
            seen = self._unstick(ledger, attempt, seen)
        if not seen.has_ended:
            return self._status(ledger, attempt, seen)
        seen = self._end(ledger, attempt, seen)
        if not self._goes_on(ledger, attempt, seen):
            return self._status(ledger, attempt, self._last_word(attempt, seen), with_log=seen.state != "succeeded")
        following = self._launcher.intend(ledger, attempt.spec, number=attempt.number + 1, first=attempt.first)
        self._launcher.create(ledger, following)
        detail = f"attempt {following.number}, {following.rung.words}, after: {seen.detail}"
        return self._status(ledger, following, Seen("queued", detail=detail))

    def _unstick(self, ledger: Ledger, attempt: Attempt, seen: Seen) -> Seen:
        """Stop an attempt that waits for what will not come; one that may still come is left alone."""
        hopeless = seen.cause in HOPELESS
        if seen.cause != "stockout":
            self._watch.forget(attempt, "stockout")
        elif self._watch.is_over(attempt, "stockout", patience_s=self._settings.batch.stockout_patience_s):
            hopeless = self._has_elsewhere(attempt)
        if not hopeless:
            return seen
        stopped = self._stop(ledger, attempt)
        if stopped.state != "cancelled":
            return stopped
        return replace(stopped, state="failed", cause=seen.cause, detail=seen.detail)

    def _has_elsewhere(self, attempt: Attempt) -> bool:
        """Whether the next attempt would look for a machine somewhere else; in the same place waiting is better."""
        index, batch = attempt.number - attempt.first + 1, self._settings.batch
        return index < batch.max_attempts and rung_of(attempt.spec, index, batch) != attempt.rung

    def _goes_on(self, ledger: Ledger, attempt: Attempt, seen: Seen) -> bool:
        """Whether another attempt follows one that ended like this: a cause that may pass, attempts and money left."""
        if seen.state != "failed" or seen.cause not in RETRYABLE:
            return False
        if attempt.number - attempt.first + 1 >= self._settings.batch.max_attempts:
            return False
        return self._affords_another(ledger, attempt, seen)

    def _affords_another(self, ledger: Ledger, attempt: Attempt, seen: Seen) -> bool:
        budget = attempt.spec.budget_usd
        if budget is None:
            return True
        bills = {bill.job_id: bill for bill in ledger.bills(since=attempt.first)}
        bills |= {seen.bill.job_id: seen.bill} if seen.bill else {}
        highest = estimate_cost(attempt.spec, self._settings.batch).high_usd
        return sum(bill.usd for bill in bills.values()) + highest <= budget

    def _last_word(self, attempt: Attempt, seen: Seen) -> Seen:
        """Say why no attempt follows where one might have."""
        if seen.cause not in RETRYABLE or seen.state != "failed":
            return seen
        made = attempt.number - attempt.first + 1
        bound = f"{made} of {self._settings.batch.max_attempts} attempts (batch.max_attempts) were made"
        if made < self._settings.batch.max_attempts:
            bound = "another attempt could exceed the cap: raise --max-cost"
        return replace(seen, detail=f"{seen.detail}. {bound}; every one kept what it finished")

    def _end(self, ledger: Ledger, attempt: Attempt, seen: Seen) -> Seen:
        """Record the end. What failed after everything was published whole has succeeded."""
        if seen.is_recorded or not seen.has_ended:
            return seen
        if seen.state == "failed" and self._launcher.is_complete(attempt):
            seen = replace(seen, state="succeeded", detail=f"everything was published before: {seen.detail}")
        bill = seen.bill or self._watch.bill(attempt, state=seen.state, seconds=0.0)
        ending = Ending(state=seen.state, cause=seen.cause, detail=seen.detail, exit_code=seen.exit_code, bill=bill)
        return seen_of(ledger.end(attempt, ending))

    def _stop(self, ledger: Ledger, attempt: Attempt) -> Seen:
        """Cancel what waits or runs and wait until the cloud says that it has ended."""
        self._launcher.cancel(attempt)
        deadline = self._clock.monotonic() + _CANCEL_PATIENCE_S
        while True:
            seen = self._watch.look(ledger, attempt)
            if seen.cause == UNCONFIRMED:
                return Seen("cancelled", detail="cancelled before it was started")
            if seen.has_ended:
                return replace(seen, detail="cancelled") if seen.state == "cancelled" else seen
            if self._clock.monotonic() >= deadline:
                msg = f"job {attempt.job_id} does not stop; look at {self._service.console(attempt.job_id)}"
                raise ServiceError(msg, service="batch", retryable=False)
            self._clock.sleep(_CANCEL_POLL_S)

    # --- where things are ---

    def _ledger_of(self, job: JobHandle) -> Ledger:
        return self._ledger(self._launcher.folder(run_id_of(job.job_id), job.job_id))

    def _ledger(self, folder: str) -> Ledger:
        return Ledger(self._places, folder)

    def _status(self, ledger: Ledger, attempt: Attempt, seen: Seen, *, with_log: bool = False) -> JobStatus:
        bills = {bill.job_id: bill for bill in ledger.bills()}
        bills |= {seen.bill.job_id: seen.bill} if seen.bill else {}
        confirmed = ledger.confirmed(attempt)
        return JobStatus(
            state=seen.state,
            detail=seen.detail,
            exit_code=seen.exit_code,
            n_tasks=attempt.n_shards,
            n_done=seen.n_done,
            log_tail=self._logs.tail(confirmed.uid) if with_log and confirmed else "",
            attempt=attempt.number,
            bills=tuple(bills.values()),
            console=self._service.console(attempt.job_id),
        )


def _no_trace(job: JobHandle) -> JobStatus:
    return JobStatus(state="failed", detail=f"no attempt of job {job.job_id} is recorded in this storage")
