"""A run seen and steered from outside: where it stands, who works on it, stopping it and its jobs.

In: a record and the ports. Out: JSON-able values, job states, the record of a stopped run. Nothing here does a step.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from haystack_kernel import flow
from haystack_kernel.errors import ConflictError, HaystackError, InvalidInputError
from haystack_kernel.jobs import expected_handle
from haystack_kernel.schema import Failure, JobStatus
from haystack_kernel.store import Lease, find_worker, layout, taken

if TYPE_CHECKING:
    from datetime import datetime

    from haystack_kernel.ports import Executor, Ports
    from haystack_kernel.schema import ExecutorName, RunRecord, ShownStatus
    from haystack_kernel.store import Worker

GRACE_S = 30.0  # without a worker, before a run that counts as running counts as left
_CANCEL_TRIES = 20


def describe(record: RunRecord, ports: Ports) -> dict[str, Any]:
    """The state of a run in a few JSON-able values; a score of None means not scored.

    A run whose orchestrator ended without saying so in the record is shown as failed, with the job's own reason; one
    that nobody works on any more is shown as interrupted.
    """
    now, worker = ports.clock.now(), find_worker(ports.store, record.run_id)[1]
    orchestrator = orchestrator_status(record, ports)
    if record.status == "running":  # it may have ended meanwhile
        record = ports.store.load(record.run_id)
    record = record.with_bills_of(orchestrator)  # known to the job alone until a step saves them
    failure = record.failure or lost_orchestrator(record, orchestrator, worker=worker, now=now)
    left = abandoned(record, worker, orchestrator, now=now)
    status = _status_shown(record, is_lost=failure is not None, is_left=left is not None)
    folder, score = ports.store.uri(record.run_id), record.score
    seen = None
    if worker is not None:
        renewed_at = f"{worker.renewed_at:%Y-%m-%dT%H:%M:%SZ}"
        seen = {"host": worker.host, "pid": worker.pid, "renewed_at": renewed_at, "alive": worker.is_alive(now)}
    job, shown_job = record.orchestrator, None
    if job is not None and orchestrator is not None:
        shown_job = {
            "job_id": job.job_id,
            "executor": job.executor,
            "state": orchestrator.state,
            "detail": orchestrator.detail,
            "location": job.location,
            "submitted_at": f"{job.submitted_at:%Y-%m-%dT%H:%M:%SZ}",
        }
    return {
        "run_id": record.run_id,
        "taken_as": record.taken_as,
        "measured_already": record.measured_words,
        "engine_chosen": record.engine_words,
        "tested": record.tested_words,
        "status": status,
        "next_step": flow.next_step(flow.revive(record, ports)),
        "rounds": len(record.rounds),
        "best_round": record.best_round,
        "score": None if score != score else round(score, 3),  # noqa: PLR0124 - NaN
        "headline": record.headline,
        "score_words": record.score_words,
        "accuracy_words": record.accuracy_words,
        "termination": record.termination,
        "cost_usd": round(record.cost_usd, 4),
        "cost_by_kind": {kind: round(usd, 4) for kind, usd in record.cost_by_kind.items()},
        "folder": folder,
        "report": f"{folder}/{layout.REPORT}" if record.status == "done" else None,
        "failure": failure.model_dump() if failure else None,
        "worker": seen,
        "detail": f"{left}.{_job_left_behind(record, ports)}".removesuffix(".") if left else None,
        "orchestrator": shown_job,
        "forked_from": record.forked_from.run_id if record.forked_from else None,
        "notes": list(record.notes),
        "next_commands": next_commands(record, status=status, job=orchestrator),
    }


def observed_status(run_id: str, ports: Ports, *, now: datetime) -> ShownStatus:
    """Return the status of a run as :func:`describe` shows it, with as few reads as possible.

    Parameters
    ----------
    run_id
        A run whose record says that it is running.
    ports
        What the run talks to.
    now
        Wall time.
    """
    worker = find_worker(ports.store, run_id)[1]
    if worker is not None and worker.is_alive(now):
        return "running"
    record, job = ports.store.load(run_id), None
    if record.orchestrator is not None:
        job = orchestrator_status(record, ports)
        record = ports.store.load(run_id)  # the run may have ended while its job was asked
    lost = lost_orchestrator(record, job, worker=worker, now=now)
    left = abandoned(record, worker, job, now=now)
    return _status_shown(record, is_lost=lost is not None, is_left=left is not None)


def _status_shown(record: RunRecord, *, is_lost: bool, is_left: bool) -> ShownStatus:
    """The status in the record, corrected where nobody works on a run that says it is running."""
    if record.status != "running":
        return record.status
    if is_lost:
        return "failed"
    return "interrupted" if is_left else "running"


def describe_interruption(
    record: RunRecord, ports: Ports, *, storage: str | None = None, in_notebook: bool = True
) -> str:
    """Three lines about a run whose work was just interrupted: what stopped, what is kept or goes on, what to type."""
    run_id, step = record.run_id, flow.next_step(record)
    where = f" --storage {shlex.quote(storage)}" if storage else ""
    going_on = _job_left_behind(record, ports)
    cancel = f" `haystack cancel {run_id}{where}` ends it." if going_on else ""
    here = ", or haystack.last().work() in the notebook that was interrupted" if in_notebook else ""
    return (
        f"Run {run_id} was interrupted{f' at step {step!r}' if step else ''}.\n"
        f"Finished steps are kept in {ports.store.uri(run_id)}.{going_on}{cancel}\n"
        f"To go on: `haystack resume {run_id}{where}`{here}."
    )


def _job_left_behind(record: RunRecord, ports: Ports) -> str:
    """A sentence about the prediction job that goes on without the worker; empty where none does."""
    last = record.rounds[-1] if record.rounds else None
    if last is None or last.spec is None or last.task_seconds:
        return ""
    # an interrupt while the job was submitted leaves no handle, and the job may well exist
    job = last.job or expected_handle(last.spec, executor=record.config.executor, now=ports.clock.now())
    cost = "at no cost" if job.executor == "local" else "and is billed until it ends"
    try:
        status = executor_named(job.executor, ports).status(job)
    except HaystackError:
        return f" Its job {job.job_id} ({job.executor}) cannot be asked from here; it may go on {cost}."
    return "" if status.is_terminal else f" Its job {job.job_id} ({job.executor}) goes on {cost}."


def next_commands(record: RunRecord, *, status: str, job: JobStatus | None = None) -> list[str]:
    """What a person may want to type now."""
    run_id = record.run_id
    if status == "running" and job is not None and job.needs_approval:
        return [f"haystack submit {run_id} --yes", f"haystack cancel {run_id}"]
    if status == "running":
        return [f"haystack attach {run_id}", f"haystack cancel {run_id}"]
    if status == "done":
        return [f"haystack report {run_id}", f"haystack fork {run_id} --set KEY=VALUE"]
    last = record.rounds[-1] if record.rounds else None
    may_bill = status == "interrupted" and last is not None and last.job is not None and not last.task_seconds
    cancel = [f"haystack cancel {run_id}"] if may_bill else []
    return [f"haystack resume {run_id}", f"haystack submit {run_id}", *cancel]


def orchestrator_status(record: RunRecord, ports: Ports, *, tend: bool = False) -> JobStatus | None:
    """State of the job that works the run; None where no job does, ``unknown`` where it cannot be asked from here.

    With ``tend`` a job that lost its machine gets its next attempt.
    """
    if record.orchestrator is None:
        return None
    try:
        executor = executor_named(record.orchestrator.executor, ports)
        return executor.tend(record.orchestrator) if tend else executor.status(record.orchestrator)
    except HaystackError as error:  # to look at a run needs neither the cloud nor a key
        return JobStatus(state="unknown", detail=str(error))


def lost_orchestrator(
    record: RunRecord, status: JobStatus | None, *, worker: Worker | None, now: datetime
) -> Failure | None:
    """The failure of a run that counts as running though its orchestrator has ended; None where all is well.

    ``record`` must have been read after ``status`` and ``worker``: a run that ended in between is no failure.
    """
    if status is None or record.status != "running" or not status.is_terminal:
        return None
    if worker is not None and worker.is_alive(now):  # somebody resumed it without a job
        return None
    run_id, detail = record.run_id, status.detail or "no reason given"
    state = "ended" if status.state == "succeeded" else status.state
    msg = f"the orchestrator of run {run_id} {state} before the run did: {detail}"
    facts = {"job_id": record.orchestrator.job_id if record.orchestrator else "", "state": status.state}
    step = flow.next_step(record) or "publish"
    return Failure(kind="JobFailedError", message=msg, step=step, facts={**facts, "exit_code": status.exit_code})


def abandoned(record: RunRecord, worker: Worker | None, job: JobStatus | None, *, now: datetime) -> str | None:
    """Say who left a run that counts as running; None where somebody works on it, or may be about to.

    Parameters
    ----------
    record
        Read after ``worker`` and ``job``, so that a run that ended in between counts as ended.
    worker
        Of the newest lease; None where nobody has worked on the run yet.
    job
        State of the run's orchestrator; None where it has none.
    now
        Wall time.
    """
    if record.status != "running" or job is not None or (worker is not None and worker.is_alive(now)):
        return None
    # between two cells of a notebook, or while its kernel starts, nobody holds a lease and all is well
    seen = [record.created_at, *(time.finished_at for time in record.steps)]
    if worker is not None and worker.ended == "paused":
        seen.append(worker.renewed_at)
    if (worker is None or worker.ended == "paused") and abs((now - max(seen)).total_seconds()) < GRACE_S:
        return None
    text = f"nobody is working on run {record.run_id}"
    if worker is None:
        return text
    how = {
        "interrupted": "was interrupted",
        "left": "left it to be continued",
        "paused": "stopped",
        "": "ended without a word",
    }[worker.ended]
    return f"{text}: {worker} {how}, last seen {worker.renewed_at:%Y-%m-%d %H:%M:%S} UTC"


def leave(record: RunRecord, ports: Ports) -> None:
    """Write in the run folder that nobody works on a run that was stopped between steps, or made to be run later.

    Without this the run would count as running until the grace for a kernel that is being started is over.
    """
    worker = find_worker(ports.store, record.run_id)[1]
    is_open = worker is None or worker.ended == "paused"  # else the newest lease says how its worker ended
    if record.status != "running" or record.orchestrator is not None or not is_open:
        return
    with suppress(HaystackError):  # another worker has just begun, or the storage fails: then the grace has to do
        Lease.acquire(ports.store, record.run_id, clock=ports.clock, ttl_s=ports.settings.lease.ttl_s).release("left")


def wait_until_free(record: RunRecord, ports: Ports) -> None:
    """Refuse a run that another worker holds; an orchestrator's next attempt waits for the lease of the one before.

    Raises
    ------
    ConflictError
        The worker lives.
    """
    worker = find_worker(ports.store, record.run_id)[1]
    if worker is not None and record.orchestrator is not None:
        deadline = ports.clock.monotonic() + worker.ttl_s
        while worker.is_alive(ports.clock.now()) and ports.clock.monotonic() < deadline:
            ports.clock.sleep(min(5.0, worker.ttl_s / 3))
            worker = find_worker(ports.store, record.run_id)[1] or worker
    if record.status != "done" and worker is not None and worker.is_alive(ports.clock.now()):
        raise taken(record.run_id, worker)


def check_free(record: RunRecord, ports: Ports) -> None:
    """Refuse to work on a run that another worker or its orchestrator works on.

    Raises
    ------
    ConflictError
        A worker holds the run's lease; or the job is waiting or running, or belongs to another machine that cannot be
        asked.
    """
    worker = find_worker(ports.store, record.run_id)[1] if record.status != "done" else None
    if worker is not None and worker.is_alive(ports.clock.now()):
        raise taken(record.run_id, worker)
    status = orchestrator_status(record, ports) if record.status == "running" else None
    if status is None or status.is_terminal:
        return
    run_id, job = record.run_id, record.orchestrator.job_id if record.orchestrator else ""
    msg = (
        f"run {run_id} is worked on by its orchestrator {job} ({status.state}{': ' if status.detail else ''}"
        f"{status.detail}); follow it with `haystack attach {run_id}`, or stop it with `haystack cancel {run_id}` first"
    )
    raise ConflictError(msg, run_id=run_id, job_id=job, state=status.state)


def stop(record: RunRecord, ports: Ports) -> RunRecord:
    """Mark a running run as cancelled, then end its orchestrator and its job; finished steps are kept.

    Raises
    ------
    ConflictError
        The run moves on faster than the cancellation can be written; try again.
    """
    record = _mark_cancelled(record, ports)
    if record.orchestrator is not None:  # before its inference job, so that it starts no further one
        executor_named(record.orchestrator.executor, ports).cancel(record.orchestrator)
        record = _mark_cancelled(record, ports)  # a job that began in between has taken the run up again
    stop_job(record, ports)
    return record


def _mark_cancelled(record: RunRecord, ports: Ports) -> RunRecord:
    for is_last in (*[False] * _CANCEL_TRIES, True):
        record = ports.store.load(record.run_id)
        if record.status != "running":
            break
        try:
            return ports.store.save(record.model_copy(update={"status": "cancelled"}))
        except ConflictError:  # it finished a step in between
            if is_last:
                raise
    return record


def stop_job(record: RunRecord, ports: Ports) -> None:
    """Cancel the job that the newest round waits for; its id follows from the spec, submitted or not yet known."""
    last = record.rounds[-1] if record.rounds else None
    if last is None or last.spec is None or last.task_seconds:
        return
    job = last.job or expected_handle(last.spec, executor=record.config.executor, now=ports.clock.now())
    executor_named(job.executor, ports).cancel(job)


def executor_named(name: ExecutorName, ports: Ports) -> Executor:
    """The executor of that name.

    Raises
    ------
    InvalidInputError
        This installation or these settings have none.
    """
    if name not in ports.executors:
        there = ", ".join(ports.executors)
        msg = f"there is no executor {name!r} here; possible: {there} (batch needs HAYSTACK_BATCH__* settings)"
        raise InvalidInputError(msg, executor=name)
    return ports.executors[name]
