"""Hand a run over to a job: an orchestrator, here or in the cloud, works on it after the caller has left.

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
from haystack_kernel.progress import tell_changes
from haystack_kernel.rounds import estimate_round
from haystack_kernel.run import Run, first_record, open_run
from haystack_kernel.schema import CELL_OPTIONS, Settings, is_run_id
from haystack_kernel.steering import executor_named, orchestrator_status
from haystack_kernel.store import check_run_id, is_kept, keep_with_run, take_along
from inference.manifest import DEMO_MODEL, MODEL_ENGINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import Access, JobSpec, RunConfig, RunRecord

_MASKED = str(SecretStr("x"))  # how a key is shown; a key never travels, since the job has its own
_OVERHEAD_S = 3600.0  # time limit of an orchestrator beyond those of the jobs that it waits for
# Settings of which another machine has its own, or which the command of the job names.
_OF_THIS_MACHINE = ("cache", "knowledge", "storage", "service", "mcp")


def submit(  # noqa: PLR0913 - what is asked, what it may spend, and for whom
    question: str | None = None,
    *,
    run_id: str | None = None,
    settings: Settings | None = None,
    ports: Ports | None = None,
    approve: bool | None = None,
    max_cost: float | None = None,
    show: Callable[[str], object] = lambda line: None,
    access: Access | None = None,
    **options: Any,  # noqa: ANN401 - fields of RunConfig and ``storage``
) -> Run:
    """Hand a run to a job of the executor that the options or the settings name, and return at once.

    The first record names the job and is saved before the job is submitted, so that a repeated or interrupted call
    finds the same job. A run that is done, or that its job works on, is returned as it is. A run that stopped goes on
    in a new attempt.

    Parameters
    ----------
    question
        What to ask, or the id of an existing run to go on with.
    run_id
        Id of the run; None makes a new one.
    settings
        None reads them from the settings files and the environment; settings that differ from the defaults travel with
        the job.
    ports
        None builds them from the settings.
    approve, max_cost
        Consent to spending and its cap in dollars, as in :func:`haystack_kernel.open_run`. The job that is started here
        passes them on to the jobs that it starts; a further attempt needs the consent of its own call.
    show
        Called with notes and cost estimates, line by line, before anything is started.
    access
        Whose run it is, where a service submits it for a person; saved before the first record.
    **options
        ``storage``, and fields of :class:`haystack_kernel.schema.RunConfig`; for an existing run they must be its own.

    Returns
    -------
    The run on which the job works.

    Raises
    ------
    InvalidInputError
        The question or an option is refused, or names files of this machine that a cloud job could not read.
    ApprovalNeededError
        The orchestrator's machine costs money and this call does not consent to it, or a cap is too low for it and the
        first job that it would start. Nothing was started; the run is kept.

    Examples
    --------
    >>> run = haystack.submit("How would NK cells respond to IL-15?")  # doctest: +SKIP
    >>> run.status()["status"]  # doctest: +SKIP
    'running'
    """
    storage = options.pop("storage", None)

    if ports is None:
        settings = settings or load_settings(storage=storage)
        ports = connect(settings, progress=tell_changes(show), consent=Consent.given(approve, max_cost))
    if question is not None and is_run_id(question):
        question, run_id = None, question
    record, is_in_hand = _find_or_begin(question, run_id=run_id, ports=ports, options=options)
    if is_in_hand:
        return Run(record, ports=ports)
    for note in record.notes:
        show(f"note: {note}")
    spec = orchestrator_spec(record, ports)
    if record.config.executor == "batch":
        check_settings(spec, ports.settings.batch)
        n_rounds = record.config.max_rounds - len(record.rounds)
        show(f"the orchestrator costs {describe(estimate_cost(spec, ports.settings.batch))}")
        show(f"each of up to {n_rounds} round(s) costs {describe(estimate_round(record, ports))}")
    # The intent is saved before the job is submitted. The job writes the next records, so nothing is saved afterwards.
    executor = executor_named(record.config.executor, ports)
    handle = expected_handle(spec, executor=record.config.executor, now=ports.clock.now())
    ports.store.claim(record.run_id, access)
    keep_with_run(record, ports)
    record = ports.store.save(record.model_copy(update={"orchestrator": handle}))
    try:
        executor.submit(spec)
    except HaystackError as error:
        flow.save_failure(record, ports, step=flow.next_step(record) or "publish", error=error)
        raise
    return Run(ports.store.load(record.run_id), ports=ports)


def _find_or_begin(
    question: str | None, *, run_id: str | None, ports: Ports, options: dict[str, Any]
) -> tuple[RunRecord, bool]:
    """Find the run, or begin a new one, and say whether it needs no submission: it is done, or its job works on it.

    All checks that cost nothing are made here. The first record of a new run is not saved yet. A job that lost its
    machine gets its next attempt.

    Raises
    ------
    ApprovalNeededError
        The next attempt costs money, and this call does not consent to it.
    """
    settings = ports.settings
    if run_id is None or not ports.store.has(check_run_id(run_id)):
        if question is None:
            msg = f"no run {run_id!r} in {settings.storage}; a new run needs a question"
            raise InvalidInputError(msg, run_id=run_id)
        config = take_along(build_config(settings, **options), settings)
        check_reachable(config, settings)
        return first_record(question, run_id=run_id, config=config, ports=ports), False
    record = ports.store.load(run_id)
    if record.status == "done":
        return record, True
    if record.status == "running":
        status = orchestrator_status(record, ports, tend=True)
        if status is not None and status.needs_approval:
            raise ApprovalNeededError(status.needs_approval, run_id=record.run_id)
        if status is not None and not status.is_terminal:
            return record, True
    record = open_run(question, run_id=run_id, settings=settings, **options).record
    check_reachable(record.config, settings)
    return record, False


def check_reachable(config: RunConfig, settings: Settings) -> None:
    """Refuse to send a run to the cloud if it needs files of this machine.

    Raises
    ------
    InvalidInputError
        A path is local; the message names each one and says where to copy it.
    """
    if "memory://" in settings.storage:
        msg = f"storage {settings.storage!r} ends with this process; give a folder or gs://bucket/prefix"
        raise InvalidInputError(msg, storage=settings.storage)
    if config.executor == "local" or settings.batch.insecure:
        return
    needed: dict[str, str | None] = {"storage (--storage, HAYSTACK_STORAGE)": settings.storage}
    needed |= _own_cells_elsewhere(config)
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


def _own_cells_elsewhere(config: RunConfig) -> dict[str, str | None]:
    """Files of the user's own cells of which the run has no copy in its folder, by option."""
    paths = {f"{name} (--{name.removesuffix('_h5ad')})": getattr(config, name) for name in CELL_OPTIONS}
    return {name: path for name, path in paths.items() if not is_kept(path)}


