"""The job of a round: its cost, its start, its outputs checked.

In: the run record and the ports. Out: the round with its job, then with checked predictions.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError, HaystackError, JobFailedError, NotFoundError
from haystack_kernel.jobs import (
    TREATED,
    build_job_spec,
    build_manifest,
    describe,
    estimate_cost,
    expected_handle,
    pace,
    wait,
)
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.rounds.record import out_of_order
from haystack_kernel.store import layout
from inference.imports import load_modules
from inference.manifest import (
    RESULT_SUFFIX,
    Manifest,
    ManifestError,
    TaskResult,
    parse_manifest,
    parse_result,
)

if TYPE_CHECKING:
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import (
        CostEstimate,
        JobSpec,
        JobStatus,
        Round,
        RunRecord,
    )


_NEXT_STEPS = (
    "haystack_kernel.grounding",
    "haystack_kernel.report.render",
    "haystack_kernel.explorer.load",
    "matplotlib.pyplot",
    "scipy.optimize",
)
_STARTED = ("queued", "scheduled", "running", "succeeded")


def submit(record: RunRecord, ports: Ports) -> Round:
    """Start the round's job, or find the one started before.

    Raises
    ------
    ApprovalNeededError
        The job costs money and this call does not consent to it, or a cap does not hold it; nothing was started.
    """
    last = record.rounds[-1]
    if last.spec is None:
        raise out_of_order(record)
    executor = ports.executors[record.config.executor]
    spec = last.spec.placed_in(ports.store.uri(record.run_id))
    kept = {"manifest_uri": last.spec.manifest_uri}  # in the record as in the spec: a path of the run folder
    if record.config.executor == "local":
        return last.model_copy(update={"job": executor.submit(spec).model_copy(update=kept)})
    estimate = estimate_round(record, ports, spec=spec)
    job = expected_handle(spec, executor=record.config.executor, now=ports.clock.now())
    if executor.status(job).state not in _STARTED:
        message = f"the job costs {describe(estimate)}"
        ports.progress(ProgressEvent(run_id=record.run_id, phase="submit", message=message, round=last.number))
        job = executor.submit(spec)  # which asks for consent before it creates anything
    return last.model_copy(update={"job": job.model_copy(update=kept), "estimate": estimate})


def keep_bills(record: RunRecord, ports: Ports) -> RunRecord:
    """The record with what its orchestrator has cost so far; unchanged where none works it or it cannot be asked."""
    job = record.orchestrator
    if job is None or job.executor not in ports.executors:
        return record
    try:
        status = ports.executors[job.executor].status(job)
    except HaystackError:  # a bill that cannot be asked for must not stop a run
        return record
    return record.with_bills_of(status)


def estimate_round(record: RunRecord, ports: Ports, *, spec: JobSpec | None = None) -> CostEstimate:
    """What one round's job may cost in the cloud.

    Parameters
    ----------
    spec
        The job; None takes one of the tasks that the run's options ask for, so it can be told before there is a round.
    """
    if spec is None:
        strategy = record.config.control_strategy
        n_resamples = ports.settings.grounding.n_resamples
        manifest = build_manifest(
            "", config=record.config, strategy=strategy, has_control=True, n_resamples=n_resamples
        )
        spec = build_job_spec(
            manifest, run_id=record.run_id, round_number=1, manifest_uri="", timeout_s=ports.settings.jobs.timeout_s
        )
    measured = [seconds for item in record.rounds for seconds in item.task_seconds.values()]
    return estimate_cost(spec, ports.settings.batch, measured_s=measured)


def keep_good_job(record: RunRecord, ports: Ports) -> Round:
    """The last round, without its job where that ended badly or left outputs that cannot be used.

    A failed job keeps its id: the executor starts another attempt. A job that counts as done but whose outputs are
    missing or changed gets an id derived from its own, so that every process that resumes agrees on it.
    """
    last = record.rounds[-1]
    if last.job is None or last.spec is None or last.task_seconds:
        return last
    status = ports.executors[last.job.executor].status(last.job)
    state, spec, last = status.state, last.spec, _with_bills(last, status)
    if state in ("failed", "cancelled"):
        return last.model_copy(update={"job": None})
    failure = record.failure
    # a collection that stopped for want of consent says nothing against the outputs
    is_bad = failure is not None and failure.step == "collect" and failure.kind != "ApprovalNeededError"
    if state == "succeeded" and is_bad:
        tag = hashlib.sha256(spec.job_id.encode()).hexdigest()[:8]
        job_id = f"{spec.job_id.rpartition('-')[0]}-{tag}"
        return last.model_copy(update={"job": None, "spec": spec.model_copy(update={"job_id": job_id})})
    return last


def collect(record: RunRecord, ports: Ports) -> Round:
    """Wait for the job, then check every output against the digest in its result file.

    Raises
    ------
    JobFailedError
        The job failed, or ended without one of its outputs.
    ContractError
        An output differs from its digest, so it was changed or cut short after it was published.
    """
    last = record.rounds[-1]
    path = layout.round_file(last.number, layout.MANIFEST)
    try:
        manifest: Manifest = parse_manifest(ports.store.read(record.run_id, path))
    except ManifestError as error:
        msg = f"{path} of run {record.run_id} cannot be used: {error}. Ask the question again as a new run"
        raise ContractError(msg, path=path) from error

    def show(status: JobStatus) -> None:
        detail = f": {status.detail}" if status.detail and status.state != "running" else ""
        message = f"job {status.state}{detail}"
        share = status.n_done / status.n_tasks if status.n_tasks else None
        event = ProgressEvent(run_id=record.run_id, phase="collect", message=message, round=last.number, fraction=share)
        if not status.is_terminal:
            ports.progress(event)
            _get_ready(ports)

    if last.job is None or last.spec is None:
        raise out_of_order(record)
    executor = ports.executors[last.job.executor]
    patience = pace(last.job.executor, spec=last.spec, settings=ports.settings)
    ended = wait(last.job, executor=executor, clock=ports.clock, on_status=show, **patience)
    last = _with_bills(last, ended)
    results = [_check_output(record, ports, output=task.output) for task in manifest.tasks]
    treated = next(result for result in results if result.id == TREATED)
    seconds = {result.id: result.seconds for result in results}
    return last.model_copy(update={"task_seconds": seconds, "frac_genes_found": treated.frac_genes_found})


def _get_ready(ports: Ports) -> None:
    """Load what the steps after the job need, while it runs elsewhere: 3 s that they would take later."""
    load_modules(_NEXT_STEPS)
    from haystack_kernel.grounding.signatures.walks import known_walks

    known_walks(load_knowledge(ports.settings.knowledge))


def _with_bills(last: Round, status: JobStatus) -> Round:
    """The round with what its job's attempts cost, each once however often they are seen."""
    bills = {bill.job_id: bill for bill in (*last.bills, *status.bills)}
    return last.model_copy(update={"bills": tuple(bills.values())})


def _check_output(record: RunRecord, ports: Ports, *, output: str) -> TaskResult:
    inside = output.removeprefix(ports.store.uri(record.run_id) + "/")
    again = f"`haystack resume {record.run_id}` makes it again"
    try:
        result: TaskResult = parse_result(ports.store.read(record.run_id, inside + RESULT_SUFFIX))
        digest = hashlib.sha256(ports.store.read(record.run_id, inside)).hexdigest()
    except NotFoundError as error:
        msg = f"the job ended without {inside} or the result file beside it; {again}"
        raise JobFailedError(msg, path=inside, state="succeeded") from error
    except ManifestError as error:
        msg = f"the result file of {inside} is damaged ({error}); {again}"
        raise ContractError(msg, path=inside) from error
    if digest != result.sha256:
        msg = f"{inside} differs from the digest in its result file: it was changed or cut short; {again}"
        raise ContractError(msg, path=inside)
    return result
