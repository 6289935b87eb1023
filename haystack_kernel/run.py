"""A run as an object: start it, work it, attach to it from anywhere, look at it.

In: a question, or a run id. Out: :class:`Run`, which reads only the run folder; no cloud and no key is needed to look.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from haystack_kernel import flow
from haystack_kernel.connect import connect, software_versions
from haystack_kernel.errors import ConflictError, InvalidInputError
from haystack_kernel.publishing import candidate_table, write_report
from haystack_kernel.schema import HiddenPair, RunConfig, RunRecord
from haystack_kernel.settings import load_settings
from haystack_kernel.store import check_run_id, new_run_id, read_csv, read_h5ad

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad
    import pandas as pd
    from nbformat import NotebookNode

    from haystack_kernel.ports import Ports, Progress
    from haystack_kernel.schema import JobStatus, StructuredQuery, TermKind
    from haystack_kernel.settings import Settings


NOTEBOOK = "run.ipynb"


class Run:
    """One question and everything made for it.

    Parameters
    ----------
    record
        Newest record.
    ports
        What the run talks to.
    """

    def __init__(self, record: RunRecord, *, ports: Ports) -> None:
        self.record = record
        self._ports = ports

    # --- identity ---

    @property
    def run_id(self) -> str:
        """The run's id, its folder's name."""
        return self.record.run_id

    @property
    def folder(self) -> str:
        """Address of the run folder."""
        return self._ports.store.uri(self.run_id)

    @property
    def score(self) -> float:
        """Unrounded composite of the best round; NaN where there is none."""
        return self.record.score

    @property
    def query(self) -> StructuredQuery | None:
        """The parsed question; None before it was understood."""
        return self.record.query

    def __repr__(self) -> str:
        score = "not scored" if self.score != self.score else f"score {self.score:.1f}"
        return f"Run({self.run_id!r}, {self.record.status}, {len(self.record.rounds)} round(s), {score})"

    def _repr_html_(self) -> str:
        from haystack_kernel.report import run_card

        return run_card(self.record)

    # --- work ---

    def understand(self) -> Run:
        """Parse the question, unless done."""
        return self.work(until="retrieve")

    def retrieve(self) -> Run:
        """Find the prompt candidates and the query cells, unless done."""
        return self.work(until="choose")

    def iterate(self) -> Run:
        """Predict and score, round by round, until a stop rule holds, unless done."""
        return self.work(until="interpret")

    def work(self, *, until: str | None = None) -> Run:
        """Do the unfinished steps (those before ``until``); the record is saved after each.

        Raises
        ------
        HaystackError
            A step failed; ``resume`` goes on from there.
        ConflictError
            Another process works on this run; follow it with :func:`attach`.
        """
        try:
            while (step := flow.next_step(self.record)) is not None and step != until:
                self.record = flow.advance(self.record, self._ports)
        except ConflictError:
            self.refresh()
            if self.record.status != "cancelled":
                raise
        except BaseException:
            self.refresh()
            raise
        return self

    def cancel(self) -> Run:
        """Stop the run and its job; finished steps are kept and :func:`resume` can go on from them."""
        self.refresh()
        last = self.record.rounds[-1] if self.record.rounds else None
        if last is not None and last.job is not None and not last.task_seconds:
            self._ports.executors[last.job.executor].cancel(last.job)
        if self.record.status == "running":
            self.record = self._ports.store.save(self.record.model_copy(update={"status": "cancelled"}))
        return self

    # --- looking ---

    def refresh(self) -> Run:
        """Read the newest record from the run folder."""
        self.record = self._ports.store.load(self.run_id)
        return self

    def status(self) -> dict[str, Any]:
        """The state in a few JSON-able values: step, rounds, score (None: not scored), folder, failure."""
        record = self.refresh().record
        score = self.score
        return {
            "run_id": record.run_id,
            "status": record.status,
            "next_step": flow.next_step(flow.revive(record)),
            "rounds": len(record.rounds),
            "best_round": record.best_round,
            "score": None if score != score else round(score, 3),  # noqa: PLR0124 - NaN
            "termination": record.termination,
            "folder": self.folder,
            "report": f"{self.folder}/report.html" if record.status == "done" else None,
            "failure": record.failure.model_dump() if record.failure else None,
        }

    def job_status(self) -> JobStatus | None:
        """State of the newest job; None before the first was submitted."""
        jobs = [item.job for item in self.record.rounds if item.job is not None]
        return self._ports.executors[jobs[-1].executor].status(jobs[-1]) if jobs else None

    def log(self) -> str:
        """End of the newest job's log; empty before the first job."""
        status = self.job_status()
        return status.log_tail if status else ""

    @property
    def candidates(self) -> pd.DataFrame:
        """Ranked prompt candidates, one row each, with the reason and the matched control."""
        return candidate_table(self.record)

    @cached_property
    def de(self) -> pd.DataFrame:
        """Differential expression of the best round, one row per gene."""
        return self._best_table("de.csv")

    @cached_property
    def pathways(self) -> pd.DataFrame:
        """Pathway statistics of the best round, one row per pathway."""
        return self._best_table("pathways.csv")

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """Cells used in the best round, one row per cell and role."""
        return self._best_table("prompts.csv")

    @cached_property
    def embedding(self) -> pd.DataFrame:
        """Two-dimensional coordinates of prompt, control, query and predicted cells of the best round."""
        return self._best_table("embedding.csv")

    @cached_property
    def predictions(self) -> ad.AnnData:
        """The predicted cells of the best round (raw counts in X)."""
        return read_h5ad(self._ports.store, self.run_id, f"{self._best_folder()}/predictions.h5ad")

    def follow(self, show: Callable[[str], object], *, poll_s: float = 1.0) -> Run:
        """Read the run folder until the run is no longer running; ``show`` gets one line per finished step."""
        seen = 0
        while True:
            for time in self.refresh().record.steps[seen:]:
                show(f"{time.step}: done ({time.seconds:.1f} s)")
            seen = len(self.record.steps)
            if self.record.status != "running":
                return self
            self._ports.clock.sleep(poll_s)

    def notebook(self) -> NotebookNode | None:
        """The executed notebook; None when the run was not made by one."""
        import nbformat

        if not self._ports.store.exists(self.run_id, NOTEBOOK):
            return None
        return nbformat.reads(self._ports.store.read(self.run_id, NOTEBOOK).decode(), as_version=4)

    def write_report(self, *, notebook: NotebookNode | None = None) -> str:
        """Render report.html again, optionally with the executed notebook; returns its address."""
        return write_report(self.record, self._ports.store, notebook=notebook)

    def _best_table(self, name: str) -> pd.DataFrame:
        return read_csv(self._ports.store, self.run_id, f"{self._best_folder()}/{name}")

    def _best_folder(self) -> str:
        if self.record.best_round is None:
            msg = f"run {self.run_id} has no scored round yet ({self.record.status}); call run.work() first"
            raise InvalidInputError(msg, run_id=self.run_id)
        return f"rounds/{self.record.best_round}"


