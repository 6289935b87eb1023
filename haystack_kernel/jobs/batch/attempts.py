"""The attempts of one job: what was tried on which machine, what is tried next, and the files that record it.

In: a job's folder in the run folder. Out: Attempt and Ending records. Each attempt has up to three small files.
``attempt-0001.json`` is the intent. It is created exclusively before anything is asked of the cloud, so that only one
of two processes starts the attempt. ``attempt-0001.job.json`` follows once the cloud has confirmed the job, and
``attempt-0001.end.json``, with the bill, once the attempt has ended.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from haystack_kernel.errors import ContractError
from haystack_kernel.jobs.batch.machines import machine_of
from haystack_kernel.schema import Bill, Frozen, JobSpec, JobState, Provisioned
from haystack_kernel.schema.jobs import PROVISIONING_WORDS

if TYPE_CHECKING:
    from haystack_kernel.jobs.places import Places
    from haystack_kernel.schema import BatchSettings

    Record = TypeVar("Record", bound=Frozen)


class Rung(Provisioned):
    """One step of the ladder: where an attempt may run, and how its machines are provisioned."""

    locations: tuple[str, ...]

    @property
    def words(self) -> str:
        """The rung as words of a sentence."""
        places = ", ".join(name.split("/")[1] for name in self.locations)
        return f"{PROVISIONING_WORDS[self.provisioning]} in {places}"


class Attempt(Frozen):
    """One cloud job as it was intended."""

    number: int
    first: int
    """Number of the first attempt of the same submission: the ladder starts there."""
    job_id: str
    spec: JobSpec
    command: tuple[str, ...]
    tasks: tuple[str, ...] | None = None
    """Ids of the tasks of a part manifest; None means the whole manifest of the spec."""
    n_shards: int
    machine: str
    rung: Rung
    highest_usd: float | None = None
    """What the attempt reserves of its owner's cap until its bill is known; None in records of earlier versions."""
    created_at: datetime


class Confirmed(Frozen):
    """Confirms that the cloud has the job, and names it."""

    name: str
    uid: str


class Ending(Frozen):
    """How an attempt ended, and what it cost."""

    state: JobState
    cause: str
    detail: str
    exit_code: int | None = None
    bill: Bill


def attempt_id(job_id: str, number: int) -> str:
    """Cloud id of an attempt: the first has the job's own id, others an id of the same length derived from it."""
    if number == 1:
        return job_id
    tag = hashlib.sha256(f"{job_id}\n{number}".encode()).hexdigest()[:8]
    return f"{job_id.rpartition('-')[0]}-{tag}"


def ladder(spec: JobSpec, settings: BatchSettings) -> list[Rung]:
    """List where the attempts of a submission run, in order; the last rung holds for all further attempts.

    Spot machines come first (one attempt in each zone, or a few in the region), then a flex-start machine, then
    machines on demand: one attempt in each zone unless Spot was tried there, then all zones at once, or the region. An
    orchestrator runs on demand only, because nobody may be there to restart it. Flex start is for machines with a GPU;
    Batch supports it because an attempt names a single machine type.
    """
    zones: list[tuple[str, ...]] = [(f"zones/{zone}",) for zone in settings.zones]
    everywhere = tuple(place for (place,) in zones) or (f"regions/{settings.region}",)
    steps = []
    if spec.kind == "inference":
        if settings.spot:
            steps = [
                Rung(provisioning="spot", locations=zone) for zone in zones or [everywhere] * settings.spot_attempts
            ]
            zones = []
        if settings.flex_start and machine_of(spec, settings).accelerator:
            steps.append(Rung(provisioning="flex_start", locations=everywhere))
    return [*steps, *(Rung(provisioning="on_demand", locations=place) for place in (*zones, everywhere))]


def rung_of(spec: JobSpec, index: int, settings: BatchSettings) -> Rung:
    """Return the rung of a submission's attempt number ``index``, counted from 0.

    The limit on attempts shortens the ladder in its middle, so that the last attempt allowed runs on demand.
    """
    rungs = ladder(spec, settings)
    is_last = index >= settings.max_attempts - 1 and settings.max_attempts > 1
    return rungs[-1] if is_last else rungs[min(index, len(rungs) - 1)]


class Ledger:
    """The record of the attempts of one job, on a disk or in a bucket.

    Parameters
    ----------
    places
        Reads and writes the files.
    folder
        Address of ``<run folder>/jobs/<job id>``.
    """

    def __init__(self, places: Places, folder: str) -> None:
        self._places = places
        self._folder = folder

    def numbers(self) -> list[int]:
        """Numbers of the recorded attempts, in order."""
        names = self._places.names(self._folder)
        stems = (name.removeprefix("attempt-").removesuffix(".json") for name in names)
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def newest(self) -> Attempt | None:
        """The newest attempt, which is the one that counts; None before the first."""
        numbers = self.numbers()
        return self._read(self._path(numbers[-1]), Attempt) if numbers else None

    def attempts(self) -> list[Attempt]:
        """All attempts, in order."""
        found = [self._read(self._path(number), Attempt) for number in self.numbers()]
        return [attempt for attempt in found if attempt is not None]

    def intend(self, attempt: Attempt) -> Attempt:
        """Record the intent and return the recorded attempt of that number, which another process may have made."""
        path = self._path(attempt.number)
        if self._places.create(path, _dump(attempt)):
            return attempt
        return self._read(path, Attempt) or attempt

    def confirm(self, attempt: Attempt, confirmed: Confirmed) -> None:
        """Record that the cloud has the attempt's job."""
        self._places.write(self._path(attempt.number, "job"), _dump(confirmed))

    def confirmed(self, attempt: Attempt) -> Confirmed | None:
        """What the cloud calls the attempt's job; None while that is not known."""
        return self._read(self._path(attempt.number, "job"), Confirmed)

    def end(self, attempt: Attempt, ending: Ending) -> Ending:
        """Record how the attempt ended; the first record is kept."""
        path = self._path(attempt.number, "end")
        if self._places.create(path, _dump(ending)):
            return ending
        return self._read(path, Ending) or ending

    def ending(self, attempt: Attempt) -> Ending | None:
        """How the attempt ended; None while it has not ended, or its end was not seen yet."""
        return self._read(self._path(attempt.number, "end"), Ending)

    def bills(self) -> list[Bill]:
        """Bills of the attempts that have ended."""
        endings = [self._read(self._path(number, "end"), Ending) for number in self.numbers()]
        return [ending.bill for ending in endings if ending is not None]

    def _path(self, number: int, part: str = "") -> str:
        return f"{self._folder}/attempt-{number:04d}{f'.{part}' if part else ''}.json"

    def _read(self, path: str, kind: type[Record]) -> Record | None:
        try:
            data = self._places.read(path)
        except FileNotFoundError:
            return None
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            msg = f"{path} was written by another version of HAYSTACK ({error.error_count()} fields differ); use that"
            raise ContractError(msg, path=path) from error


def _dump(record: Frozen) -> bytes:
    return record.model_dump_json(indent=1).encode()
