"""A run: its configuration, its rounds, its record after every step, and which step writes which field.

In: plain values. Out: RunConfig, Round, RunRecord, RunSummary; ROUND_FIELDS, RECORD_FIELDS.
"""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field, field_validator

from haystack_kernel.schema.backtest import EnginePick
from haystack_kernel.schema.base import (
    DEMO_ATLAS,
    NAN,
    OWN_ATLAS,
    SCHEMA_VERSION,
    AtlasName,
    ControlStrategy,
    Engine,
    EngineChoice,
    ExecutorName,
    Frozen,
    PlannerName,
    Real,
    RunId,
    RunStatus,
    ShownStatus,
    Termination,
)
from haystack_kernel.schema.cells import Candidate, CellSet, Choice
from haystack_kernel.schema.jobs import Bill, CostEstimate, JobHandle, JobSpec, JobStatus, SpendingKind
from haystack_kernel.schema.planner import Usage
from haystack_kernel.schema.query import HiddenCells, HiddenPair, StructuredQuery
from haystack_kernel.schema.score import Component, Composite, Confidence, EngineAgreement, Feedback, Truth
from haystack_kernel.schema.settings import InferenceSettings, RetrievalSettings, RoundSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

RoundStep = Literal["choose", "cells", "predict", "ground", "decide"]
RecordStep = Literal["understand", "retrieve", "rounds", "interpret", "publish"]

# Which step writes which field, in the order of the steps. This is the only list: a fork takes over what a step wrote,
# and an edited query or a repeated step resets what later steps wrote. A test checks that every field of Round and of
# RunRecord appears exactly once. Three entries are not steps: "opening" is written before the first step; "spending"
# is money, which a fork does not inherit; "running" changes at every step and is the result of none.
ROUND_FIELDS: dict[RoundStep | Literal["spending", "running"], tuple[str, ...]] = {
    "choose": ("number", "choice", "candidates"),
    "cells": ("query_cells", "query_source", "query_open", "n_prompt", "n_control", "n_query"),
    "predict": ("control_strategy", "control_note", "spec", "job", "task_seconds", "frac_genes_found"),
    "ground": ("model", "components", "composite", "agreement", "n_de", "top_genes", "confidence"),
    "decide": ("feedback", "decision"),  # both read the threshold, which nothing before them does
    "spending": ("estimate", "bills"),
    "running": ("files",),
}
RECORD_FIELDS: dict[RecordStep | Literal["opening", "spending", "running"], tuple[str, ...]] = {
    "opening": (
        "schema_version",
        "run_id",
        "question",
        "config",
        "settings",
        "created_at",
        "forked_from",
        "versions",
        "inputs",
    ),
    "understand": ("query",),
    "retrieve": ("candidates", "query_set", "hidden", "digests", "engine_pick"),
    "rounds": ("rounds", "best_round", "termination"),
    "interpret": ("interpretation",),
    "publish": ("files", "truth"),
    "spending": ("bills",),
    "running": ("serial", "orchestrator", "status", "steps", "failure", "notes", "removed"),
}


_ROUNDS, _INFERENCE = RoundSettings(), InferenceSettings()  # whose defaults are those of an option


CELL_OPTIONS = ("query_h5ad", "prompt_h5ad", "control_h5ad")  # options that name files of the user's own cells
FILE_OPTIONS = (*CELL_OPTIONS, "model", "genelist", "transcript")  # options that name files of the user's