def open_run(
    question: str | None = None,
    *,
    run_id: str | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
    **options: Any,  # noqa: ANN401 - fields of RunConfig, validated by it
) -> Run:
    """Start a run, or go on with it when ``run_id`` exists: the one call of the run notebook.

    Parameters
    ----------
    question
        What to ask; needed for a new run. For an existing one it must be the same or None.
    run_id
        None makes a new one.
    storage
        Where run folders live; None takes the settings'.
    progress
        Listener; None shows progress in the notebook that calls, or nothing elsewhere.
    settings
        None reads them from the layers and the environment.
    **options
        Fields of :class:`haystack_kernel.schema.RunConfig`; None takes the settings' value. ``hide`` also takes
        ``"CELL TYPE:PERTURBATION"`` strings.

    Raises
    ------
    InvalidInputError
        A bad id, option or question, or a run id that belongs to another question.
    """
    settings = settings or load_settings(storage=storage)
    ports = connect(settings, progress=progress or _default_progress())
    if run_id is not None and ports.store.has(check_run_id(run_id)):
        return _reopen(ports, run_id=run_id, question=question)
    if question is None:
        msg = "a new run needs a question, e.g. 'How would lung fibroblasts respond to TGF-beta?'"
        raise InvalidInputError(msg)
    from haystack_kernel.question import check_question

    record = RunRecord(
        run_id=run_id or new_run_id(ports.clock.now()),
        question=check_question(question),
        config=build_config(settings, **options),
        created_at=ports.clock.now(),
        versions=software_versions(),
    )
    return Run(ports.store.create(record), ports=ports)


