"""A run watched while another process works on it: phases with their times, queue and work apart, money, log.

In: a run id. Out: a :class:`Look` at each call; the run folder and the job are only asked, never changed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import HaystackError, NotFoundError
from haystack_kernel.report.words import counted, span
from haystack_kernel.run import Run
from haystack_kernel.steering import orchestrator_status
from haystack_kernel.store import check_run_id, finished_like, layout
from inference.manifest import RESULT_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import Bill, JobStatus, RunConfig, RunRecord, Settings

PHASES = {  # phase: the steps that belong to it, in order
    "question": ("understand", "edit"),
    "search": ("retrieve",),
    "cells": ("choose", "assemble"),
    "prediction": ("submit", "collect"),
    "score": ("ground", "decide"),
    "report": ("interpret", "publish"),
}
_PHASE_OF = {step: phase for phase, steps in PHASES.items() for step in steps}
_IN_ROUND = ("cells", "prediction", "score")
_POLL_S = {"local": 0.5, "batch": 5.0}  # the cloud is asked less often


@dataclass(frozen=True)
class Phase:
    """One part of a run: ``usual_s`` is the median of earlier runs, None where there are none like it."""

    name: str
    round: int | None
    state: Literal["done", "now", "waiting", "stopped"]
    seconds: float = 0.0
    usual_s: float | None = None
    n_done: int = 0
    n_tasks: int = 0

    @property
    def title(self) -> str:
        """The phase in words, with its round."""
        return self.name if self.round is None else f"round {self.round}: {self.name}"

    @property
    def fraction(self) -> float | None:
        """Share that is done, by tasks where they are counted, else by the usual time; None where nothing tells."""
        if self.state in ("done", "waiting"):
            return float(self.state == "done")
        if self.n_tasks:
            return self.n_done / self.n_tasks
        return min(self.seconds / self.usual_s, 0.95) if self.usual_s else None

    @property
    def left_s(self) -> float | None:
        """Seconds that are left by earlier runs; None where there is none, or where it takes longer than usual."""
        if self.state == "done":
            return 0.0
        if self.usual_s is None or self.seconds > self.usual_s:
            return None
        return self.usual_s - self.seconds


@dataclass(frozen=True)
class Look:
    """Where a run stands at one moment.

    ``queue_s`` and ``machine_s`` are seconds that the newest job waited for a machine and that machines worked on it;
    None before the first job. ``spent_usd`` holds what is billed and what runs now. ``left_s`` is None where no earlier
    run tells.
    """

    record: RunRecord
    state: Mapping[str, Any]
    phases: tuple[Phase, ...]
    seen_at: datetime
    elapsed_s: float
    left_s: float | None = None
    queue_s: float | None = None
    machine_s: float | None = None
    spent_usd: float = 0.0
    attempts: tuple[Bill, ...] = ()
    job: JobStatus | None = None
    log: str = ""

    @property
    def status(self) -> str:
        """Status as shown: ``interrupted`` where nobody works on a run that is not finished."""
        return str(self.state["status"])

    @property
    def is_over(self) -> bool:
        """Whether nothing changes any more unless somebody goes on with the run."""
        return self.status != "running"


class Watch:
    """Looks at one run again and again, with as few reads as that takes.

    Parameters
    ----------
    run_id
        The run.
    storage
        Where the run folders are; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    ports
        None builds them from the settings.

    Raises
    ------
    NotFoundError
        No such run in this storage.

    Examples
    --------
    >>> Watch("run-20260102t030405-1a2b3c").look().status  # doctest: +SKIP
    'running'
    """

    def __init__(
        self,
        run_id: str,
        *,
        storage: str | None = None,
        settings: Settings | None = None,
        ports: Ports | None = None,
    ) -> None:
        self._ports = ports or connect(settings or load_settings(storage=storage))
        self.run = Run(self._ports.store.load(check_run_id(run_id)), ports=self._ports)
        self._usual: Usual | None = None

    @property
    def poll_s(self) -> float:
        """Seconds between two looks that do not ask too much of the storage and of the cloud."""
        pause = _POLL_S[self.run.record.config.executor]
        return max(pause, 2.0) if "://" in self._ports.settings.storage else pause

    @property
    def cap_usd(self) -> float | None:
        """Cap of the settings on what a run may cost; None where there is none, or where the run is free."""
        is_free = self.run.record.config.executor == "local"
        return None if is_free else self._ports.settings.cost.max_usd

    def look(self) -> Look:
        """Look at the run as it is now."""
        state = self.run.status()  # which reads the record anew
        record, now = self.run.record, self._ports.clock.now()
        if self._usual is None:
            self._usual = usual_times(record.config, self._ports)
        job = self._ask_job() if record.rounds else None
        orchestrator = orchestrator_status(record, self._ports)
        phases = phases_of(record, state=state, now=now, usual=self._usual.seconds, n_done=self._n_done(record))
        bills = (*record.all_bills, *_bills_of(job), *_bills_of(orchestrator))
        known = {(bill.kind, bill.job_id): bill for bill in bills}
        is_running = state["status"] == "running"
        ended = now if is_running or not record.steps else record.steps[-1].finished_at
        queue_s, machine_s = job_times(record, job, now=now)
        tails = [one.log_tail for one in (orchestrator, job) if one is not None and one.log_tail]
        return Look(
            record=record,
            state=state,
            phases=phases,
            seen_at=now,
            elapsed_s=max((ended - record.created_at).total_seconds(), 0.0),
            left_s=_left(phases) if is_running else None,
            queue_s=queue_s,
            machine_s=machine_s,
            spent_usd=sum((bill.usd for bill in known.values()), start=0.0),
            attempts=tuple(known.values()),
            job=job,
            log="\n".join(tail.rstrip() for tail in tails),
        )

    def _n_done(self, record: RunRecord) -> int:
        """Tasks whose outputs are published, while their job is waited for; a result file follows its output."""
        last = record.rounds[-1] if record.rounds else None
        if last is None or last.job is None or last.task_seconds:
            return 0
        folder = f"{layout.round_folder(last.number)}/{layout.OUTPUTS}"
        with suppress(NotFoundError):
            return sum(name.endswith(RESULT_SUFFIX) for name in self._ports.store.names(record.run_id, folder))
        return 0

    def _ask_job(self) -> JobStatus | None:
        with suppress(HaystackError, KeyError):  # a job that cannot be asked from here hides nothing of the run
            return self.run.job_status()
        return None


@dataclass(frozen=True)
class Usual:
    """What earlier finished runs with the same engine and executor took.

    ``seconds`` holds the median of each phase, of one round where it is part of one; ``queue_s`` the shortest and the
    longest wait for a machine, None where no run had a job.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    queue_s: tuple[float, float] | None = None
    n_runs: int = 0

    def total_s(self, *, n_rounds: int) -> float | None:
        """Seconds of a run with so many rounds; None where no earlier run tells."""
        if not self.n_runs:
            return None
        return sum(taken * (n_rounds if phase in _IN_ROUND else 1) for phase, taken in self.seconds.items())

    def words(self, *, max_rounds: int) -> str:
        """How long a run with one round, and with all, takes by earlier runs; or that none tells."""
        low, high = self.total_s(n_rounds=1), self.total_s(n_rounds=max_rounds)
        if low is None or high is None:
            return "How long it takes is not known: no earlier run with this engine is in this storage."
        runs = counted(self.n_runs, "earlier run")
        return f"By {runs} it takes {span(low)} with one round, {span(high)} with all."