class RunConfig(Frozen):
    """The options of a run; a changed value makes a different run."""

    atlases: tuple[AtlasName, ...] = (DEMO_ATLAS,)
    query_atlas: AtlasName | None = Field(default=None, description="atlas the query cells come from; None: any")
    query_h5ad: str | None = Field(default=None, description="the user's own query cells, path or gs:// URI")
    prompt_h5ad: str | None = Field(default=None, description="the user's own prompt cells, path or gs:// URI")
    control_h5ad: str | None = Field(default=None, description="the user's own control cells, path or gs:// URI")
    query_cells: str | None = Field(
        default=None, description="which cells of query_h5ad: COLUMN=VALUE,COLUMN=VALUE or all; None: by its labels"
    )
    planner: PlannerName = Field(default="auto", description="auto, of records of earlier versions: offline")
    transcript: str | None = Field(default=None, description="recorded answers for planner replay, path or gs:// URI")
    engine: EngineChoice = Field(
        default="weighted", description="auto is resolved before a run begins: see engine_default and engine_pick"
    )
    engine_default: Engine | None = Field(
        default=None,
        description="engine auto was asked for: what is taken where no back-test decides; None: it was not",
    )
    model: str | None = Field(default=None, description="checkpoint for engine stack, path or gs:// URI")
    genelist: str | None = Field(default=None, description="the model's genes in its order: JSON, text or pickle")
    diffusion_steps: int = Field(default=_INFERENCE.diffusion_steps, ge=1, le=100, description="steps of engine stack")
    executor: ExecutorName = "local"
    control_strategy: ControlStrategy = "synthetic_control"
    hide: tuple[HiddenPair, ...] = ()
    pin: tuple[str, ...] = Field(default=(), description="candidate keys or criteria that every round must include")
    ban: tuple[str, ...] = Field(default=(), description="candidate keys or criteria that no round may use")
    threshold: float = Field(default=_ROUNDS.threshold, ge=1, le=10)
    max_rounds: int = Field(default=_ROUNDS.maximum, ge=1, le=20)
    n_prompt: int = Field(default=_INFERENCE.n_prompt, ge=1, le=20_000)
    n_query: int = Field(default=_INFERENCE.n_query, ge=1, le=20_000)
    seed: int = Field(default=0, ge=0)
    literature: bool = Field(default=False, description="ask the literature sources (needs the internet)")

    @property
    def atlas_names(self) -> tuple[str, ...]:
        """Atlases to open: those searched, and the one the query cells come from; not the user's own cells."""
        extra = (self.query_atlas,) if self.query_atlas else ()
        return tuple(name for name in dict.fromkeys((*self.atlases, *extra)) if name != OWN_ATLAS)

    @property
    def costs_money(self) -> bool:
        """Whether anything that the options ask for is paid for: machines of the cloud, or a language model."""
        return self.executor != "local" or self.planner == "claude"

    def located(self) -> RunConfig:
        """The same options with full paths, to open the files; records write the home folder as ``~``."""
        paths = {name: getattr(self, name) for name in FILE_OPTIONS}
        full = {name: str(Path(path).expanduser()) for name, path in paths.items() if path and path.startswith("~")}
        return self.model_copy(update=full) if full else self


# what a person may set: a default that engine auto falls back to follows from the other options
OPTIONS = tuple(name for name in RunConfig.model_fields if name != "engine_default")


class FileRef(Frozen):
    """A file of the run folder: path relative to it, and its digest."""

    path: str
    sha256: str
    n_bytes: int


class ModelCard(Frozen):
    """Source and licence of the weights, or of the engine of another package, that made a prediction."""

    sha256: str
    citation: str
    licence: str
    name: str = Field(default="", description="package and version of an engine that is not HAYSTACK's")


class Round(Frozen):
    """One iteration: choose candidates, predict, score. Each step fills the fields that ROUND_FIELDS lists."""

    number: int = Field(ge=1)
    choice: Choice
    candidates: tuple[Candidate, ...] = Field(description="the chosen candidates")
    control_strategy: ControlStrategy = "synthetic_control"
    control_note: str = Field(default="", description="why the effective strategy differs from the requested one")
    query_cells: str = Field(default="", description="one sentence about the cells that were transformed")
    query_source: str = Field(default="", description="how many cells of the user's own file these are; empty: none")
    query_open: tuple[str, ...] = Field(default=(), description="what about the query cells was not checked or differs")
    n_prompt: int = 0
    n_control: int = 0
    n_query: int = 0
    spec: JobSpec | None = None
    job: JobHandle | None = None
    estimate: CostEstimate | None = Field(default=None, description="made before the job was submitted; None: free")
    bills: tuple[Bill, ...] = Field(default=(), description="one for each attempt that was paid for")
    task_seconds: dict[str, float] = Field(default_factory=dict)
    model: ModelCard | None = Field(default=None, description="None: an engine of HAYSTACK without weights")
    frac_genes_found: Real = NAN
    components: tuple[Component, ...] = ()
    composite: Composite | None = None
    agreement: tuple[EngineAgreement, ...] = ()
    n_de: int = 0
    top_genes: tuple[str, ...] = Field(default=(), description="largest rises first, from the genes called DE")
    confidence: Confidence | None = Field(default=None, description="None before the round was scored")
    feedback: tuple[Feedback, ...] = Field(default=(), description="findings that the next round acts on")
    decision: str = Field(default="", description="why the loop went on or stopped after this round")
    files: tuple[FileRef, ...] = ()

    @property
    def has_cells(self) -> bool:
        """Whether its cells were read, so that their numbers are known."""
        return self.spec is not None or self.n_prompt > 0

    def written_by(self, *steps: RoundStep) -> dict[str, Any]:
        """Values of the fields that ``steps`` wrote, by name."""
        return {name: getattr(self, name) for step in steps for name in ROUND_FIELDS[step]}

    def before(self, step: RoundStep) -> Round:
        """Return the round as it was before ``step``: fields that it and later steps wrote are reset.

        Spending is kept. ``files`` is kept too, because the files exist until the steps write them again.
        """
        order = list(get_args(RoundStep))
        later = [name for one in order[order.index(step) :] for name in ROUND_FIELDS[one]]
        return self.model_copy(update={name: _default_of(Round, name) for name in later})