def attach(run_id: str, *, storage: str | None = None, progress: Progress | None = None) -> Run:
    """Find a run again, e.g. after a kernel restart; it is only read until ``work`` is called.

    Raises
    ------
    NotFoundError
        No such run in this storage.
    """
    ports = connect(load_settings(storage=storage), progress=progress or _default_progress())
    return Run(ports.store.load(check_run_id(run_id)), ports=ports)


def resume(run_id: str, *, storage: str | None = None, progress: Progress | None = None) -> Run:
    """Attach to a run and make it ready to go on where it stopped, failed or was cancelled."""
    run = attach(run_id, storage=storage, progress=progress)
    run.record = flow.revive(run.record)
    return run


def list_runs(*, storage: str | None = None) -> list[Run]:
    """All runs of a storage, newest first."""
    ports = connect(load_settings(storage=storage))
    ids = [run_id for run_id in ports.store.list_runs() if ports.store.has(run_id)]
    return [Run(ports.store.load(run_id), ports=ports) for run_id in ids]


def build_config(settings: Settings, **options: Any) -> RunConfig:  # noqa: ANN401 - validated by RunConfig
    """Settings and options -> the run's configuration.

    Raises
    ------
    InvalidInputError
        Unknown option or value; a hidden pair that names no known cell type or perturbation.
    """
    from pydantic import ValidationError

    defaults: dict[str, Any] = {
        "atlases": settings.atlases,
        "planner": settings.planner,
        "engine": settings.inference.engine,
        "control_strategy": settings.inference.control_strategy,
        "threshold": settings.rounds.threshold,
        "max_rounds": settings.rounds.maximum,
        "n_prompt": settings.inference.n_prompt,
        "n_query": settings.inference.n_query,
        "seed": settings.seed,
    }
    given = {name: value for name, value in options.items() if value is not None}
    given["hide"] = tuple(parse_hidden(item) if isinstance(item, str) else item for item in given.get("hide", ()))
    try:
        return RunConfig.model_validate({**defaults, **given})
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        msg = f"invalid run options: {'; '.join(lines)}; possible: {', '.join(RunConfig.model_fields)}"
        raise InvalidInputError(msg, errors=lines) from error


def parse_hidden(text: str) -> HiddenPair:
    """``"CD4 T cell:IFN-beta"`` -> the pair of ids that no strategy may see.

    Raises
    ------
    InvalidInputError
        No colon, or a side that no known cell type or perturbation matches; the nearest known are named.
    """
    from haystack_kernel.knowledge import load_knowledge, resolve

    cell_type, separator, perturbation = text.rpartition(":")
    if not separator or not cell_type.strip() or not perturbation.strip():
        msg = f"--hide {text!r} must be 'CELL TYPE:PERTURBATION', e.g. 'CD4 T cell:IFN-beta'"
        raise InvalidInputError(msg, given=text)
    found = []
    sides: tuple[tuple[TermKind, str], ...] = (("cell_type", cell_type), ("perturbation", perturbation))
    for kind, part in sides:
        resolution = resolve(part.strip(), kind=kind, knowledge=load_knowledge())
        if resolution.match is None:
            nearest = ", ".join(match.name for match in resolution.alternatives) or "none"
            msg = f"--hide {text!r}: unknown {kind.replace('_', ' ')} {part.strip()!r}; nearest known: {nearest}"
            raise InvalidInputError(msg, given=text)
        found.append(resolution.match.id)
    return HiddenPair(cell_type_id=found[0], perturbation=found[1])


def _reopen(ports: Ports, *, run_id: str, question: str | None) -> Run:
    record = ports.store.load(run_id)
    if question is not None and question.strip() != record.question:
        msg = f"run {run_id} asks {record.question!r}, not {question!r}; leave run_id out to start a new run"
        raise InvalidInputError(msg, run_id=run_id)
    return Run(flow.revive(record), ports=ports)


def _default_progress() -> Progress | None:
    from haystack_kernel.jupyter.displays import notebook_progress

    return notebook_progress()
