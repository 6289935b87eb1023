"""A run handed to a job: an orchestrator works it, here or in the cloud, while the caller goes away.

In: a question and options, or the id of a run. Out: a :class:`Run` whose record names the job.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from haystack_kernel import flow
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import DEMO_ATLASES, build_config
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ApprovalNeededError, HaystackError, InvalidInputError
from haystack_kernel.jobs import build_orchestrator_spec, check_settings, describe, estimate_cost, expected_handle
from haystack_kernel.ports import Consent
from haystack_kernel.progress import progress_line
from haystack_kernel.rounds import estimate_round
from haystack_kernel.run import Run, first_record, open_run
from haystack_kernel.schema import Settings, is_run_id
from haystack_kernel.steering import executor_named, orchestrator_status
from haystack_kernel.store import check_run_id
from inference.manifest import DEMO_MODEL, MODEL_ENGINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Ports, ProgressEvent
    from haystack_kernel.schema import JobSpec, RunConfig, RunRecord

_MASKED = str(SecretStr("x"))  # how a key shows: it never travels, the job has its own
_OVERHEAD_S = 3600.0  # of an orchestrator, beyond the jobs it waits for
_OF_THIS_MACHINE = (
    "cache",
    "knowledge",
    "storage",
)  # settings that another machine has its own of, or is told in words


def submit(
    question: str | None = None,
    *,
    run_id: str | None = None,
    settings: Settings | None = None,
    ports: Ports | None = None,
    approve: bool | None = None,
    max_cost: float | None = None,
    show: Callable[[str], object] = lambda line: None,
    **options: Any,  # noqa: ANN401 - fields of RunConfig and ``storage``
) -> Run:
    """Hand a run to a job of the executor that the options or the settings name, and return at once.

    The first record is saved before the job is submitted and names it, so that a repeated or interrupted call finds the
    same job. A run that its job works on, or that is done, is returned as it is; one that stopped goes on in a new
    attempt.

    Parameters
    ----------
    question
        What to ask, or the id of an existing run that goes on.
    run_id
        None makes a new one.
    settings
        None reads them from the layers and the environment; those that differ from the defaults travel with the job.
    ports
        None builds them from the settings.
    approve, max_cost
        Consent to spending and its cap in dollars, as in :func:`haystack_kernel.open_run`. The job that is started by
        this call gets them for the jobs that it starts itself; a further attempt needs the consent of its own call.
    show
        Gets lines worth reading before anything is started.
    **options
        ``storage``, and fields of :class:`haystack_kernel.schema.RunConfig`; for an existing run they must be its own.

    Returns
    -------
    The run, which the job works on.

    Raises
    ------
    InvalidInputError
        The question or an option is refused, or names files of this machine that a cloud job could not read.
    ApprovalNeededError
        The orchestrator's machine costs money and this call does not consent to it, or a cap does not hold it together
        with the first job that it would start. Nothing was started; the run is kept.

    Examples
    --------
    >>> run = haystack.submit("How would NK cells respond to IL-15?")  # doctest: +SKIP
    >>> run.status()["status"]  # doctest: +SKIP
    'running'
    """
    storage = options.pop("storage", None)

    def tell(event: ProgressEvent) -> None:
        show(progress_line(event))

    if ports is None:
        settings = settings or load_settings(storage=storage)
        ports = connect(settings, progress=tell, consent=Consent.given(approve, max_cost))
    if question is not None and is_run_id(question):
        question, run_id = None, question
    if run_id is not None and ports.store.has(check_run_id(run_id)):
        record = ports.store.load(run_id)
        if _is_in_hand(record, ports):
            return Run(record, ports=ports)
        record = open_run(question, run_id=run_id, settings=ports.settings, **options).record
        check_reachable(record.config, ports.settings)
    else:
        record = _begin(question, run_id=run_id, ports=ports, options=options)
    for note in record.notes:
        show(f"note: {note}")
    spec = orchestrator_spec(record, ports)
    if record.config.executor == "batch":
        check_settings(spec, ports.settings.batch)
        n_rounds = record.config.max_rounds - len(record.rounds)
        show(f"the orchestrator costs {describe(estimate_cost(spec, ports.settings.batch))}")
        show(f"each of up to {n_rounds} round(s) costs {describe(estimate_round(record, ports))}")
    return Run(_hand_over(record, ports, spec=spec), ports=ports)


def _is_in_hand(record: RunRecord, ports: Ports) -> bool:
    """Whether a run is done or its job works on it; a job that lost its machine gets its next attempt.

    Raises
    ------
    ApprovalNeededError
        The next attempt costs money, and this call does not consent to it.
    """
    if record.status != "running":
        return record.status == "done"
    status = orchestrator_status(record, ports, tend=True)
    if status is not None and status.needs_approval:
        raise ApprovalNeededError(status.needs_approval, run_id=record.run_id)
    return status is not None and not status.is_terminal


def check_reachable(config: RunConfig, settings: Settings) -> None:
    """Refuse to send a run to the cloud that needs files of this machine.

    Raises
    ------
    InvalidInputError
        Names each local path and where it belongs.
    """
    if "memory://" in settings.storage:
        msg = f"storage {settings.storage!r} ends with this process; give a folder or gs://bucket/prefix"
        raise InvalidInputError(msg, storage=settings.storage)
    if config.executor == "local" or settings.batch.insecure:
        return
    needed = {"storage (--storage, HAYSTACK_STORAGE)": settings.storage, "query_h5ad (--query-h5ad)": config.query_h5ad}
    if not _only_demo(config):
        needed["atlas_root (HAYSTACK_ATLAS_ROOT)"] = settings.atlas_root
    if config.engine == MODEL_ENGINE and config.model != DEMO_MODEL:
        needed |= {"model (--model)": config.model, "genelist (--genelist)": config.genelist}
    if local := {name: path for name, path in needed.items() if path and "://" not in path}:
        named = "; ".join(f"{name} is {path}" for name, path in local.items())
        msg = (
            f"executor {config.executor!r} works on other machines, which cannot read files of this one: {named}. "
            "Copy each to a bucket (gcloud storage cp -r PATH gs://BUCKET/…) and give its gs:// address"
        )
        raise InvalidInputError(msg, paths=local)


def orchestrator_spec(record: RunRecord, ports: Ports) -> JobSpec:
    """The job that works ``record``: ``haystack run`` on the record there is, which holds the options."""
    settings = ports.settings
    # The question comes last, after "--", since it may begin with a dash.
    words = ("run", "--run-id", record.run_id, "--storage", settings.storage, "--", record.question)
    starts_jobs = record.config.executor == "batch" and record.termination is None
    return build_orchestrator_spec(
        record.run_id,
        words=words,
        environment=travelling_settings(settings, config=record.config),
        timeout_s=record.config.max_rounds * settings.jobs.timeout_s + _OVERHEAD_S,
        follow_up_usd=estimate_round(record, ports).high_usd if starts_jobs else 0.0,
    )


def travelling_settings(settings: Settings, *, config: RunConfig) -> dict[str, str]:
    """Settings that differ from the defaults, as the variables that set them for the orchestrator.

    A cloud job gets none of this machine's folders: it has its own cache and knowledge, and builds the demo atlas.
    """
    stays = {"storage"} if config.executor == "local" else set(_OF_THIS_MACHINE)
    if config.executor != "local" and _only_demo(config):
        stays.add("atlas_root")
    found: dict[str, str] = {}
    now, default = settings.model_dump(mode="json"), Settings().model_dump(mode="json")
    for name in now.keys() - stays:
        both = (now[name], default[name])
        parts = {name: both} if not isinstance(both[0], dict) else {}
        parts |= {f"{name}__{key}": (both[0][key], both[1][key]) for key in both[0]} if not parts else {}
        parts = {key: pair for key, pair in parts.items() if f"{pair[0]}" != _MASKED and pair[0] != pair[1]}
        found |= {f"HAYSTACK_{key.upper()}": _as_variable(value) for key, (value, _) in parts.items()}
    return dict(sorted(found.items()))


def _as_variable(value: object) -> str:
    """A value as Dynaconf reads it back: a path or an address as it is, everything else marked as JSON."""
    is_plain = isinstance(value, str) and (value.startswith("/") or "://" in value)
    return str(value) if is_plain else f"@json {json.dumps(value)}"


def _only_demo(config: RunConfig) -> bool:
    return config.atlases == DEMO_ATLASES and config.query_atlas in (None, *DEMO_ATLASES)


def _begin(question: str | None, *, run_id: str | None, ports: Ports, options: dict[str, Any]) -> RunRecord:
    """The first record of a new run, after the checks that cost nothing; not saved yet."""
    if question is None:
        msg = f"no run {run_id!r} in {ports.settings.storage}; a new run needs a question"
        raise InvalidInputError(msg, run_id=run_id)
    config = build_config(ports.settings, **options)
    check_reachable(config, ports.settings)
    return first_record(question, run_id=run_id, config=config, ports=ports)


def _hand_over(record: RunRecord, ports: Ports, *, spec: JobSpec) -> RunRecord:
    """Save the intent, then submit; the job writes the next records, so nothing is saved afterwards."""
    executor = executor_named(record.config.executor, ports)
    handle = expected_handle(spec, executor=record.config.executor, now=ports.clock.now())
    record = ports.store.save(record.model_copy(update={"orchestrator": handle}))
    try:
        executor.submit(spec)
    except HaystackError as error:
        flow.save_failure(record, ports, step=flow.next_step(record) or "publish", error=error)
        raise
    return ports.store.load(record.run_id)