def usual_times(config: RunConfig, ports: Ports) -> Usual:
    """Return what the newest finished runs with the same engine and executor took.

    Parameters
    ----------
    config
        Options of the run that is to be estimated.
    ports
        What the runs talk to.

    Returns
    -------
    Times by phase; empty where no finished run is like this one.
    """
    seen: dict[str, list[float]] = {}
    queues: list[float] = []
    n_found = 0
    for record in finished_like(config, ports.store):
        for phase, seconds in _seconds_by_phase(record).items():
            seen.setdefault(phase, []).append(seconds)
        waited, _ = job_times(record, None, now=record.steps[-1].finished_at)
        queues += [] if waited is None else [waited]
        n_found += 1
    return Usual(
        seconds={phase: median(found) for phase, found in seen.items()},
        queue_s=(min(queues), max(queues)) if queues else None,
        n_runs=n_found,
    )


def phases_of(
    record: RunRecord,
    *,
    state: Mapping[str, Any],
    now: datetime,
    usual: Mapping[str, float] | None = None,
    n_done: int = 0,
) -> tuple[Phase, ...]:
    """Return the phases of a run in order; rounds that may follow are not listed before they begin.

    Parameters
    ----------
    record
        The run.
    state
        From :func:`haystack_kernel.steering.describe`.
    now
        Wall time.
    usual
        Seconds by phase, from :func:`usual_times`.
    n_done
        Finished tasks of the newest job.

    Returns
    -------
    The phases; one of them is under way, or stopped, unless the run is done.
    """
    took = _seconds_taken(record)
    places, at = _places(record, step=state["next_step"])
    since = record.steps[-1].finished_at if record.steps else record.created_at
    found = []
    for order, place in enumerate(places):
        name, in_round = place
        phase = Phase(
            name, in_round, "done" if order < at else "waiting", took.get(place, 0.0), (usual or {}).get(name)
        )
        if order == at and state["status"] == "running":
            spec = record.rounds[-1].spec if name == "prediction" and record.rounds else None
            seconds = phase.seconds + max((now - since).total_seconds(), 0.0)
            n_tasks = spec.n_tasks if spec is not None else 0
            phase = replace(phase, state="now", seconds=seconds, n_done=n_done, n_tasks=n_tasks)
        elif order == at:
            phase = replace(phase, state="stopped")
        found.append(phase)
    return tuple(found)


