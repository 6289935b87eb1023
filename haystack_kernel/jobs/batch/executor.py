"""Jobs on Google Cloud Batch, owned by the client: started once, followed from anywhere, retried within limits.

In: a JobSpec. Out: cloud jobs whose ids follow from it. Every attempt passes the gate of
:mod:`haystack_kernel.jobs.consent`: nothing is created without consent from the current call. Before anything is asked
of the cloud, the intent is recorded in the run folder by a file that only one process can create, and the cloud accepts
an id only once. After a lost answer or a killed kernel, or when a second orchestrator starts, the existing job is
therefore found, and no other one is paid for. The service itself never retries a task, because its retries overwrite
logs and hide what happened. :meth:`BatchExecutor.tend` starts the next attempt, under its own id and one rung further
on the ladder (Spot, flex start, on demand), only after faults of the machine, never after faults of the program. The
inference program publishes each output whole, with a digest, as soon as it is finished, and skips outputs that exist.
An attempt therefore costs only what is still missing, and no finished task is paid for twice.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from haystack_kernel.errors import ApprovalNeededError, ConflictError, ServiceError
from haystack_kernel.jobs.batch.attempts import Attempt, Ending, Ledger, rung_of
from haystack_kernel.jobs.batch.events import HOPELESS, PASSING, RETRYABLE, explain_hang, read_job
from haystack_kernel.jobs.batch.launch import Launcher
from haystack_kernel.jobs.batch.logs import LogReader
from haystack_kernel.jobs.batch.request import APP, check_settings, storage_tag
from haystack_kernel.jobs.batch.service import BatchService, require_batch
from haystack_kernel.jobs.batch.watch import UNCONFIRMED, Seen, Watch, seen_of
from haystack_kernel.jobs.consent import SpendingGate
from haystack_kernel.jobs.places import Places
from haystack_kernel.jobs.spec import check_job_id_form, expected_handle, owner_of
from haystack_kernel.schema import JobOwner, JobStatus
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from haystack_kernel.ports import Clock, Consent
    from haystack_kernel.schema import JobHandle, JobSpec, Settings

_CANCEL_POLL_S, _CANCEL_PATIENCE_S = 5.0, 900.0


@dataclass(frozen=True)
class Orphan:
    """A job that still runs and costs money in the cloud, although no run folder counts on it."""

    name: str
    job_id: str
    owner: str
    kind: str
    state: str
    reason: str
    is_of_this_storage: bool


class BatchExecutor:
    """Implements :class:`haystack_kernel.ports.Executor` on Google Cloud Batch.

    Parameters
    ----------
    settings
        Storage, where the intents are kept, and section ``batch``. Nothing is imported or opened before the first
        job, so the executor can be built on a machine without the extra ``gcp``.
    clock
        Measures deadlines and pauses.
    consent
        Consent of the current call; None means that it gave none, so nothing that costs money is created.
    """

    name = "batch"

    def __init__(self, settings: Settings, *, clock: Clock, consent: Consent | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._service = BatchService(settings.batch, clock=clock)
        self._logs = LogReader(settings.batch.project, clock=clock, connect=self._service.logging_client)
        self._watch = Watch(self._service, settings.batch, clock=clock, logs=self._logs)
        self._places = Places(settings.bucket.patience_s, clock=clock)
        gate = SpendingGate(consent, standing_cap_usd=settings.cost.max_usd)
        self._launcher = Launcher(self._service, settings, places=self._places, clock=clock, gate=gate)

    def submit(self, spec: JobSpec) -> JobHandle:
        """Start the job, or attach to its attempt that waits, runs or has succeeded.

        Raises
        ------
        ApprovalNeededError
            An attempt would have to be created, and consent is lacking or the cap does not hold it.
        InvalidInputError
            A setting is missing or wrong, or the service refuses the request; nothing was started.
        ConflictError
            The run folder or the cloud has another job of this id.
        ServiceError
            The cloud cannot be asked; a later call finds what was started.
        """
        require_batch()
        check_settings(spec, self._settings.batch)
        check_job_id_form(spec.job_id)
        folder = self._launcher.folder(spec.owner, spec.job_id)
        ledger = Ledger(self._places, folder)
        attempt = ledger.newest()
        if attempt is None:
            attempt = self._start(ledger, spec, number=1, first=1)
        elif attempt.spec.spec_hash != spec.spec_hash:
            msg = f"{folder} holds job {spec.job_id} made from another spec; start a new run"
            raise ConflictError(msg, job_id=spec.job_id)
        else:
            seen = self._watch.look(ledger, attempt)
            if seen.has_ended and self._end(ledger, attempt, seen).state != "succeeded":
                attempt = self._start(ledger, spec, number=attempt.number + 1, first=attempt.number + 1)
            else:
                self._launcher.create(ledger, attempt)
        handle = expected_handle(spec, executor="batch", now=self._clock.now())
        return handle.model_copy(update={"location": self._service.name(attempt.job_id)})

    def status(self, job: JobHandle) -> JobStatus:
        """Return the state now, with the end of the log; a job that :meth:`tend` would try again counts as queued."""
        ledger = self._ledger_of(job)
        attempt = ledger.newest()
        if attempt is None:
            return _no_trace(job)
        try:
            seen = self._watch.look(ledger, attempt)
        except ServiceError as error:
            return self._status(ledger, attempt, Seen("unknown", detail=str(error)))
        if not self._goes_on(attempt, seen):
            return self._status(ledger, attempt, seen, with_log=True)
        following = self._launcher.plan(attempt.spec, number=attempt.number + 1, first=attempt.first)
        try:
            self._launcher.check_consent(following)
        except ApprovalNeededError as error:
            return self._waiting(ledger, attempt, seen, error)
        seen = Seen(
            "queued", detail=f"{seen.detail}; the next attempt starts when the run is worked on", bill=seen.bill
        )
        return self._status(ledger, attempt, seen, with_log=True)

    def tend(self, job: JobHandle) -> JobStatus:
        """Do what the job needs, and return its state: ask again for an unconfirmed attempt, or start the next one.

        The next attempt is not started without consent, or if the cap is too low for it: the job then counts as queued,
        and ``needs_approval`` says how to give the consent.

        Raises
        ------
        ServiceError
            The credentials are refused. If the cloud is out of reach for now, the state is unknown instead.
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
        if self._goes_on(attempt, seen):  # recording the next attempt as ended keeps others from starting it
            self._end(ledger, attempt, seen)
            following = self._launcher.plan(attempt.spec, number=attempt.number + 1, first=attempt.first)
            attempt = ledger.intend(following)
            seen = self._watch.look(ledger, attempt)
        if not seen.has_ended:
            seen = self._stop(ledger, attempt)
        seen = self._end(ledger, attempt, seen)
        if ledger.confirmed(attempt) is None:  # another process may have created it in the meantime
            self._launcher.cancel(attempt)
        return self._status(ledger, attempt, seen, with_log=True)

    def orphans(self) -> list[Orphan]:
        """List live cloud jobs of this application that no run folder of this storage counts on.

        A job of another storage may be somebody else's. It is listed as such and must never be cancelled from here.
        """
        found = []
        for job in self._service.list("app", APP):
            reading = read_job(job)
            if reading.state in ("succeeded", "failed", "cancelled") or reading.detail in PASSING.values():
                continue
            job_id, labels = job.name.rpartition("/")[2], dict(job.labels)
            is_ours = labels.get("storage") == storage_tag(self._settings.storage)
            owner = JobOwner(id=labels.get("run-id", ""))
            if "campaign-id" in labels:
                owner = JobOwner(kind="campaign", id=labels["campaign-id"])
            reason = f"it belongs to another storage than {self._settings.storage}"
            if is_ours or "storage" not in labels:  # jobs of earlier versions do not name theirs
                reason = self._why_orphaned(owner, labels.get("job", ""), job_id)
            if reason:
                found.append(
                    Orphan(
                        name=job.name,
                        job_id=job_id,
                        owner=owner.id,
                        kind=labels.get("kind", ""),
                        state=reading.state,
                        reason=reason,
                        is_of_this_storage=is_ours,
                    )
                )
        return found

    def cancel_orphan(self, orphan: Orphan) -> None:
        """Ask the cloud to stop an orphan of this storage; its record in the cloud stays."""
        self._launcher.cancel_job(orphan.job_id)

    def _why_orphaned(self, owner: JobOwner, label: str, job_id: str) -> str:
        """Why no run folder counts on a live job; empty where one does."""
        ledger = Ledger(self._places, self._launcher.folder(owner, label))
        for attempt in ledger.attempts():
            if attempt.job_id == job_id:
                return "its attempt is recorded as ended" if ledger.ending(attempt) else ""
        return f"no attempt of {owner.kind} {owner.id} in {self._settings.storage} is this job"

    # --- one step on ---

    def _tend(self, ledger: Ledger, attempt: Attempt) -> JobStatus:
        """As :meth:`tend`; a cloud that is out of reach raises ServiceError."""
        seen = self._watch.look(ledger, attempt)
        if seen.cause == UNCONFIRMED:
            try:
                self._launcher.create(ledger, attempt)
            except ApprovalNeededError as error:
                return self._waiting(ledger, attempt, seen, error)
            seen = self._watch.look(ledger, attempt)
        if seen.state in ("queued", "scheduled"):
            seen = self._unstick(ledger, attempt, seen)
        if not seen.has_ended:
            return self._status(ledger, attempt, seen)
        seen = self._end(ledger, attempt, seen)
        if not self._goes_on(attempt, seen):
            if seen.state == "failed" and seen.cause in RETRYABLE:  # say why no attempt follows where one might have
                made = attempt.number - attempt.first + 1
                bound = f"{made} of {self._settings.batch.max_attempts} attempts (batch.max_attempts) were made"
                seen = replace(seen, detail=f"{seen.detail}. {bound}; every one kept what it finished")
            return self._status(ledger, attempt, seen, with_log=seen.state != "succeeded")
        try:
            following = self._start(ledger, attempt.spec, number=attempt.number + 1, first=attempt.first)
        except ApprovalNeededError as error:
            return self._waiting(ledger, attempt, seen, error)
        detail = f"attempt {following.number}, {following.rung.words}, after: {seen.detail}"
        return self._status(ledger, following, Seen("queued", detail=detail))

    def _start(self, ledger: Ledger, spec: JobSpec, *, number: int, first: int) -> Attempt:
        """Start an attempt, once the ends of the owner's other jobs are recorded, so that each counts its bill."""
        folder = self._launcher.owner_folder(spec.owner)
        for job_id in self._places.names(f"{folder}/{layout.JOBS}"):
            other = Ledger(self._places, f"{folder}/{layout.job_folder(job_id)}")
            newest = other.newest() if job_id != spec.job_id else None
            if newest is None or other.ending(newest) is not None:
                continue
            with suppress(ServiceError, ConflictError):  # what cannot be asked stays reserved
                self._end(other, newest, self._watch.look(other, newest))
        return self._launcher.start(ledger, spec, number=number, first=first)

    def _waiting(self, ledger: Ledger, attempt: Attempt, seen: Seen, error: ApprovalNeededError) -> JobStatus:
        """The state of a job whose next attempt waits for consent; what it finished is kept."""
        before = f"{seen.detail}; " if seen.has_ended else ""
        detail = f"{before}the next attempt waits for approval: {error}"
        bill = seen.bill if seen.has_ended else None
        status = self._status(ledger, attempt, Seen("queued", detail=detail, bill=bill))
        return status.model_copy(update={"needs_approval": str(error)})

    def _unstick(self, ledger: Ledger, attempt: Attempt, seen: Seen) -> Seen:
        """Stop an attempt that waits for something that will not come; leave any other as it is."""
        batch, index = self._settings.batch, attempt.number - attempt.first + 1
        stuck = self._stuck_in(attempt, seen)
        if seen.cause in HOPELESS or (
            # In the same place it is better to wait for a machine than to ask for it again.
            stuck == "stockout" and index < batch.max_attempts and rung_of(attempt.spec, index, batch) != attempt.rung
        ):
            cause, detail = seen.cause, seen.detail
        elif stuck == "flex_start":
            cause, detail = "stockout", f"no flex-start machine within {batch.flex_start_patience_s:g} s"
        elif stuck == "boot":
            confirmed = ledger.confirmed(attempt)
            cause, detail = explain_hang(self._logs.tail(confirmed.uid) if confirmed else "")
        else:
            return seen
        stopped = self._stop(ledger, attempt)
        if stopped.state != "cancelled":
            return stopped
        bill = stopped.bill
        if cause in ("drivers", "disk", "machine"):  # the machine was there, though the program never ran
            bill = self._watch.bill(attempt, state="failed", seconds=stopped.up_seconds)
        return replace(stopped, state="failed", cause=cause, detail=detail, bill=bill)

    def _stuck_in(self, attempt: Attempt, seen: Seen) -> str:
        """The phase in which an attempt has waited longer than the settings allow; empty if it has not."""
        batch, now = self._settings.batch, ""
        if seen.cause == "stockout":
            now, patience_s = "stockout", batch.stockout_patience_s
        elif not seen.cause and seen.state == "scheduled":
            now, patience_s = "boot", batch.boot_patience_s
        elif not seen.cause and attempt.rung.provisioning == "flex_start":
            # The service may give such a machine at any time within days, and no event says that there is none.
            now, patience_s = "flex_start", batch.flex_start_patience_s
        for what in {"stockout", "boot", "flex_start"} - {now}:
            self._watch.forget(attempt, what)
        return now if now and self._watch.is_over(attempt, now, patience_s=patience_s) else ""

    def _goes_on(self, attempt: Attempt, seen: Seen) -> bool:
        """Whether another attempt follows: this one failed for a cause that may pass, and attempts are left."""
        made = attempt.number - attempt.first + 1
        return seen.state == "failed" and seen.cause in RETRYABLE and made < self._settings.batch.max_attempts

    def _end(self, ledger: Ledger, attempt: Attempt, seen: Seen) -> Seen:
        """Record the end; an attempt that failed after it had published everything counts as succeeded."""
        if seen.is_recorded or not seen.has_ended:
            return seen
        if seen.state == "failed" and self._launcher.is_complete(attempt):
            seen = replace(seen, state="succeeded", detail=f"everything was published before: {seen.detail}")
        bill = seen.bill or self._watch.bill(attempt, state=seen.state, seconds=0.0)
        ending = Ending(state=seen.state, cause=seen.cause, detail=seen.detail, exit_code=seen.exit_code, bill=bill)
        return seen_of(ledger.end(attempt, ending))

    def _stop(self, ledger: Ledger, attempt: Attempt) -> Seen:
        """Cancel an attempt that waits or runs, and wait until the cloud says that it has ended."""
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
        return Ledger(self._places, self._launcher.folder(owner_of(job), job.job_id))

    def _status(self, ledger: Ledger, attempt: Attempt, seen: Seen, *, with_log: bool = False) -> JobStatus:
        bills = {bill.job_id: bill for bill in ledger.bills()}
        accrued = seen.bill if seen.bill and seen.state == "running" else None
        if seen.bill and accrued is None:
            bills[seen.bill.job_id] = seen.bill
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
            accrued=accrued,
            console=self._service.console(attempt.job_id),
        )


def _no_trace(job: JobHandle) -> JobStatus:
    return JobStatus(state="failed", detail=f"no attempt of job {job.job_id} is recorded in this storage")
