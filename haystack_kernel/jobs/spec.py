"""Turn a round's tasks into one job: the manifest, and the spec whose id is derived from it.

In: run, round and files of cells. Out: Manifest and JobSpec; pure.
"""

from __future__ import annotations

import hashlib
import platform
import re
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import JobHandle, JobOwner, JobSpec
from haystack_kernel.store import layout
from inference.manifest import BASELINES, ENGINES, MODEL_ENGINE, Manifest, Task, dump_manifest

if TYPE_CHECKING:
    from datetime import datetime

    from haystack_kernel.schema import ControlStrategy, ExecutorName, RunConfig

_JOB_ID = re.compile(r"haystack-(?P<owner>[a-z][a-z0-9-]{7,44})-[0-9a-f]{8}")
TREATED = "treated"
CONTROL = "control"
BASELINE_PREFIX = "baseline-"
RESAMPLE_INFIX = "-resample-"  # "treated-resample-1": the same prediction from another draw of the prompt
SEED_STEP = 7919  # between the seeds of repeats, so that runs with neighbouring seeds have none in common


def build_manifest(
    folder: str,
    *,
    config: RunConfig,
    strategy: ControlStrategy,
    has_control: bool,
    has_others: bool = False,
    n_resamples: int = 0,
    engine_limit_s: float | None = None,
) -> Manifest:
    """List all predictions of one round in one manifest, so that one process loads the model once.

    Parameters
    ----------
    folder
        Address of ``rounds/<n>``, which holds prompt.h5ad, query.h5ad and, with ``has_control``, control.h5ad.
    config
        The run's engine and seed.
    strategy
        ``synthetic_control`` adds the prediction from the matched control prompt.
    has_control
        Whether matched control cells exist.
    has_others
        Whether cells of other treatments were written, which some engines read.
    n_resamples
        How often an engine with a model predicts again from resampled prompts. The error of a baseline's effects
        follows from the prompt's cells alone.
    engine_limit_s
        Seconds that one prediction of an engine of another package may take.

    Returns
    -------
    Tasks ``treated``, ``control``, one ``baseline-<engine>`` for each baseline that is not the engine itself, and
    ``treated-resample-<k>`` with ``control-resample-<k>`` for k = 1..``n_resamples``.
    """
    prompt, query = (layout.cells_file(folder, role) for role in (keys.PROMPT, keys.QUERY))
    control = layout.cells_file(folder, keys.CONTROL) if has_control else None
    others = layout.cells_file(folder, layout.TREATMENTS) if has_others else None

    def task(name: str, engine: str, prompt_uri: str, *, shift: int = 0) -> Task:
        output, seed = layout.output_file(folder, name), config.seed + shift
        return Task(
            id=name,
            engine=engine,
            prompt=prompt_uri,
            control=control,
            query=query,
            output=output,
            seed=seed,
            resample=shift > 0,
            others=others if reads_others(engine) else None,
        )

    own = {TREATED: prompt}
    if strategy == "synthetic_control" and control is not None:
        own[CONTROL] = control
    tasks = [task(name, config.engine, uri) for name, uri in own.items()]
    tasks += [task(f"{BASELINE_PREFIX}{name}", name, prompt) for name in BASELINES if name != config.engine]
    repeats = range(1, n_resamples + 1) if config.engine not in BASELINES else ()
    tasks += [
        task(f"{name}{RESAMPLE_INFIX}{k}", config.engine, uri, shift=k * SEED_STEP)
        for k in repeats
        for name, uri in own.items()
    ]
    return Manifest(tasks=tuple(tasks), **_engine_fields(config, engine_limit_s))


def _engine_fields(config: RunConfig, limit_s: float | None) -> dict[str, Any]:
    """Fields of a manifest that its engine alone reads."""
    if config.engine == MODEL_ENGINE:
        return {"model": config.model, "genelist": config.genelist, "diffusion_steps": config.diffusion_steps}
    return {} if config.engine in ENGINES else {"engine_limit_s": limit_s}


def reads_others(engine: str) -> bool:
    """Whether an engine is given the cells of other treatments.

    Parameters
    ----------
    engine
        Name of the engine.

    Returns
    -------
    True for ``additive`` and for the engines of other packages.

    Examples
    --------
    >>> reads_others("additive"), reads_others("weighted")
    (True, False)
    """
    return engine not in (*BASELINES, MODEL_ENGINE)