class CitedQuote(Frozen):
    """A sentence of a paper that was fetched in this run, and that was found in its title or abstract."""

    paper: str = Field(description="id of the paper, as the literature sources give it")
    title: str
    quote: str
    doi: str | None = None
    pmid: str | None = None
    year: int | None = None
    retracted: bool = False


class ModelText(Frozen):
    """What a language model wrote: its numbers were put in from the record, and its quotes were found in the papers."""

    model: str
    paragraphs: tuple[str, ...]
    next_experiments: tuple[str, ...] = ()
    quotes: tuple[CitedQuote, ...] = Field(default=(), description="in the order of the marks [1], [2] … of the text")


class Interpretation(Frozen):
    """The answer in words; all of its numbers are in the record, and it never changes a score."""

    headline: str
    paragraphs: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    planner: str = "offline"
    model_text: ModelText | None = Field(default=None, description="None: no language model wrote anything")


class StepTime(Frozen):
    """A finished step, with its time and duration."""

    step: str
    finished_at: datetime
    seconds: float
    usage: Usage | None = Field(default=None, description="of the planner; None: the step asked no model")


class Failure(Frozen):
    """Why a run stopped: class and message of the error, and the step that failed."""

    kind: str
    message: str
    step: str
    facts: dict[str, Any] = Field(default_factory=dict)


class Fork(Frozen):
    """The run that a fork was made from, and the finished steps that it took over."""

    run_id: RunId
    changes: dict[str, Any] = Field(description="what differs from the parent's configuration")
    reused: tuple[str, ...] = Field(default=(), description="steps not repeated, e.g. 'retrieve', 'predict 1'")


