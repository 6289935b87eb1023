"""A run as an object: start it, work it, attach to it from anywhere, look at it.

In: a question, or a run id. Out: :class:`Run`, which reads only the run folder; no cloud and no key is needed to look.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel import flow, keys
from haystack_kernel.config.connect import connect, software_versions
from haystack_kernel.config.drift import find_drift, pinned, recorded_settings
from haystack_kernel.config.inputs import changed_inputs, check_unchanged, input_digests
from haystack_kernel.config.opening import check_opening, check_query
from haystack_kernel.config.options import build_config, changed_options, read_typed
from haystack_kernel.config.settings import load_settings
from haystack_kernel.config.vocabulary import read_vocabulary
from haystack_kernel.errors import (
    ApprovalNeededError,
    ContractError,
    HaystackError,
    InvalidInputError,
    JobFailedError,
    NotFoundError,
    RunInterrupted,
    explain_refusals,
)
from haystack_kernel.knowledge import load_knowledge, with_vocabulary
from haystack_kernel.planners.unused import still_unused
from haystack_kernel.ports import Consent
from haystack_kernel.progress import notebook_progress
from haystack_kernel.rounds import estimate_round, keep_bills, query_of
from haystack_kernel.rounds.publishing import write_report
from haystack_kernel.schema import MODEL_PLANNERS, RunRecord
from haystack_kernel.steering import (
    abandoned,
    check_free,
    describe,
    describe_interruption,
    leave,
    lost_orchestrator,
    next_commands,
    orchestrator_status,
    stop,
    stop_job,
    wait_until_free,
)
from haystack_kernel.store import (
    Lease,
    check_run_id,
    find_worker,
    keep_with_run,
    layout,
    new_run_id,
    read_csv,
    read_h5ad,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anndata as ad
    import pandas as pd
    from nbformat import NotebookNode

    from haystack_kernel.explorer import Explorer
    from haystack_kernel.ports import Ports, Progress
    from haystack_kernel.report.candidates import CandidateTable
    from haystack_kernel.report.html import Html
    from haystack_kernel.schema import Clarification, CostEstimate, JobStatus, RunConfig, Settings, StructuredQuery
    from haystack_kernel.store import Worker


_ASK_WORKER_S = 5.0  # between two looks at who works on a run that is followed


class Run:
    """One question and everything made for it.

    Parameters
    ----------
    record
        Newest record.
    ports
        What the run talks to.

    Examples
    --------
    >>> run = haystack.open_run("How would B cells respond to IFN-beta?")  # doctest: +SKIP
    >>> run.work().score  # doctest: +SKIP
    8.5
    """

    def __init__(self, record: RunRecord, *, ports: Ports) -> None:
        self.record = record
        self._ports = ports
        self._is_interrupted = False
        self._read: dict[str, Any] = {}  # path -> table; a later best round has other paths

    # --- identity ---

    @property
    def run_id(self) -> str:
        """Id of the run, which is also the name of its folder."""
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
        """The question as it was understood; None before that step."""
        return self.record.query

    def __repr__(self) -> str:
        score = "not scored" if self.score != self.score else f"score {self.score:.1f}"
        return f"Run({self.run_id!r}, {self._shown_status()}, {len(self.record.rounds)} round(s), {score})"

    def _repr_html_(self) -> str:
        from haystack_kernel.report import run_card

        return run_card(self.record, status=self._shown_status(), folder=self.folder)._repr_html_()

    def _shown_status(self) -> str:
        return "interrupted" if self._is_interrupted and self.record.status == "running" else self.record.status

    # --- work ---

    def understand(self) -> Run:
        """Parse the question, unless this was done before.

        Returns
        -------
        This run, with its newest record.

        Examples
        --------
        >>> run.understand().query.cell_type_name  # doctest: +SKIP
        'B cell'
        """
        return self.work(until="retrieve")

    def retrieve(self) -> Run:
        """Find the prompt candidates and the query cells, unless this was done before.

        Returns
        -------
        This run, with its newest record.

        Examples
        --------
        >>> run.retrieve().candidates.to_frame()  # doctest: +SKIP
        """
        return self.work(until="choose")

    def iterate(self) -> Run:
        """Predict and score, round by round, until a stop rule holds, unless this was done before.

        Returns
        -------
        This run, with its newest record.

        Examples
        --------
        >>> run.iterate().score  # doctest: +SKIP
        8.5
        """
        return self.work(until="interpret")

    def work(self, *, until: str | None = None) -> Run:
        """Do every unfinished step, or those that come before ``until``; the record is saved after each.

        Parameters
        ----------
        until
            Name of a step of :data:`haystack_kernel.flow.STEPS`; None does all.

        Returns
        -------
        This run, with its newest record.

        Raises
        ------
        HaystackError
            A step failed; ``resume`` goes on from there.
        ConflictError
            Another process works on this run; follow it with :func:`attach`.

        Examples
        --------
        >>> run.work(until="submit").estimate()  # doctest: +SKIP
        >>> run.work().score  # doctest: +SKIP
        8.5
        """
        if flow.next_step(self.record, until=until) is None:
            return self
        self._is_interrupted = False
        ports = replace(self._ports, settings=pinned(self._ports.settings, self.record))
        store, ttl_s = ports.store, ports.settings.lease.ttl_s
        try:
            with Lease.acquire(store, self.run_id, clock=ports.clock, ttl_s=ttl_s) as lease:
                following = layout.record_file(self.record.serial + 1)
                if lease.took_over or store.exists(self.run_id, following):
                    # a conflict where this run has moved on; else the worker before finds this record in its way
                    self.record = store.save(self.record)
                self.record = flow.work(self.record, ports, until=until, check=lease.check)
        except BaseException as error:
            with suppress(HaystackError):  # the storage may be what failed: the first error is the one to show
                self.refresh()
            if isinstance(error, KeyboardInterrupt):
                self._is_interrupted = True
                raise RunInterrupted(self.interruption()) from None
            if not isinstance(error, HaystackError) or self.record.status != "cancelled":
                raise
            stop_job(self.record, self._ports)  # submitted while the cancellation was written
        return self

    def edit_query(self, **changes: Any) -> Run:  # noqa: ANN401 - fields of StructuredQuery, validated by it
        """Correct the question as it was understood; later steps are done again, and the bills of jobs are kept.

        Parameters
        ----------
        **changes
            Fields of :class:`haystack_kernel.schema.StructuredQuery` and their new values.

        Returns
        -------
        The run, saved; ``work`` goes on with the search. Words of the question that were not used and that the changes
        write count as used.

        Raises
        ------
        InvalidInputError
            A field does not exist, its value is refused, or the question was not understood yet.
        NoCandidateError
            The corrected query names a dataset, donor, tissue or disease that the atlases do not hold.
        ConflictError
            Another worker is working on the run.

        Examples
        --------
        >>> run.edit_query(cell_type_id="CL:0000623", cell_type_name="natural killer cell")  # doctest: +SKIP
        """
        from pydantic import ValidationError

        if self.query is None:
            msg = f"the question of run {self.run_id} was not understood yet; call run.understand() first"
            raise InvalidInputError(msg, run_id=self.run_id)
        self.check_free()
        changes.setdefault("unused", still_unused(self.query.unused, values=_texts(changes)))
        try:
            query = type(self.query).model_validate({**self.query.model_dump(), **changes})
        except ValidationError as error:
            lines = explain_refusals(error)
            possible = ", ".join(type(self.query).model_fields)
            msg = f"the query cannot be changed so: {'; '.join(lines)}; possible: {possible}"
            raise InvalidInputError(msg, errors=lines) from error
        check_query(query, self.record.config, self._ports, run_id=self.run_id)
        self.record = flow.edit_query(self.record, query, self._ports)
        self._read.clear()
        return self

    def interruption(self, *, storage: str | None = None, in_notebook: bool = True) -> str:
        """Describe an interruption in three lines: what stopped, what is kept or still billed, and how to go on.

        Parameters
        ----------
        storage
            As it was given to the command line, for the commands that may come next.
        in_notebook
            Whether the reader sits in the notebook and can call ``haystack.last()``.

        Returns
        -------
        The lines, separated by newlines.

        Examples
        --------
        >>> print(run.interruption())  # doctest: +SKIP
        """
        return describe_interruption(self.record, self._ports, storage=storage, in_notebook=in_notebook)

    def leave(self) -> Run:
        """Say in the run folder that nobody works on the run now, so that it reads "interrupted" until it goes on."""
        leave(self.record, self._ports)
        return self

    def cancel(self) -> Run:
        """Stop the run, its job and its orchestrator.

        Finished steps are kept, and :func:`resume` can go on from them.

        Returns
        -------
        This run, with its newest record.

        Raises
        ------
        ConflictError
            The run moves on faster than the cancellation can be written; try again.

        Examples
        --------
        >>> haystack.attach("run-20260102t030405-abcdef").cancel().record.status  # doctest: +SKIP
        'cancelled'
        """
        self.record = stop(self.record, self._ports)
        return self

    def check_free(self) -> None:
        """Check that nobody else is working on the run.

        Raises
        ------
        ConflictError
            Another worker, or the run's orchestrator, is working on it.

        Examples
        --------
        >>> run.check_free()  # doctest: +SKIP
        """
        check_free(self.record, self._ports)

    # --- looking ---

    def refresh(self) -> Run:
        """Read the newest record from the run folder.

        Returns
        -------
        This run, with its newest record.

        Examples
        --------
        >>> run.refresh().record.status  # doctest: +SKIP
        'running'
        """
        self.record = self._ports.store.load(self.run_id)
        return self

    def status(self) -> dict[str, Any]:
        """Describe where the run stands, from its newest record and the lease of its worker.

        Returns
        -------
        JSON-able values by name: status, next step, rounds, score (None: not scored), cost, folder, failure, worker and
        the commands that may come next. The status is ``interrupted`` where nobody works on an unfinished run.

        Examples
        --------
        >>> run.status()["status"]  # doctest: +SKIP
        'interrupted'
        """
        return describe(self.refresh().record, self._ports)

    def orchestrator_status(self) -> JobStatus | None:
        """Ask for the state of the job that works on the run, see :func:`haystack_kernel.submit`.

        Returns
        -------
        The state; None where a process works on the run and no job does.

        Examples
        --------
        >>> haystack.submit(QUESTION).orchestrator_status().state  # doctest: +SKIP
        'queued'
        """
        return orchestrator_status(self.record, self._ports)

    def job_status(self) -> JobStatus | None:
        """Ask for the state of the newest prediction job.

        Returns
        -------
        The state; None before the first job was submitted.

        Examples
        --------
        >>> run.job_status().state  # doctest: +SKIP
        'running'
        """
        jobs = [item.job for item in self.record.rounds if item.job is not None]
        return self._ports.executors[jobs[-1].executor].status(jobs[-1]) if jobs else None

    def estimate(self) -> CostEstimate | None:
        """Estimate what the job of each round costs, from the options of the run alone.

        Returns
        -------
        Lowest, likely and highest cost; None where jobs run on this machine and cost nothing.

        Examples
        --------
        >>> run.estimate()  # doctest: +SKIP
        """
        if self.record.config.executor == "local":
            return None
        return estimate_round(self.record, self._ports)

    def log(self) -> str:
        """Return the end of the newest job's log.

        Returns
        -------
        Lines of text; empty before the first job.

        Examples
        --------
        >>> print(run.log())  # doctest: +SKIP
        """
        status = self.job_status()
        return status.log_tail if status else ""

    @property
    def candidates(self) -> CandidateTable:
        """Ranked prompt candidates with the reason and the matched control; ``to_frame()`` makes a table of them."""
        from haystack_kernel.report import candidate_table

        return candidate_table(self.record)

    @property
    def de(self) -> pd.DataFrame:
        """Differential expression of the best round, one row per gene."""
        return self._best_table(layout.DE)

    @property
    def pathways(self) -> pd.DataFrame:
        """Pathway statistics of the best round, one row per pathway."""
        return self._best_table(layout.PATHWAYS)

    @property
    def prompts(self) -> pd.DataFrame:
        """Cells used in the best round, one row per cell and role."""
        return self._best_table(layout.PROMPTS)

    @property
    def embedding(self) -> pd.DataFrame:
        """Two-dimensional coordinates of prompt, control, query and predicted cells of the best round."""
        return self._best_table(layout.EMBEDDING)

    @property
    def predictions(self) -> ad.AnnData:
        """The predicted cells of the best round (raw counts in X)."""
        path = f"{self._best_folder()}/{layout.PREDICTIONS}"
        if path not in self._read:
            self._read[path] = read_h5ad(self._ports.store, self.run_id, path)
        predicted: ad.AnnData = self._read[path]
        return predicted

    def explore(
        self,
        other: Run | str | None = None,
        *,
        truth: ad.AnnData | str | Path | None = None,
        gene: str | None = None,
        pathway: str | None = None,
        side: str | None = None,
    ) -> Explorer:
        """Look at cells, genes, pathways and evidence of the best round, linked with each other.

        In a notebook this is a widget; the saved notebook shows the same as pictures and tables.

        Parameters
        ----------
        other
            Another run of the same storage, or its id, to set this one beside.
        truth
            A measured response of your own to set it beside: an AnnData, or the path of an h5ad file, with treated and
            untreated cells that its labels tell apart. Key ``"truth"`` of ``explorer.sides``.
        gene, pathway
            Chosen at the start; None takes the called gene with the largest change, and no pathway.
        side
            What the prediction is set beside at the start: a key of ``explorer.sides``, e.g. ``"baseline mean"``.

        Returns
        -------
        The explorer; what is chosen in the widget can be read from it, and set.

        Raises
        ------
        InvalidInputError
            A run has no scored round yet, there is no such gene, pathway or side, or ``truth`` is refused.
        NotFoundError
            There is no such other run.

        Examples
        --------
        >>> run.explore(gene="SERPINE1", side="baseline mean")  # doctest: +SKIP
        >>> run.explore(truth=adata)  # doctest: +SKIP
        """
        from haystack_kernel.explorer import open_explorer

        if isinstance(other, str):
            other = Run(self._ports.store.load(check_run_id(other)), ports=self._ports)
        explorer = open_explorer(self.record, self._ports, other=other.record if other else None, truth=truth)
        if gene is not None:
            explorer.gene = gene
        if pathway is not None:
            explorer.pathway = pathway
        if side is not None:
            explorer.side = side
        return explorer

    def cells(self, role: str) -> ad.AnnData | None:
        """Return the cells of one role in the best round, as raw counts.

        Parameters
        ----------
        role
            ``prompt``, ``control``, ``query`` or ``predicted``.

        Returns
        -------
        The cells with their labels; None where the round has no control cells, or where they were deleted to free
        space.

        Raises
        ------
        InvalidInputError
            There is no such role, or no scored round.

        Examples
        --------
        >>> run.cells("prompt").obs["donor_id"].nunique()  # doctest: +SKIP
        """
        if role not in (*layout.ROLES, keys.PREDICTED):
            msg = f"there are no {role!r} cells; the roles are {', '.join((*layout.ROLES, keys.PREDICTED))}"
            raise InvalidInputError(msg, role=role)
        if role == keys.PREDICTED:
            found = self.predictions.copy()
        else:
            path = layout.cells_file(self._best_folder(), role)
            if not self._ports.store.exists(self.run_id, path):
                return None
            found = read_h5ad(self._ports.store, self.run_id, path)
        found.obs[keys.ROLE] = role
        return found

    def follow(self, show: Callable[[str], object], *, poll_s: float = 1.0) -> Run:
        """Wait until the run is no longer running, and report each finished step.

        Parameters
        ----------
        show
            Called with one line of text per finished step.
        poll_s
            Pause between two looks, in seconds.

        Returns
        -------
        This run, with its newest record.

        Raises
        ------
        JobFailedError
            The run's orchestrator ended before the run did.
        HaystackError
            Nobody is working on the run any more.
        ApprovalNeededError
            The orchestrator lost its machine, and its next attempt waits for consent to spending.

        Examples
        --------
        >>> haystack.attach("run-20260102t030405-abcdef").follow(print)  # doctest: +SKIP
        """
        seen, clock, asked = 0, self._ports.clock, -_ASK_WORKER_S
        while True:
            is_due = clock.monotonic() - asked >= _ASK_WORKER_S
            if is_due:  # asked before the record is read, which may say that the run is over
                asked = clock.monotonic()
                job = orchestrator_status(self.record, self._ports, tend=True)
                worker = find_worker(self._ports.store, self.run_id)[1]
            for time in self.refresh().record.steps[seen:]:
                show(f"{time.step}: done ({time.seconds:.1f} s)")
            seen = len(self.record.steps)
            if self.record.status != "running":
                return self
            if is_due:
                self._require_worker(worker, job)
            clock.sleep(poll_s)

    def _require_worker(self, worker: Worker | None, job: JobStatus | None) -> None:
        """Raise the error of a run that counts as running though nobody works on it."""
        if job is not None and job.needs_approval:
            raise ApprovalNeededError(job.needs_approval, run_id=self.run_id)
        again = " or ".join(f"`{command}`" for command in next_commands(self.record, status="interrupted"))
        if failure := lost_orchestrator(self.record, job, worker=worker, now=self._ports.clock.now()):
            msg = f"{failure.message} ({again} goes on)"
            raise JobFailedError(msg, **failure.facts)
        if left := abandoned(self.record, worker, job, now=self._ports.clock.now()):
            msg = f"{left}; {again} goes on"
            raise HaystackError(msg, run_id=self.run_id)

    def notebook(self) -> NotebookNode | None:
        """Read the executed notebook of the run.

        Returns
        -------
        The notebook; None where the run was not made by one.

        Examples
        --------
        >>> len(run.notebook().cells)  # doctest: +SKIP
        """
        import nbformat

        if not self._ports.store.exists(self.run_id, layout.NOTEBOOK):
            return None
        return nbformat.reads(self._ports.store.read(self.run_id, layout.NOTEBOOK).decode(), as_version=4)

    def report(self) -> Html:
        """Write report.html anew and return a link to it; a run that no notebook made gets one of what was asked.

        Returns
        -------
        A link, which JupyterLab opens beside the notebook; as text, the address.

        Examples
        --------
        >>> run.report()  # doctest: +SKIP
        demo-run/runs/run-20260102t030405-abcdef/report.html
        """
        import nbformat

        from haystack_kernel.report.asked import asked_notebook
        from haystack_kernel.report.html import Html, escape

        notebook = self.notebook()
        if notebook is None:
            notebook = asked_notebook(self.record)
            self._ports.store.write(self.run_id, layout.NOTEBOOK, nbformat.writes(notebook).encode())
        address = self.write_report(notebook=notebook)
        if "://" not in address and Path(address).resolve().is_relative_to(Path.cwd()):
            address = Path(address).resolve().relative_to(Path.cwd()).as_posix()
        return Html(f'<p><a href="{escape(address)}" target="_blank" rel="noopener">{escape(address)}</a></p>')

    def write_report(self, *, notebook: NotebookNode | None = None, reuse: bool = False) -> str:
        """Render report.html again, optionally with the executed notebook.

        Parameters
        ----------
        notebook
            The executed notebook; None renders the report without it.
        reuse
            Put the notebook into the report that is there, where it tells the same, instead of rendering all of it.

        Returns
        -------
        Address of the report.

        Examples
        --------
        >>> run.write_report()  # doctest: +SKIP
        'store/runs/run-20260102t030405-abcdef/report.html'
        """
        return write_report(self.record, self._ports, notebook=notebook, reuse=reuse)

    def _best_table(self, name: str) -> pd.DataFrame:
        path = f"{self._best_folder()}/{name}"
        if path not in self._read:
            self._read[path] = read_csv(self._ports.store, self.run_id, path)
        table: pd.DataFrame = self._read[path]
        return table

    def _best_folder(self) -> str:
        if self.record.best_round is None:
            msg = f"run {self.run_id} has no scored round yet ({self.record.status}); call run.work() first"
            raise InvalidInputError(msg, run_id=self.run_id)
        return layout.round_folder(self.record.best_round)


def open_run(  # noqa: PLR0913 - what is asked, where, what may be spent, and who answers
    question: str | None = None,
    *,
    run_id: str | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
    approve: bool | None = None,
    max_cost: float | None = None,
    ask_back: Callable[[Clarification], str | None] | None = None,
    **options: Any,  # noqa: ANN401 - fields of RunConfig, validated by it
) -> Run:
    """Start a run, or go on with it when ``run_id`` exists: the one call of the run notebook.

    Everything that can be known is checked first, so a run that is refused leaves no folder; the first record holds the
    question as it was understood.

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
        None reads them from the layers and the environment; with them given, neither is read.
    approve
        True lets jobs that cost money start while this run object works; it is stored nowhere.
    max_cost
        Dollars that all jobs of the run together may cost; the smaller of this and the setting ``cost.max_usd`` holds.
    ask_back
        Called with what a planner would ask the person; returns the question as it was meant, or None to go on with
        the reading. None asks nobody.
    **options
        Fields of :class:`haystack_kernel.schema.RunConfig`; None takes the settings' value. ``hide`` also takes
        ``"CELL TYPE:PERTURBATION"`` strings.

    Returns
    -------
    The run, saved and ready to work.

    Raises
    ------
    InvalidInputError
        A bad id, option or question, or a run id that belongs to another question or to other options.
    NotFoundError
        An atlas or a file that the options name does not exist.
    ConflictError
        The run exists and another worker is working on it.

    Examples
    --------
    >>> run = haystack.open_run("How would lung fibroblasts respond to TGF-beta?", seed=1)  # doctest: +SKIP
    >>> run.work().score  # doctest: +SKIP
    """
    given = read_typed({"run_id": run_id, "storage": storage})
    run_id, storage = given.get("run_id"), given.get("storage")
    settings = _settings_of(settings, storage)
    consent = Consent.given(approve, max_cost)
    ports = connect(settings, progress=progress or notebook_progress(), consent=consent)
    if run_id is not None and ports.store.has(check_run_id(run_id)):
        return _remember(_reopen(ports, run_id=run_id, question=question, options=options))
    if question is None:
        msg = (
            'a new run needs a question, in quotes: question = "How would B cells respond to IFN-beta?" in the '
            'parameters cell of the run notebook, papermill -p question "…", or open_run("…"). If a scheduler was '
            "given one, it has written it without quotes"
        )
        raise InvalidInputError(msg)
    config = build_config(settings, **options)
    record = first_record(question, run_id=run_id, config=config, ports=ports)
    asked = query_of(record).clarification
    if asked is not None and ask_back is not None and (meant := ask_back(asked)):
        again = first_record(meant, run_id=record.run_id, config=config, ports=ports)
        note = f"asked first: {record.question!r}; asked back: {asked.text}"
        record = again.model_copy(update={"notes": (*again.notes, note)})
    keep_with_run(record, ports)
    record = ports.store.create(record)
    flow.tell_done(record, ports)
    return _remember(Run(record, ports=ports))


def last() -> Run:
    """Return the run that this process opened, attached to or resumed last; it is there before its work starts.

    Returns
    -------
    The run.

    Raises
    ------
    NotFoundError
        This process has opened no run yet.

    Examples
    --------
    >>> haystack.last().work()  # doctest: +SKIP
    """
    if not _opened:
        msg = "this process has opened no run yet; use open_run(question) or attach(run_id)"
        raise NotFoundError(msg)
    return _opened[-1]


_opened: list[Run] = []  # the newest alone


def _remember(run: Run) -> Run:
    _opened[:] = [run]
    return run


def first_record(question: str, *, run_id: str | None, config: RunConfig, ports: Ports) -> RunRecord:
    """Check everything that can be known about a new run, understand its question, and return its first record.

    Nothing is saved, so a run that is refused leaves no folder.

    Raises
    ------
    InvalidInputError, NotFoundError
        The question, the id, an option or a file is refused; the message says what is possible.
    """
    from haystack_kernel.planners.check import check_human, check_question

    held = read_vocabulary(config, ports, question=question)
    if config.planner in MODEL_PLANNERS:  # they read what the rules cannot
        text = check_human(question)
    else:
        text = check_question(question, knowledge=with_vocabulary(load_knowledge(ports.settings.knowledge), held))
    record = new_record(
        text,
        run_id=run_id,
        config=config,
        ports=ports,
    )
    check_opening(config, ports, run_id=record.run_id)
    record = flow.perform(record, "understand", ports)
    check_query(query_of(record), config, ports, run_id=record.run_id)
    return record


def new_record(question: str, *, run_id: str | None, config: RunConfig, ports: Ports) -> RunRecord:
    """Return the record of a run whose question is not understood yet; it is not saved."""
    from haystack_kernel.planners.check import clean_text

    run_id = check_run_id(run_id) if run_id else new_run_id(ports.clock.now())
    return RunRecord(
        run_id=run_id,
        question=clean_text(question),
        config=config,
        settings=recorded_settings(ports.settings),
        created_at=ports.clock.now(),
        versions=software_versions(),
        inputs=input_digests(config, ports, run_id=run_id),
    )


def attach(
    run_id: str, *, storage: str | None = None, settings: Settings | None = None, progress: Progress | None = None
) -> Run:
    """Find a run again, e.g. after a kernel restart; it is only read until ``work`` is called.

    Parameters
    ----------
    run_id
        The run.
    storage
        Where run folders live; None takes the settings'.
    settings
        None reads them from the layers and the environment; with them given, neither is read.
    progress
        Listener; None shows progress in the notebook that calls, or nothing elsewhere.

    Returns
    -------
    The run as its newest record describes it.

    Raises
    ------
    NotFoundError
        No such run in this storage.

    Examples
    --------
    >>> haystack.attach("run-20260102t030405-abcdef").status()  # doctest: +SKIP
    """
    ports = connect(_settings_of(settings, storage), progress=progress or notebook_progress())
    return _remember(Run(ports.store.load(check_run_id(run_id)), ports=ports))


def resume(  # noqa: PLR0913 - where, what may be spent, and what may have changed
    run_id: str,
    *,
    storage: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    approve: bool | None = None,
    max_cost: float | None = None,
    accept_changes: bool = False,
    planner: str | None = None,
) -> Run:
    """Attach to a run and make it ready to go on where it stopped, failed or was cancelled.

    What changed since it began (settings, software, a rebuilt atlas) is warned of and kept in its notes.

    Parameters
    ----------
    run_id
        The run.
    storage
        Where run folders live; None takes the settings'.
    settings
        None reads them from the layers and the environment; with them given, neither is read.
    progress
        Listener; None shows progress in the notebook that calls, or nothing elsewhere.
    approve, max_cost
        Consent to spending, as in :func:`open_run`.
    accept_changes
        Go on even though a file of the user's (own cells, model, gene list) was replaced; the record says so.
    planner
        Who plans the steps that are left, such as ``"offline"`` where a language model cannot be asked; None: who
        planned the others. The record says so.

    Returns
    -------
    The run; ``work`` goes on with it.

    Raises
    ------
    ConflictError
        Another worker, or the run's orchestrator, is working on it.
    InvalidInputError
        A file that the run reads was replaced.

    Examples
    --------
    >>> haystack.resume("run-20260102t030405-abcdef").work()  # doctest: +SKIP
    """
    consent = Consent.given(approve, max_cost)
    ports = connect(_settings_of(settings, storage), progress=progress or notebook_progress(), consent=consent)
    run = Run(ports.store.load(check_run_id(run_id)), ports=ports)
    run.check_free()
    run.record = _revive(run.record, run._ports, accept_changes=accept_changes)
    if planner is not None:
        run.record = _planned_by(planner, run.record, run._ports)
    for note in run.record.notes:
        warnings.warn(f"run {run_id}: {note}", stacklevel=2)
    return _remember(run)


def list_runs(*, storage: str | None = None, settings: Settings | None = None) -> list[Run]:
    """List all runs of a storage, newest first; a record of another version is left out with a warning.

    Parameters
    ----------
    storage
        Where run folders live; None takes the settings'.
    settings
        None reads them from the layers and the environment; with them given, neither is read.

    Returns
    -------
    The runs; none where the storage holds no run yet.

    Raises
    ------
    NotFoundError
        The storage does not exist.

    Examples
    --------
    >>> [run.score for run in haystack.list_runs()]  # doctest: +SKIP
    """
    ports = connect(_settings_of(settings, storage))
    runs = []
    for run_id in ports.store.list_runs():
        try:
            runs.append(Run(ports.store.load(run_id), ports=ports))
        except NotFoundError:  # a folder whose first record is not written yet
            continue
        except ContractError as error:
            warnings.warn(f"run {run_id} is left out: {error}", stacklevel=2)
    return runs


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - values of any field
    """Yield every text in the value of a field, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def _settings_of(settings: Settings | None, storage: str | None) -> Settings:
    """The settings given, with ``storage`` over them; read from the layers and the environment only without them."""
    if settings is None:
        return load_settings(storage=storage)
    if storage is None:
        return settings
    return type(settings).model_validate({**settings.model_dump(), "storage": storage})


