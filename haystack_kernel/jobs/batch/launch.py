"""Start the attempts of a job: check the consent, record the intent, then send the request.

In: a JobSpec and the number of the attempt. Out: a recorded Attempt with its job in the cloud, or ApprovalNeededError.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from haystack_kernel.errors import ApprovalNeededError, InvalidInputError
from haystack_kernel.jobs.batch.attempts import Attempt, Confirmed, Ending, Ledger, attempt_id, rung_of
from haystack_kernel.jobs.batch.machines import machine_of
from haystack_kernel.jobs.batch.request import build_request
from haystack_kernel.jobs.batch.service import AbsentError, RefusedError, TakenError
from haystack_kernel.jobs.batch.watch import check_same
from haystack_kernel.jobs.cost import bill_of, estimate_attempt, n_shards
from haystack_kernel.jobs.outputs import is_complete, missing_tasks, read_manifest, write_part
from haystack_kernel.jobs.spending import read_spending
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from haystack_kernel.jobs.batch.service import BatchService
    from haystack_kernel.jobs.consent import SpendingGate
    from haystack_kernel.jobs.places import Places
    from haystack_kernel.ports import Clock
    from haystack_kernel.schema import JobOwner, JobSpec, Settings

_OWNERS = {"run": layout.RUNS, "campaign": layout.CAMPAIGNS}


class Launcher:
    """Makes attempts; the only caller of the service's ``create_job``.

    Parameters
    ----------
    service
        The cloud.
    settings
        Storage and section ``batch``.
    places
        Reads and writes manifests, outputs and records.
    clock
        Gives the times of the intents.
    gate
        Checks the consent right before anything is created.
    """

    def __init__(
        self, service: BatchService, settings: Settings, *, places: Places, clock: Clock, gate: SpendingGate
    ) -> None:
        self._service = service
        self._places = places
        self._settings = settings
        self._clock = clock
        self._gate = gate

    def owner_folder(self, owner: JobOwner) -> str:
        """Address of the run folder or campaign folder."""
        return f"{self._settings.storage}/{_OWNERS[owner.kind]}/{owner.id}"

    def folder(self, owner: JobOwner, job_id: str) -> str:
        """Address of the folder in which the attempts of a job are recorded."""
        return f"{self.owner_folder(owner)}/{layout.job_folder(job_id)}"

    def plan(self, spec: JobSpec, *, number: int, first: int) -> Attempt:
        """Plan an attempt; nothing is recorded yet.

        A further attempt of a job with several shards gets a manifest of the missing tasks alone, so that no machine
        starts and then finds nothing to do.
        """
        batch = self._settings.batch
        shards = n_shards(spec.n_tasks, batch) if spec.kind == "inference" else 1
        command, tasks = spec.command, None
        if number > 1 and shards > 1:
            tasks = missing_tasks(read_manifest(spec.manifest_uri, self._places), self._places) or None
            shards = n_shards(len(tasks), batch) if tasks else 1  # none is missing: the program checks what is there
        if tasks:
            part = self._part_uri(spec, number)
            command = tuple(part if word == spec.manifest_uri else word for word in spec.command)
        attempt = Attempt(
            number=number,
            first=first,
            job_id=attempt_id(spec.job_id, number),
            spec=spec,
            command=command,
            tasks=tasks,
            n_shards=shards,
            machine=machine_of(spec, batch).name,
            rung=rung_of(spec, number - first, batch),
            created_at=self._clock.now(),
        )
        return attempt.model_copy(update={"highest_usd": estimate_attempt(attempt, batch).high_usd})

    def check_consent(self, attempt: Attempt) -> None:
        """Raise ApprovalNeededError unless the attempt may be created now, given what else its owner has spent."""
        batch = self._settings.batch
        spending = read_spending(self.owner_folder(attempt.spec.owner), places=self._places, settings=batch)
        self._gate.check(attempt.spec, estimate_attempt(attempt, batch), spending.without(attempt.job_id))

    def start(self, ledger: Ledger, spec: JobSpec, *, number: int, first: int) -> Attempt:
        """Record the next attempt, or take the one that another process recorded, and create its job.

        Raises
        ------
        ApprovalNeededError
            Consent is lacking, or a cap is too low for the attempt; nothing was started.
        """
        planned = self.plan(spec, number=number, first=first)
        self.check_consent(planned)  # so that an attempt without consent leaves no trace
        attempt = ledger.intend(planned)
        try:
            self.create(ledger, attempt)
        except ApprovalNeededError as error:
            # Another process has reserved the same money in between. This attempt is withdrawn, so that two attempts
            # that each found room under the cap never both go on.
            if attempt is planned:
                bill = bill_of(attempt, self._settings.batch, state="not started", seconds=0.0)
                ledger.end(attempt, Ending(state="failed", cause="unapproved", detail=str(error), bill=bill))
            raise
        return attempt

    def create(self, ledger: Ledger, attempt: Attempt) -> None:
        """Ask for the attempt's job, unless the cloud is known to have it; the cloud accepts an id only once.

        Raises
        ------
        ApprovalNeededError
            As :meth:`start`. An attempt that was never confirmed needs the consent of the call that asks again.
        InvalidInputError
            The service refuses the request for good; nothing was started, and the attempt has ended.
        ConflictError
            The id belongs to a job made from another spec.
        """
        if ledger.confirmed(attempt) or ledger.ending(attempt):
            return
        if attempt.tasks:
            whole = read_manifest(attempt.spec.manifest_uri, self._places)
            write_part(self._part_uri(attempt.spec, attempt.number), whole, tasks=attempt.tasks, places=self._places)
        self.check_consent(attempt)
        request = build_request(
            attempt, self._settings.batch, storage=self._settings.storage, consent=self._gate.consent
        )
        try:
            job = self._service.create(request)
        except TakenError:
            job = self._service.get(attempt.job_id)
            check_same(job, attempt)
        except (RefusedError, AbsentError) as error:
            detail = f"Google Cloud Batch refuses the job ({error}); nothing was started. Check section batch"
            bill = bill_of(attempt, self._settings.batch, state="refused", seconds=0.0)
            ledger.end(attempt, Ending(state="failed", cause="invalid", detail=detail, bill=bill))
            raise InvalidInputError(detail, job_id=attempt.job_id) from error
        ledger.confirm(attempt, Confirmed(name=job.name, uid=job.uid))
        if ledger.ending(attempt):  # cancelled by another process before the cloud knew of it
            self.cancel(attempt)

    def cancel(self, attempt: Attempt) -> None:
        """Ask the cloud to stop the attempt's job; a job that never existed, or has ended, is left alone."""
        self.cancel_job(attempt.job_id)

    def cancel_job(self, job_id: str) -> None:
        """Ask the cloud to stop the job of this id, as :meth:`cancel` does."""
        request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"cancel {job_id}"))
        with suppress(AbsentError, RefusedError):
            self._service.cancel(job_id, request_id)

    def is_complete(self, attempt: Attempt) -> bool:
        """Whether every output of the job has been published whole."""
        if attempt.spec.kind != "inference":
            return False
        return is_complete(read_manifest(attempt.spec.manifest_uri, self._places), self._places)

    def _part_uri(self, spec: JobSpec, number: int) -> str:
        return f"{self.folder(spec.owner, spec.job_id)}/attempt-{number:04d}.manifest.json"