def build_job_spec(
    manifest: Manifest, *, run_id: str, round_number: int, manifest_uri: str, timeout_s: float
) -> JobSpec:
    """Derive the job of a manifest; equal manifests of one run give the same ``job_id``.

    Parameters
    ----------
    manifest
        Tasks of the round.
    run_id
        The run.
    round_number
        The round, from 1.
    manifest_uri
        Path of the manifest in the run folder; :meth:`JobSpec.placed_in` turns it into an address.
    timeout_s
        Time limit of one attempt in seconds.

    Returns
    -------
    The job, whose id follows from the run and the manifest.
    """
    digest = hashlib.sha256(f"{round_number}\n{dump_manifest(manifest)}".encode()).hexdigest()
    return JobSpec(
        owner=JobOwner(id=run_id, round=round_number),
        job_id=f"haystack-{run_id}-{digest[:8]}",
        command=("--manifest", manifest_uri),
        manifest_uri=manifest_uri,
        spec_hash=digest,
        n_tasks=len(manifest.tasks),
        timeout_s=timeout_s,
        needs_gpu=any(task.engine == MODEL_ENGINE for task in manifest.tasks),
        engines=tuple(sorted({task.engine for task in manifest.tasks} - set(ENGINES))),
    )


def owner_of(job: JobHandle) -> JobOwner:
    """Return the run or campaign that a job belongs to; in handles of earlier versions only the job's id names it."""
    if job.owner is not None:
        return job.owner
    check_job_id_form(job.job_id)
    found = _JOB_ID.fullmatch(job.job_id)
    return JobOwner(id=found["owner"] if found else "")


def owner_in(name: str) -> str:
    """Find the run or campaign whose job it is, in the full name of a job.

    Parameters
    ----------
    name
        Such as ``projects/p/locations/us-east1/jobs/j``.

    Returns
    -------
    Its id; empty where the job is none of HAYSTACK.

    Examples
    --------
    >>> owner_in("projects/p/locations/us-east1/jobs/haystack-run-20260102t030405-abcdef-0a1b2c3d")
    'run-20260102t030405-abcdef'
    """
    found = _JOB_ID.fullmatch(name.rpartition("/")[2])
    return found["owner"] if found else ""


def check_job_id_form(job_id: str) -> None:
    """Raise InvalidInputError unless the id is ``haystack-<owner>-<8 hexadecimal digits>``."""
    if _JOB_ID.fullmatch(job_id) is None:
        msg = f"job id {job_id!r} is not haystack-<run id>-<8 hexadecimal digits>"
        raise InvalidInputError(msg, job_id=job_id)


def build_orchestrator_spec(
    run_id: str,
    *,
    words: tuple[str, ...],
    environment: dict[str, str],
    timeout_s: float,
    follow_up_usd: float = 0.0,
) -> JobSpec:
    """Describe the job that works on a whole run with the command ``haystack <words>``.

    The id follows from the run alone, so submitting the run again with other settings finds the same job. The consent
    to spending is not part of the job: the executor adds the consent of the current call to each attempt's command.

    Parameters
    ----------
    run_id
        The run.
    words
        Arguments of ``haystack``.
    environment
        Settings that travel with the job, as environment variables.
    timeout_s
        Time limit of one attempt in seconds.
    follow_up_usd
        Highest cost of the first job that the orchestrator would start; it counts against the caps, too.

    Returns
    -------
    The job.
    """
    digest = hashlib.sha256(f"orchestrator\n{run_id}".encode()).hexdigest()
    return JobSpec(
        owner=JobOwner(id=run_id),
        kind="orchestrator",
        job_id=f"haystack-{run_id}-{digest[:8]}",
        command=words,
        spec_hash=digest,
        n_tasks=1,
        timeout_s=timeout_s,
        environment=environment,
        follow_up_usd=follow_up_usd,
    )


def expected_handle(spec: JobSpec, *, executor: ExecutorName, now: datetime) -> JobHandle:
    """Build the handle of a job that is about to be submitted, by which it is found even if the answer is lost.

    Parameters
    ----------
    spec
        The job.
    executor
        Where it is about to run.
    now
        Wall time.

    Returns
    -------
    The handle that a submission would return.
    """
    return JobHandle(
        job_id=spec.job_id,
        kind=spec.kind,
        owner=spec.owner,
        executor=executor,
        manifest_uri=spec.manifest_uri,
        spec_hash=spec.spec_hash,
        submitted_at=now,
        location=platform.node() if executor == "local" else "",
    )