def _seconds_taken(record: RunRecord) -> dict[tuple[str, int | None], float]:
    """Seconds of finished steps by phase and round."""
    took: dict[tuple[str, int | None], float] = {}
    for time in record.steps:
        step, _, number = time.step.partition(" ")
        where = (_PHASE_OF.get(step, "report"), int(number) if number else None)
        took[where] = took.get(where, 0.0) + time.seconds
    return took


def _places(record: RunRecord, *, step: str | None) -> tuple[list[tuple[str, int | None]], int]:
    """The phases in order, each with its round, and which of them ``step`` belongs to; after the last: it is done."""
    n_rounds = max(len(record.rounds) + (step == "choose"), 1)
    places: list[tuple[str, int | None]] = [("question", None), ("search", None)]
    places += [(phase, number) for number in range(1, n_rounds + 1) for phase in _IN_ROUND]
    places.append(("report", None))
    if step is None:
        return places, len(places)
    phase = _PHASE_OF[step]
    return places, places.index((phase, n_rounds if phase in _IN_ROUND else None))


def job_times(record: RunRecord, job: JobStatus | None, *, now: datetime) -> tuple[float | None, float | None]:
    """Seconds that the newest job waited for a machine, and that its machines worked; None before there is a job.

    Parameters
    ----------
    record
        The run.
    job
        State of its newest job; None: it cannot be asked.
    now
        Wall time.

    Returns
    -------
    Queue time and machine time. Together they are the time since the job was submitted, or what the prediction took.
    """
    last = next((item for item in reversed(record.rounds) if item.job is not None), None)
    if last is None or last.job is None:
        return None, None
    times = {time.step: time for time in record.steps}
    collected = times.get(f"collect {last.number}")
    end = collected.finished_at if collected is not None else now
    total = max((end - last.job.submitted_at).total_seconds(), 0.0)
    bills = {bill.job_id: bill for bill in (*last.bills, *_bills_of(job))}
    if last.job.executor == "local":  # a process of this machine starts at once
        return 0.0, total
    worked = min(sum((bill.seconds for bill in bills.values()), start=0.0), total)
    return total - worked, worked


def _seconds_by_phase(record: RunRecord) -> dict[str, float]:
    """Seconds of each phase of a finished run; those of a round are the mean of its rounds."""
    total: dict[str, float] = {}
    rounds: dict[str, set[str]] = {}
    for time in record.steps:
        step, _, number = time.step.partition(" ")
        phase = _PHASE_OF.get(step, "report")
        total[phase] = total.get(phase, 0.0) + time.seconds
        rounds.setdefault(phase, set()).add(number)
    return {phase: seconds / len(rounds[phase]) for phase, seconds in total.items()}


def _bills_of(job: JobStatus | None) -> tuple[Bill, ...]:
    """What the attempts of a job cost, with the one that runs now."""
    if job is None:
        return ()
    return (*job.bills, *([job.accrued] if job.accrued is not None else []))


def _left(phases: Sequence[Phase]) -> float | None:
    """Seconds that are left of all phases; None where one of them cannot tell."""
    each = [phase.left_s for phase in phases]
    known = [seconds for seconds in each if seconds is not None]
    return sum(known, start=0.0) if len(known) == len(each) else None
