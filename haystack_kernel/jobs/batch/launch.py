"""Starting the attempts of a job: the intent first, then the request, however often it has to be asked.

In: a JobSpec, the number of the attempt. Out: an Attempt on record, and its job in the cloud.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jobs.batch.attempts import Attempt, Confirmed, Ending, Ledger, attempt_id, rung_of
from haystack_kernel.jobs.batch.machines import machine_of
from haystack_kernel.jobs.batch.request import build_request
from haystack_kernel.jobs.batch.service import AbsentError, RefusedError, TakenError
from haystack_kernel.jobs.batch.watch import check_same
from haystack_kernel.jobs.cost import bill_of, n_shards
from haystack_kernel.jobs.outputs import is_complete, missing_tasks, read_manifest, write_part
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from haystack_kernel.jobs.batch.service import BatchService
    from haystack_kernel.jobs.places import Places
    from haystack_kernel.ports import Clock
    from haystack_kernel.schema import JobSpec, Settings


class Launcher:
    """Makes attempts.

    Parameters
    ----------
    service
        The cloud.
    settings
        Storage and section ``batch``.
    places
        Manifests and outputs.
    clock
        Stamps the intents.
    """

    def __init__(self, service: BatchService, settings: Settings, *, places: Places, clock: Clock) -> None:
        self._service = service
        self._places = places
        self._settings = settings
        self._clock = clock

    def folder(self, run_id: str, job_id: str) -> str:
        """Where the attempts of a job are recorded."""
        return f"{self._settings.storage}/{layout.RUNS}/{run_id}/{layout.job_folder(job_id)}"

    def intend(self, ledger: Ledger, spec: JobSpec, *, number: int, first: int) -> Attempt:
        """Record what the attempt will be, or take what another process recorded under that number.

        A further attempt of a job with several shards gets a manifest of the tasks that are missing, so that no
        machine starts to find nothing to do.
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
        return ledger.intend(attempt)

    def create(self, ledger: Ledger, attempt: Attempt) -> None:
        """Ask for the attempt's job, unless the cloud is known to have it: it takes an id once.

        Raises
        ------
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
        request = build_request(attempt, self._settings.batch)
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
        """Ask the cloud to stop the attempt's job; one that never came to be, or has ended, is let be."""
        request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"cancel {attempt.job_id}"))
        with suppress(AbsentError, RefusedError):
            self._service.cancel(attempt.job_id, request_id)

    def is_complete(self, attempt: Attempt) -> bool:
        """Whether every output of the job has been published whole."""
        if attempt.spec.kind != "inference":
            return False
        return is_complete(read_manifest(attempt.spec.manifest_uri, self._places), self._places)

    def _part_uri(self, spec: JobSpec, number: int) -> str:
        return f"{self.folder(spec.run_id, spec.job_id)}/attempt-{number:04d}.manifest.json"
