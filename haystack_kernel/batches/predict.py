"""All predictions of a campaign as one batch of tasks: as one array of the cloud, or as processes of this machine.

In: tasks, the plan and the ports. Out: outputs where the tasks say. What was predicted, and what is being predicted by
jobs of a killed call, is neither made nor paid for again.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import JobFailedError
from haystack_kernel.jobs import build_job_spec, describe, estimate_cost, expected_handle, in_usd, pace, wait
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.rounds.cells import engine_limit
from haystack_kernel.schema import JobOwner
from haystack_kernel.store import layout
from inference.manifest import (
    ENGINES,
    ERROR_SUFFIX,
    MODEL_ENGINE,
    RESULT_SUFFIX,
    Manifest,
    Task,
    dump_manifest,
    parse_manifest,
)

if TYPE_CHECKING:
    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.batches.kind import Plan
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import JobHandle, JobSpec, JobStatus

TASK_LIMIT_S = 60.0  # of each task of a batch, added to the time limit of a job


def predict(
    tasks: list[Task],
    plan: Plan,
    *,
    folder: CampaignFolder,
    ports: Ports,
    workers: int,
    name: str,
) -> None:
    """Have an executor make every prediction that is not there yet.

    Parameters
    ----------
    tasks
        Of the whole campaign, those of one item together; the id of each begins with its item and ``-``.
    plan
        What predicts, and where.
    folder, ports, name
        Of the campaign.
    workers
        Processes that work at the same time on this machine; in the cloud it is one job.

    Raises
    ------
    ApprovalNeededError
        The predictions cost money and nobody consented to it.
    JobFailedError
        Outputs are missing after the jobs; the same call goes on where it stopped.
    """
    if not left_of(tasks, folder):  # a job that failed for one of its tasks is not started, nor paid for, again
        return
    n = 1 if plan.executor == "batch" else workers
    manifests = share_tasks(tasks, plan, n=n, engine_limit_s=engine_limit(ports.settings))
    specs = _at_work(tasks, n=len(manifests), plan=plan, folder=folder, ports=ports, name=name)
    if specs is None:
        specs = [spec_of(one, number, name=name, ports=ports, folder=folder) for number, one in enumerate(manifests, 1)]
        for number, manifest in enumerate(manifests, 1):
            folder.write(layout.job_manifest(number), dump_manifest(manifest).encode())
    for again in ("", "-again"):  # a job that counts as done may have lost its outputs since
        failure = _run_jobs(
            tasks, [_renamed(spec, again) for spec in specs], plan, folder=folder, ports=ports, name=name
        )
        if not left_of(tasks, folder):
            ports.progress(ProgressEvent(run_id=name, phase="predict", message="done", fraction=1.0))
            return
        if failure is not None:
            raise failure
    msg = f"the predictions of {name} are not where the jobs should have left them ({folder.root})"
    raise JobFailedError(msg)


def expected_spec(tasks: list[Task], plan: Plan, *, ports: Ports, name: str) -> JobSpec:
    """The one job that the predictions would be in the cloud, to tell what it may cost."""
    manifest = share_tasks(tasks, plan, n=1, engine_limit_s=engine_limit(ports.settings))
    one = manifest[0] if manifest else Manifest(tasks=())
    return _spec(one, 1, name=name, ports=ports)


def _run_jobs(
    tasks: list[Task], specs: list[JobSpec], plan: Plan, *, folder: CampaignFolder, ports: Ports, name: str
) -> JobFailedError | None:
    """Start the jobs, or find those that were started before, and wait for all; returns the first failure."""
    executor = ports.executors[plan.executor]
    jobs: list[tuple[JobHandle, JobSpec]] = []
    for spec in specs:
        if plan.executor == "batch":
            words = f"the predictions cost {describe(estimate_cost(spec, ports.settings.batch))}"
            ports.progress(ProgressEvent(run_id=name, phase="predict", message=words))
        jobs.append((executor.submit(spec), spec))

    left = tasks

    def show(status: JobStatus) -> None:
        nonlocal left  # what is finished is not looked at again
        left = left_of(left, folder)
        share = 1 - len(left) / len(tasks)
        message = f"{len(tasks)} predictions, job {status.state}"
        if status.bills:
            attempts = "one attempt" if len(status.bills) == 1 else f"{len(status.bills)} attempts"
            message += f", {in_usd(sum(bill.usd for bill in status.bills))} for {attempts}"
        ports.progress(ProgressEvent(run_id=name, phase="predict", message=message, fraction=share))

    failure = None
    for job, spec in jobs:
        limits = pace(plan.executor, spec=spec, settings=ports.settings)
        try:
            wait(job, executor=executor, clock=ports.clock, on_status=show, **limits)
        except JobFailedError as error:
            failure = failure or error
    return failure


def _renamed(spec: JobSpec, tag: str) -> JobSpec:
    """The same job under an id derived from its own, which every process that repeats it agrees on."""
    if not tag:
        return spec
    digest = hashlib.sha256(f"{spec.job_id}{tag}".encode()).hexdigest()[:8]
    return spec.model_copy(update={"job_id": f"{spec.job_id.rpartition('-')[0]}-{digest}"})


def _at_work(
    tasks: list[Task], *, n: int, plan: Plan, folder: CampaignFolder, ports: Ports, name: str
) -> list[JobSpec] | None:
    """Jobs of a killed call with another number of workers that still work: other jobs would make their tasks twice."""
    manifests = []
    for number in itertools.count(1):
        data = folder.read(layout.job_manifest(number))
        if data is None:
            break
        manifests.append(parse_manifest(data))
    shared = sorted(task.id for one in manifests for task in one.tasks)
    if len(manifests) == n or shared != sorted(task.id for task in tasks):
        return None
    specs = [spec_of(one, number, name=name, ports=ports, folder=folder) for number, one in enumerate(manifests, 1)]
    executor, now = ports.executors[plan.executor], ports.clock.now()
    jobs = (expected_handle(one, executor=plan.executor, now=now) for one in specs)
    return specs if any(not executor.status(job).is_terminal for job in jobs) else None


def spec_of(manifest: Manifest, number: int, *, name: str, ports: Ports, folder: CampaignFolder) -> JobSpec:
    """Describe the job of a manifest, which belongs to the campaign, with the addresses of its folder."""
    return _spec(manifest, number, name=name, ports=ports).placed_in(folder.root)


def _spec(manifest: Manifest, number: int, *, name: str, ports: Ports) -> JobSpec:
    limit = ports.settings.jobs.timeout_s + TASK_LIMIT_S * len(manifest.tasks)
    path = layout.job_manifest(number)
    spec = build_job_spec(manifest, run_id=name, round_number=number, manifest_uri=path, timeout_s=limit)
    return spec.model_copy(update={"owner": JobOwner(kind="campaign", id=name)})


def left_of(tasks: list[Task], folder: CampaignFolder) -> list[Task]:
    """Tasks that have left neither an output nor an error of their own."""
    held: dict[str, set[str]] = {}
    left = []
    for task in tasks:
        place, _, name = task.output.removeprefix(folder.root + "/").rpartition("/")
        if place not in held:
            held[place] = folder.names(place)
        if held[place].isdisjoint({name + RESULT_SUFFIX, name + ERROR_SUFFIX}):
            left.append(task)
    return left


def share_tasks(tasks: list[Task], plan: Plan, *, n: int, engine_limit_s: float | None = None) -> list[Manifest]:
    """Distribute the tasks over ``n`` processes, those of an item to the same one, because they share their cells."""
    items: dict[str, list[Task]] = {}
    for task in tasks:
        items.setdefault(task.id.partition("-")[0], []).append(task)
    shares = [
        [task for place, members in enumerate(items.values()) if place % n == one for task in members]
        for one in range(n)
    ]
    model: dict[str, Any] = {}
    if MODEL_ENGINE in plan.engines:
        model = {"model": plan.model, "genelist": plan.genelist, "diffusion_steps": plan.diffusion_steps}
    if any(engine not in ENGINES for engine in plan.engines):
        model["engine_limit_s"] = engine_limit_s
    if n > 1:  # processes of this machine share its cores
        model["threads"] = 1
    return [Manifest(tasks=tuple(share), **model) for share in shares if share]
