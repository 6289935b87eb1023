"""A run as papermill executes it: the notebook is the orchestrator, the run folder gets it executed.

In: a question and options. Out: run.ipynb and report.html in the run folder, and a summary for the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from haystack_kernel import errors
from haystack_kernel.connect import DEMO_ATLAS, connect
from haystack_kernel.errors import ConflictError, HaystackError, NotFoundError
from haystack_kernel.options import build_config
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.progress import stream_progress
from haystack_kernel.question import check_question
from haystack_kernel.run import NOTEBOOK, Run, attach, open_run
from haystack_kernel.settings import load_settings
from haystack_kernel.store import check_run_id, new_run_id

if TYPE_CHECKING:
    from haystack_kernel.schema import RunConfig

_SUPERSEDED = "ConflictError: "  # how the account of a cell begins that another process overtook


@dataclass(frozen=True)
class Outcome:
    """What the command line prints, and the error it ends with (None: the run is done)."""

    summary: dict[str, Any]
    error: HaystackError | None = None


def notebook_path(name: str) -> Path:
    """Path of a packaged notebook, from a checkout or from an installed wheel.

    Raises
    ------
    NotFoundError
        Neither place has it: the installation is incomplete.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "notebooks", package.parent / "notebooks"):  # wheel, checkout
        if (folder / f"{name}.ipynb").exists():
            return folder / f"{name}.ipynb"
    msg = f"notebook {name!r} is not installed beside {package}; install haystack-kernel again"
    raise NotFoundError(msg, name=name)


def execute_run(
    question: str, *, storage: str | None, run_id: str | None, options: dict[str, Any], stream: TextIO
) -> Outcome:
    """Execute ``haystack.ipynb`` for a new run, or for an existing one that goes on.

    Parameters
    ----------
    options
        Fields of RunConfig for a new run; empty for an existing one.
    stream
        Where progress lines go.

    Raises
    ------
    HaystackError
        The question or an option is refused before anything is started; no folder is made then.
    """
    settings = load_settings(storage=storage)
    ports = connect(settings)
    if run_id is None or not ports.store.has(check_run_id(run_id)):
        config = build_config(settings, **options)
        ports.planner.understand(check_question(question))
        _check_cells(config, root=settings.atlas_root, stream=stream)
        run_id = run_id or new_run_id(ports.clock.now())
    else:
        open_run(question, run_id=run_id, settings=settings, **options)
    stream.write(f"run {run_id} in {ports.store.uri(run_id)}\n")
    parameters = {"question": question, "storage": settings.storage, "run_id": run_id, **options}
    failure = _papermill(ports.store.uri(run_id, NOTEBOOK), parameters=parameters, stream=stream)
    if not ports.store.has(run_id):
        why = failure or "the notebook made no record"
        msg = f"run {run_id} did not start: {why}; see {ports.store.uri(run_id, NOTEBOOK)}"
        raise HaystackError(msg, run_id=run_id)
    run = attach(run_id, storage=storage)
    if run.record.status == "done" and not failure.startswith(_SUPERSEDED):  # else the other process writes it
        run.write_report(notebook=run.notebook())
    if run.record.status == "done" and not failure:
        return Outcome(run.status())
    return Outcome(run.status(), error=_as_error(run, failure=failure))


def _check_cells(config: RunConfig, *, root: str, stream: TextIO) -> None:
    """Refuse atlases that are not there and query cells that cannot be used before anything is started."""
    from haystack_kernel.atlas import atlas_info

    for name in {*config.atlases, config.query_atlas} - {DEMO_ATLAS, None}:
        atlas_info(str(name), root)
    if config.query_h5ad is not None:
        from haystack_kernel.retrieval import check_query_h5ad

        genelist = config.genelist if config.engine == "stack" else None
        found = check_query_h5ad(config.query_h5ad, genelist=genelist)
        stream.write(f"{found!r}\n")
        found.require()


def _papermill(output: str, *, parameters: dict[str, Any], stream: TextIO) -> str:
    """Execute the notebook; returns papermill's account of a failing cell, empty when all ran."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    show = stream_progress(stream)
    if "://" not in output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook_path("haystack")),
            output,
            parameters=parameters,
            engine_name="haystack",
            kernel_name="python3",
            progress_bar=False,
            own_interpreter=True,
            on_event=lambda event: show(ProgressEvent(**event)),
        )
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        return "the notebook's kernel died (killed, or out of memory)"
    except RuntimeError as error:  # what jupyter_client raises when a kernel does not come up
        return f"the notebook's kernel did not start: {error}"
    return ""


def _as_error(run: Run, *, failure: str) -> HaystackError:
    """The error of the record, or what the notebook said when the run never got that far."""
    recorded = run.record.failure
    if failure.startswith(_SUPERSEDED):
        return ConflictError(failure.removeprefix(_SUPERSEDED), run_id=run.run_id)
    if run.record.status == "done":
        msg = f"run {run.run_id} is scored and published, but a later cell of its notebook failed: {failure}"
        return HaystackError(msg, run_id=run.run_id)
    if run.record.status == "cancelled":
        msg = f"run {run.run_id} was cancelled; what is finished is kept, and `haystack resume {run.run_id}` goes on"
        return HaystackError(msg, run_id=run.run_id)
    if recorded is None:
        msg = f"run {run.run_id} stopped: {failure or run.record.status}. `haystack resume {run.run_id}` goes on"
        return HaystackError(msg, run_id=run.run_id)
    kind = getattr(errors, recorded.kind, HaystackError)
    msg = f"run {run.run_id} stopped at '{recorded.step}': {recorded.message} (`haystack resume {run.run_id}` goes on)"
    error: HaystackError = kind(msg, **recorded.facts)
    return error