def _reopen(ports: Ports, *, run_id: str, question: str | None, options: dict[str, Any]) -> Run:
    """The existing run, ready to go on; what is asked of it must be what it was started with."""
    from haystack_kernel.planners.check import clean_text

    record = ports.store.load(run_id)
    wait_until_free(record, ports)
    if question is not None and clean_text(question) != record.question:
        msg = f"run {run_id} asks {record.question!r}, not {question!r}; leave run_id out to start a new run"
        raise InvalidInputError(msg, run_id=run_id)
    if changed := changed_options(record.config, ports.settings, **options):
        msg = f"run {run_id} was started with other options ({changed}); leave run_id out to start a new run"
        raise InvalidInputError(msg, run_id=run_id)
    return Run(_revive(record, ports), ports=ports)


def _planned_by(planner: str, record: RunRecord, ports: Ports) -> RunRecord:
    """The record with another planner for the steps that are left, saved, with a note of it."""
    if record.status == "done" or planner == record.config.planner:
        return record
    config = build_config(ports.settings, **{**record.config.model_dump(), "planner": planner})
    ports.planner_named(config.planner).check(config)
    step = flow.next_step(record) or "publish"
    note = f"from step {step!r} on planned by {config.planner}, not by {record.config.planner}, as asked"
    config = record.config.model_copy(update={"planner": config.planner})
    return ports.store.save(record.model_copy(update={"config": config, "notes": (*record.notes, note)}))


def _revive(record: RunRecord, ports: Ports, *, accept_changes: bool = False) -> RunRecord:
    """The record ready to go on, with a note of everything that changed around it.

    An accepted change of a file is saved at once, so that the notebook that goes on with the run does not ask again.
    """
    if record.status == "done":
        return record
    now = input_digests(record.config, ports, run_id=record.run_id)
    if not accept_changes:
        check_unchanged(record.inputs, now, record.config, run_id=record.run_id)
    replaced = changed_inputs(record.inputs, now, record.config)
    found = [*replaced, *find_drift(record, ports, versions=software_versions())]
    notes = (*record.notes, *(note for note in found if note not in record.notes))
    record = flow.revive(keep_bills(record, ports), ports)
    record = record.model_copy(update={"notes": notes, "inputs": now})
    return ports.store.save(record) if replaced else record
