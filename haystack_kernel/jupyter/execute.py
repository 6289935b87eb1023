"""A run as papermill executes it: the notebook is the orchestrator, the run folder gets it executed.

In: a question and options. Out: run.ipynb and report.html in the run folder, and a summary for the command line.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from haystack_kernel import errors
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ConflictError, HaystackError, NotFoundError
from haystack_kernel.jupyter.kernels import EarlyKernel, early_kernel
from haystack_kernel.jupyter.stopping import listen
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.progress import stream_progress
from haystack_kernel.run import Run, open_run
from haystack_kernel.store import layout
from inference.imports import load_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.jupyter.stopping import StopRequest
    from haystack_kernel.ports import Progress

_TO_CHECK = ("haystack_kernel.planners.offline", "haystack_kernel.retrieval", "haystack_kernel.atlas.index")
_LAST_STEPS = ("haystack_kernel.report.render", "nbconvert.filters.markdown_mistune", "nh3")  # of the report
_SUPERSEDED = "ConflictError: "  # how the account of a cell begins that another process overtook
_INTERRUPTED = ("KeyboardInterrupt: ", "RunInterrupted: ")  # likewise, of a cell that was asked to stop


@dataclass(frozen=True)
class Outcome:
    """What the command line prints, and how it ends.

    Attributes
    ----------
    summary
        :meth:`Run.status` of the run.
    error
        What ended the run; None: it is done, or was interrupted.
    interrupted
        What a person should know about a run that was interrupted; empty for others.
    exit_code
        Of an interrupted run.
    """

    summary: dict[str, Any]
    error: HaystackError | None = None
    interrupted: str = ""
    exit_code: int = 0


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
    question: str,
    *,
    storage: str | None,
    run_id: str | None,
    options: dict[str, Any],
    stream: TextIO,
    spending: dict[str, Any] | None = None,
    kernel: EarlyKernel | None = None,
) -> Outcome:
    """Execute ``haystack.ipynb`` for a new run, or for an existing one that goes on.

    Parameters
    ----------
    options
        Fields of RunConfig for a new run; empty for an existing one.
    stream
        Where progress lines go.
    spending
        ``approve`` and ``max_cost`` as in :func:`haystack_kernel.run.open_run`, where they were given.
    kernel
        One that was started for this; None starts one.

    Raises
    ------
    HaystackError
        The question or an option is refused before anything is started; no folder is made then.
    """
    settings = load_settings(storage=storage)
    show = stream_progress(stream)
    with listen() as stop, nullcontext(kernel) if kernel else early_kernel() as started:
        load_modules(_TO_CHECK, for_good=True)
        # reading the question may cost money, too
        run = open_run(question, run_id=run_id, settings=settings, progress=show, **(spending or {}), **options)
        stream.writelines(f"note: {note}\n" for note in run.record.notes)
        stream.write(f"run {run.run_id} in {run.folder}\n")
        given = {**options, **(spending or {})}
        parameters = {"question": question, "storage": settings.storage, "run_id": run.run_id, **given}
        try:
            failure = _papermill(
                f"{run.folder}/{layout.NOTEBOOK}", parameters=parameters, kernel=started, show=show, stop=stop
            )
            run.refresh()
            if run.record.status == "done" and not failure.startswith(_SUPERSEDED):  # else the other process writes it
                run.write_report(notebook=run.notebook(), reuse=True)
        except KeyboardInterrupt:
            failure = _INTERRUPTED[0]
            run.refresh()
        if stop.number is not None or failure.startswith(_INTERRUPTED):
            run.leave()  # the request may have come between two cells, where nobody holds the lease
            return Outcome(
                run.status(), interrupted=run.interruption(storage=storage, in_notebook=False), exit_code=stop.exit_code
            )
    if run.record.status == "done" and not failure:
        return Outcome(run.status())
    return Outcome(run.status(), error=_as_error(run, failure=failure))


def _papermill(
    output: str, *, parameters: dict[str, Any], kernel: EarlyKernel, show: Progress, stop: StopRequest
) -> str:
    """Execute the notebook; returns papermill's account of a failing cell, empty when all ran."""
    is_local = "://" not in output
    with _without_buckets() if is_local else nullcontext():
        load_modules(["papermill"], for_good=True)
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    def tell(event: dict[str, Any]) -> None:
        show(ProgressEvent(**event))
        if event["phase"] == "collect":  # while others work: what the report will need is not waited for at the end
            load_modules(_LAST_STEPS, for_good=True)

    if is_local:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook_path("haystack")),
            output,
            parameters=parameters,
            engine_name="haystack",
            kernel_name="python3",
            progress_bar=False,
            kernel=kernel.manager(),
            stop=stop,
            on_event=tell,
        )
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        return "the notebook's kernel died (killed, or out of memory)"
    except RuntimeError as error:  # what jupyter_client raises when a kernel does not come up
        return f"the notebook's kernel did not start: {error}"
    return ""


@contextmanager
def _without_buckets() -> Iterator[None]:
    """Hide the file system of buckets from papermill, which would spend a second on importing it for nothing."""
    hidden = "gcsfs" not in sys.modules
    if hidden:
        sys.modules["gcsfs"] = None  # type: ignore[assignment]  # which says to an import that there is none
    try:
        yield
    finally:
        if hidden:
            del sys.modules["gcsfs"]


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