def orchestrator_spec(record: RunRecord, ports: Ports) -> JobSpec:
    """Describe the job that works on ``record``: ``haystack run`` on the saved record, which holds the options."""
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
    """Return the settings that differ from the defaults, as environment variables for the orchestrator.

    A cloud job gets no folder of this machine: it has its own cache and knowledge, and builds the demo atlas itself.
    """
    stays = {"storage", "service", "mcp"} if config.executor == "local" else set(_OF_THIS_MACHINE)
    if config.executor != "local" and _only_demo(config):
        stays.add("atlas_root")
    found: dict[str, str] = {}
    now, default = settings.model_dump(mode="json"), Settings().model_dump(mode="json")
    for name in now.keys() - stays:
        both = (now[name], default[name])
        parts = {name: both}
        if isinstance(both[0], dict):
            parts = {f"{name}__{key}": (both[0][key], both[1][key]) for key in both[0]}
        for key, (value, usual) in parts.items():
            if f"{value}" != _MASKED and value != usual:
                found[f"HAYSTACK_{key.upper()}"] = _as_variable(value)
    return dict(sorted(found.items()))


def _as_variable(value: object) -> str:
    """The text that Dynaconf reads back as ``value``: paths and addresses unchanged, everything else marked as JSON."""
    is_plain = isinstance(value, str) and (value.startswith("/") or "://" in value)
    return str(value) if is_plain else f"@json {json.dumps(value)}"


def _only_demo(config: RunConfig) -> bool:
    """Whether the run uses the demo atlas alone."""
    return set(config.atlas_names) <= set(DEMO_ATLASES)