class RunRecord(Frozen):
    """Everything about one run; saved after every step as ``record/000N.json``, with a copy in ``run.json``."""

    schema_version: int = SCHEMA_VERSION
    run_id: RunId
    serial: int = Field(default=0, ge=0, description="number of the record file; 0 = not saved yet")
    question: str
    config: RunConfig
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="sections that affect results, as they were when the run began"
    )
    created_at: datetime
    forked_from: Fork | None = None
    orchestrator: JobHandle | None = Field(default=None, description="job that works on the run; None: a process does")
    bills: tuple[Bill, ...] = Field(
        default=(), description="of what belongs to no round: the orchestrator, the planner"
    )
    status: RunStatus = "running"
    steps: tuple[StepTime, ...] = ()
    query: StructuredQuery | None = None
    candidates: tuple[Candidate, ...] = Field(default=(), description="the ranked table all rounds choose from")
    query_set: CellSet | None = Field(default=None, description="where the query cells come from; None: query_h5ad")
    engine_pick: EnginePick | None = Field(
        default=None, description="which engine auto took; None: it was given by name"
    )
    hidden: tuple[HiddenCells, ...] = Field(default=(), description="what the hidden pairs kept out of the search")
    rounds: tuple[Round, ...] = ()
    best_round: int | None = None
    termination: Termination | None = None
    interpretation: Interpretation | None = None
    failure: Failure | None = None
    files: tuple[FileRef, ...] = Field(default=(), description="published artifacts of the run folder")
    truth: tuple[Truth, ...] = Field(default=(), description="the best round against responses hidden from the search")
    versions: dict[str, str] = Field(default_factory=dict)
    digests: dict[str, str] = Field(default_factory=dict, description="of the atlases and of the knowledge tables")
    inputs: dict[str, str] = Field(
        default_factory=dict, description="digests of the user's own files by option, as the run first used them"
    )
    notes: tuple[str, ...] = Field(default=(), description="what changed around the run between its steps")
    removed: tuple[FileRef, ...] = Field(default=(), description="files of rounds that garbage collection deleted")

    @field_validator("settings")
    @classmethod
    def _without_retired(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Drop options that no longer exist, so that a record of an earlier version compares as equal to a new one."""
        retrieval = {
            name: one for name, one in value.get("retrieval", {}).items() if name not in RetrievalSettings.retired
        }
        return value | {"retrieval": retrieval} if "retrieval" in value else value

    def written_by(self, *steps: RecordStep) -> dict[str, Any]:
        """Values of the fields that ``steps`` wrote, by name."""
        return {name: getattr(self, name) for step in steps for name in RECORD_FIELDS[step]}

    def before(self, step: RecordStep) -> RunRecord:
        """Return the record as it was before ``step``, ready to go on there: what later steps wrote is reset.

        Step times, notes and bills are kept, also the bills of rounds that are reset. Files of these rounds are not
        deleted: whoever saves the record removes those for which :func:`haystack_kernel.store.layout.step_of` names a
        step, because new rounds write to the same paths.

        Examples
        --------
        >>> edited = record.before("retrieve").model_copy(update={"query": query})  # doctest: +SKIP
        """
        order = list(get_args(RecordStep))
        later = [name for one in order[order.index(step) :] for name in RECORD_FIELDS[one]]
        update = {name: _default_of(RunRecord, name) for name in later}
        if "rounds" in later:
            update["bills"] = self.all_bills  # what was spent on rounds that are reset still counts
        return self.model_copy(update={**update, "status": "running", "failure": None})

    @property
    def taken_as(self) -> str | None:
        """What the question was taken as, and its words that were not used; None before it was parsed."""
        return self.query.reading if self.query else None

    @property
    def measured(self) -> tuple[Candidate, ...]:
        """Candidates that are the asked response itself, measured in the asked cells, largest first."""
        if self.query is None or self.query.perturbation is None:
            return ()
        found = [one for one in self.candidates if one.evidence_distance == "same_pair" and not one.prompt.is_control]
        return tuple(sorted(found, key=lambda one: -one.prompt.n_cells))

    @property
    def measured_words(self) -> str:
        """That the asked response is measured already, and how to test a prediction of it; empty where it is not."""
        found, query = self.measured, self.query
        if patients := [one for one in self.hidden if one.cells is not None]:
            one = patients[0]
            n_healthy = f"{one.against.n_cells if one.against else 0:,}"
            return (
                f"measured already: {one.n_cells:,} cells ({one.cell_type}) of patients with {one.perturbation} beside "
                f"{n_healthy} of healthy donors in dataset {one.dataset}. They are kept out of the prompt, and the "
                "prediction is tested against them"
            )
        if not found or query is None or query.perturbation is None:
            return ""
        n_cells = sum(one.prompt.n_cells for one in found)
        datasets = ", ".join(dict.fromkeys(one.prompt.dataset for one in found))
        pair = f"{query.cell_type_name or query.cell_type_text}:{query.perturbation.name}"
        return (
            f"measured already: {n_cells:,} cells under {query.perturbation.name} in dataset {datasets}, which may be "
            f"prompt cells. To test a prediction against them, hide them: --hide {shlex.quote(pair)}"
        )

    @property
    def engine_words(self) -> str:
        """Which engine ``auto`` took, and why; empty where the engine was given by name."""
        return self.engine_pick.words if self.engine_pick is not None else ""

    @property
    def tested_words(self) -> list[str]:
        """The best round against each response that was hidden from the search, one sentence each."""
        return [one.words for one in self.truth]

    @property
    def best(self) -> Round | None:
        """The round whose prediction is the result, or None before the first is grounded."""
        return None if self.best_round is None else self.rounds[self.best_round - 1]

    @property
    def score(self) -> float:
        """Unrounded composite of the best round; NaN where there is none."""
        best = self.best
        return best.composite.value if best and best.composite else NAN

    @property
    def headline(self) -> str:
        """The answer in a sentence; empty before the result was put into words."""
        return self.interpretation.headline if self.interpretation else ""

    @property
    def score_words(self) -> str:
        """The score as ``7.3 of at most 8.5``; empty where nothing was scored."""
        best = self.best
        return best.composite.shown if best and best.composite and best.composite.is_scored else ""

    @property
    def accuracy_words(self) -> str:
        """The expected correlation of the best round with the true response, or why nothing is expected of it."""
        confidence = self.best.confidence if self.best else None
        expected = confidence.expected if confidence else None
        return (expected.shown or f"none expected: {expected.reason}") if expected else ""

    @property
    def all_bills(self) -> tuple[Bill, ...]:
        """Bills of the rounds, then those that belong to no round."""
        return (*(bill for item in self.rounds for bill in item.bills), *self.bills)

    @property
    def cost_usd(self) -> float:
        """What the run cost so far by list prices: its rounds, its orchestrator and its planner."""
        return sum((bill.usd for bill in self.all_bills), start=0.0)

    @property
    def cost_by_kind(self) -> dict[SpendingKind, float]:
        """The same by what it was spent on; kinds without a bill are left out."""
        found: dict[SpendingKind, float] = {}
        for bill in self.all_bills:
            found[bill.kind] = found.get(bill.kind, 0.0) + bill.usd
        return found

    def with_bills(self, bills: Iterable[Bill]) -> RunRecord:
        """Return the record with bills that belong to no round; a bill that it has already is replaced."""
        merged = {(bill.kind, bill.job_id): bill for bill in (*self.bills, *bills)}
        return self.model_copy(update={"bills": tuple(merged.values())})

    def with_bills_of(self, job: JobStatus | None) -> RunRecord:
        """Return the record with the bills of a job that belongs to no round, such as its orchestrator.

        Parameters
        ----------
        job
            What is known of the job now; None: nothing is.

        Returns
        -------
        The record with each attempt billed once, however often it is seen; an attempt that runs counts so far.
        """
        if job is None:
            return self
        accrued = () if job.accrued is None else (job.accrued,)
        return self.with_bills((*job.bills, *accrued))


def _default_of(model: type[Frozen], name: str) -> Any:  # noqa: ANN401 - the default of any field
    return model.model_fields[name].get_default(call_default_factory=True)


class RunSummary(Frozen):
    """A run in one line: the content of ``summary.json``, which is written with the record after every step."""

    run_id: RunId
    status: ShownStatus = Field(description="as in the record; in a listing also 'interrupted'")
    score: Real = NAN
    score_words: str = Field(default="", description="the score with the most that was possible; empty: not scored")
    rounds: int = 0
    question: str
    engine: Engine
    created_at: datetime
    orchestrator: ExecutorName | None = None
    forked_from: RunId | None = None
    serial: int = Field(default=0, description="of the record that it was made from; a later one makes it stale")
    cell_type: str = Field(default="", description="as understood; empty where the question names none")
    treatment: str = ""
    executor: ExecutorName = "local"
    cost_usd: float = 0.0
    seconds: float = Field(default=0.0, description="of all finished steps")
    changed_at: datetime | None = Field(default=None, description="when the newest step finished")

    @classmethod
    def of(cls, record: RunRecord) -> RunSummary:
        """The summary of a record."""
        return cls(
            run_id=record.run_id,
            status=record.status,
            score=record.score,
            score_words=record.score_words,
            rounds=len(record.rounds),
            question=record.question,
            engine=record.config.engine,
            created_at=record.created_at,
            orchestrator=record.orchestrator.executor if record.orchestrator else None,
            forked_from=record.forked_from.run_id if record.forked_from else None,
            serial=record.serial,
            cell_type=(record.query.cell_type_name or "") if record.query else "",
            treatment=record.query.perturbation.name if record.query and record.query.perturbation else "",
            executor=record.config.executor,
            cost_usd=record.cost_usd,
            seconds=sum((time.seconds for time in record.steps), start=0.0),
            changed_at=record.steps[-1].finished_at if record.steps else None,
        )
