"""The records that travel between the steps: question, candidates, jobs, rounds, runs.

In: plain values. Out: frozen pydantic models that validate themselves and round-trip through JSON.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

SCHEMA_VERSION = 1

RUN_ID_PATTERN = r"^[a-z][a-z0-9-]{7,44}$"
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
RunId = Annotated[str, StringConstraints(pattern=RUN_ID_PATTERN)]
AtlasName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
NAN = float("nan")
Real = Annotated[float, BeforeValidator(lambda value: NAN if value is None else value)]  # NaN travels as JSON null

TaskType = Literal[
    "perturbation_novel_cell_types",
    "perturbation_novel_samples",
    "cell_type_imputation",
    "donor_expression_prediction",
    "cross_dataset_generation",
]
PERTURBATIONAL: tuple[TaskType, ...] = ("perturbation_novel_cell_types", "perturbation_novel_samples")
OBSERVATIONAL: tuple[TaskType, ...] = ("cell_type_imputation", "donor_expression_prediction")
TermKind = Literal["cell_type", "perturbation", "tissue", "disease", "donor", "dataset"]
ControlStrategy = Literal["synthetic_control", "query_as_control"]
Strategy = Literal["direct", "mechanistic", "semantic", "ontology", "donor_context", "tissue_atlas"]
EvidenceDistance = Literal["same_pair", "other_cell_type", "shared_target", "same_cell_type", "text_only"]
Engine = Literal["none", "mean", "shift", "weighted", "stack"]
EngineChoice = Literal["auto", "none", "mean", "shift", "weighted", "stack"]
JobKind = Literal["inference", "orchestrator"]
ExecutorName = Literal["local", "batch"]
RunStatus = Literal["running", "done", "failed", "cancelled"]
JobState = Literal["queued", "scheduled", "running", "succeeded", "failed", "cancelled", "unknown"]
Verdict = Literal["not_compared", "is_baseline", "adds_nothing", "not_told_apart", "adds", "falls_behind"]
FeedbackKind = Literal[
    "wrong_lineage",
    "weak_pathway",
    "rival_leads",
    "low_coverage",
    "control_mismatch",
    "donor_unmatched",
    "unstable",
]
FeedbackAction = Literal["other_cells", "nearer_evidence", "other_dataset", "matched_control", "wider_pool"]
Termination = Literal["threshold", "max_rounds", "plateau", "no_more_candidates"]
PaperSource = Literal["pubmed", "europepmc", "semanticscholar"]
Stance = Literal["contradiction", "support", "mention"]


class Frozen(BaseModel):
    """A record: immutable, strict about unknown fields, NaN written as JSON null."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


# --- understanding ------------------------------------------------------------------------------------------------


class Match(Frozen):
    """One known term that a text may mean."""

    id: str = Field(description="ontology id (CL:…, UBERON:…, MONDO:…) or the canonical perturbation name")
    name: str
    score: float = Field(ge=0, le=1, description="1 exact name, 0.98 synonym, below that fuzzy similarity")
    how: Literal["id", "name", "synonym", "fuzzy"]


class Resolution(Frozen):
    """What a piece of text was taken to mean, and what else it may mean.

    ``match`` is None when nothing is close enough; ``alternatives`` then holds the nearest known terms.
    """

    text: str
    kind: TermKind
    match: Match | None = None
    alternatives: tuple[Match, ...] = ()
    ambiguous: bool = Field(default=False, description="a second term is about as close: show it, let the user choose")
    note: str = Field(
        default="", description="what to know of the match: an obsolete id, a short form, a mended spelling"
    )


class Perturbation(Frozen):
    """A treatment asked for; fields follow the upstream data model."""

    text: str
    name: str = Field(description="canonical name in the knowledge table, e.g. IFN-beta")
    type: Literal["cytokine", "drug", "genetic"] | None = None
    synonyms: tuple[str, ...] = ()
    external_ids: dict[str, str] = Field(default_factory=dict)
    targets: tuple[str, ...] = Field(default=(), description="gene symbols: receptors or direct targets")


class StructuredQuery(Frozen):
    """The parsed question. ``query`` anywhere in the code means this, never an AnnData."""

    question: str
    task_type: TaskType
    cell_type_text: str | None = None
    cell_type_id: str | None = Field(default=None, description="CL id")
    cell_type_name: str | None = None
    cell_type_synonyms: tuple[str, ...] = ()
    perturbation: Perturbation | None = None
    expected_targets: dict[str, int] = Field(
        default_factory=dict, description="downstream gene symbol -> +1 rises, -1 falls under the perturbation"
    )
    expected_pathways: dict[str, int] = Field(
        default_factory=dict, description="pathway name in the knowledge table -> +1 activated, -1 suppressed"
    )
    donor_id: str | None = Field(default=None, description="target donor as written or as in an atlas")
    tissue_id: str | None = Field(default=None, description="UBERON id")
    tissue_name: str | None = None
    disease_id: str | None = Field(default=None, description="MONDO id")
    disease_name: str | None = None
    condition: str | None = None
    reference_donor: str | None = None
    reference_dataset: str | None = None
    target_dataset: str | None = Field(default=None, description="dataset the query cells come from (cross-dataset)")
    marker_genes: tuple[str, ...] = ()
    tissue_genes: tuple[str, ...] = ()
    control_strategy: ControlStrategy = "synthetic_control"
    resolutions: tuple[Resolution, ...] = Field(default=(), description="every term found, with its close seconds")
    unresolved: tuple[Resolution, ...] = Field(default=(), description="terms not known, with the nearest known")
    planner: str = "offline"


class HiddenPair(Frozen):
    """A (cell type, perturbation) pair that no strategy may see, with every descendant and ancestor label."""

    cell_type_id: str
    perturbation: str


# --- cells --------------------------------------------------------------------------------------------------------


class CellSet(Frozen):
    """Cells of one dataset selected by criteria; empty tuple or None means "any".

    ``perturbation`` None with ``is_control`` True selects the control condition.
    """

    atlas: AtlasName
    dataset: str
    is_control: bool
    perturbation: str | None = None
    cell_type_ids: tuple[str, ...] = ()
    cell_type_names: tuple[str, ...] = Field(default=(), description="used where cells carry no CL id")
    donor_ids: tuple[str, ...] = ()
    tissue_ids: tuple[str, ...] = ()
    disease_ids: tuple[str, ...] = ()
    n_cells: int = Field(default=0, ge=0, description="cells in the atlas that satisfy the criteria")
    label: str = Field(default="", description="the cell types in words, as the atlas names them; not a criterion")

    @property
    def key(self) -> str:
        """Selection key: equal for equal criteria, used to de-duplicate candidates."""
        parts = (self.atlas, self.dataset, self.perturbation or ("control" if self.is_control else "any"))
        wanted = (self.cell_type_ids or self.cell_type_names, self.donor_ids, self.tissue_ids, self.disease_ids)
        return "|".join([*parts, *(",".join(sorted(group)) for group in wanted)])


class Candidate(Frozen):
    """A cell set proposed as prompt, its matched control, and why."""

    key: str
    strategy: Strategy
    prompt: CellSet
    control: CellSet | None = Field(description="None: no matched control; ``control_reason`` says why")
    control_reason: str = Field(description="how the control was matched, or why there is none")
    donor_matched: bool = Field(default=False, description="every prompt donor also has control cells here")
    relevance: float = Field(ge=0, le=1)
    diversity: float = Field(default=1.0, ge=0, le=1)
    quality: float = Field(default=0.0, ge=0, le=1)
    score: float = Field(default=0.0, ge=0, le=1, description="weighted sum of the three above; order of the table")
    evidence_distance: EvidenceDistance
    pinned: bool = Field(default=False, description="the user wants it in every round")
    reason: str = Field(description="one sentence for people")


class Choice(Frozen):
    """What one round tries: the candidates pooled into one prompt."""

    candidate_keys: tuple[str, ...]
    reason: str


# --- jobs ---------------------------------------------------------------------------------------------------------


class JobSpec(Frozen):
    """One container execution, the same for every executor.

    ``job_id`` is derived from run, round and the spec's hash, so a repeated submit finds its job.
    """

    run_id: RunId
    round: int = Field(ge=0, description="0: the job works the whole run")
    kind: JobKind = "inference"
    job_id: str
    command: tuple[str, ...] = Field(description="arguments of the kind's program; paths are of the run folder")
    manifest_uri: str = Field(default="", description="of an inference job: a path of the run folder until submitted")
    spec_hash: str
    n_tasks: int = Field(ge=1)
    timeout_s: float = Field(gt=0)
    environment: dict[str, str] = Field(
        default_factory=dict, description="settings the program starts with, as HAYSTACK_<NAME>; never a secret"
    )
    needs_gpu: bool = Field(default=True, description="of an inference job: a task uses a model")
    budget_usd: float | None = Field(
        default=None, ge=0, description="what its attempts may cost together; None: no cap. Not part of the hash"
    )

    def placed_in(self, folder: str) -> JobSpec:
        """The spec an executor runs: its manifest addressed in full. Records keep the path, which shows no folder."""
        if not self.manifest_uri:
            return self
        address = f"{folder}/{self.manifest_uri}"
        command = tuple(address if word == self.manifest_uri else word for word in self.command)
        return self.model_copy(update={"command": command, "manifest_uri": address})


class JobHandle(Frozen):
    """Enough to find a submitted job again from any process."""

    job_id: str
    kind: JobKind = "inference"
    executor: ExecutorName
    manifest_uri: str = ""
    spec_hash: str
    submitted_at: datetime
    location: str = Field(default="", description="where the job runs: the machine's name, a resource name")


class CostEstimate(Frozen):
    """What one attempt of a job may cost, by list prices; ``high`` is what its time limit allows."""

    machine: str = Field(description="preset and machine type; this machine's own name costs nothing")
    spot: bool = False
    n_machines: int = Field(default=1, ge=1)
    low_usd: float = Field(ge=0)
    likely_usd: float = Field(ge=0)
    high_usd: float = Field(ge=0)
    low_s: float = Field(ge=0, description="seconds each machine is paid for")
    likely_s: float = Field(ge=0)
    high_s: float = Field(ge=0)
    basis: str = Field(description="what the numbers rest on")


class Bill(Frozen):
    """What one attempt cost by list prices; the invoice is the provider's."""

    job_id: str = Field(description="of the attempt, as the provider knows it")
    attempt: int = Field(ge=1)
    machine: str
    spot: bool = False
    n_machines: int = Field(default=1, ge=1)
    seconds: float = Field(ge=0, description="each machine is paid for: start, drivers and image included")
    usd: float = Field(ge=0)
    state: str = Field(description="how the attempt ended")


class JobStatus(Frozen):
    """What an executor knows about a job now."""

    state: JobState
    detail: str = ""
    exit_code: int | None = None
    n_tasks: int = 0
    n_done: int = 0
    log_tail: str = ""
    attempt: int = Field(default=1, ge=1)
    bills: tuple[Bill, ...] = Field(default=(), description="attempts that have ended and are paid for")
    console: str = Field(default="", description="address of a page about the job")

    @property
    def is_terminal(self) -> bool:
        """Whether the state can no longer change; ``unknown`` can."""
        return self.state in ("succeeded", "failed", "cancelled")


# --- grounding ----------------------------------------------------------------------------------------------------


class Component(Frozen):
    """One component of the score. ``score`` NaN means not computed, and ``reason`` says why."""

    name: str
    weight: float = Field(ge=0, le=1, description="share in the composite before sharing out missing components")
    score: Real = Field(description="clip(1 - 3 log10(p / 0.5), 1, 10); NaN: not computed")
    reason: str = Field(default="", description="why NaN, or what limits the reading; never empty when NaN")
    statistic: Real = Field(default=NAN, description="mean of s_g z_g over the set; sign = direction")
    p_signal: Real = NAN
    p_specificity: Real = NAN
    n_genes: int = 0
    detail: dict[str, Any] = Field(default_factory=dict)


class Composite(Frozen):
    """The one score of a prediction. ``value`` NaN means not scored, and ``reason`` says why."""

    value: Real
    weight_computed: float = Field(description="summed weight of the components that could be computed")
    cap: float = Field(default=10.0, description="upper bound that applied")
    reason: str = ""

    @property
    def shown(self) -> str:
        """``9 of 10 (8.5)``: rounded, halves up, and as thresholds see it."""
        return f"{math.floor(self.value + 0.5)} of 10 ({self.value:.1f})"


class EngineAgreement(Frozen):
    """How one engine's prediction compares with the run's engine on the same query cells."""

    engine: str
    pearson: Real = Field(description="correlation of mean log-shifts over tested genes; NaN for a constant shift")
    n_de: int
    composite: Real
    note: str = ""


class Aspect(Frozen):
    """One thing that says how far to trust a prediction. ``value`` NaN means not known, and ``reason`` says why."""

    name: str
    value: Real = Field(description="in the aspect's own unit; ``words`` say which")
    words: str = Field(default="", description="one sentence for people")
    reason: str = Field(default="", description="why NaN; never empty when NaN")


class Confidence(Frozen):
    """How far to trust a prediction, beside the score, which says how far it agrees with known biology."""

    aspects: tuple[Aspect, ...] = ()
    verdict: Verdict = Field(default="not_compared", description="what the engine adds to the simple baselines")
    verdict_words: str = ""


class Feedback(Frozen):
    """What a round teaches the next one."""

    kind: FeedbackKind
    sentence: str = Field(description="what was found, for people")
    action: FeedbackAction = Field(description="what the planner does about it")
    about: str = Field(default="", description="the cell type that misleads, where there is one")


# --- literature ---------------------------------------------------------------------------------------------------


class PaperQuery(Frozen):
    """What papers are searched for: any name of each group; an empty group asks for nothing."""

    perturbation: tuple[str, ...]
    cell_type: tuple[str, ...] = ()
    genes: tuple[str, ...] = ()


class Paper(Frozen):
    """One paper as the sources gave it; plain text, never markup."""

    id: str = Field(description="pmid:<n>, doi:<doi>, or <source>:<id>")
    title: str
    abstract: str = ""
    doi: str | None = None
    pmid: str | None = None
    journal: str = ""
    year: int | None = None
    authors: tuple[str, ...] = ()
    sources: tuple[PaperSource, ...]
    retracted: bool = Field(default=False, description="retracted, or itself a notice of retraction")


class SourceAnswer(Frozen):
    """How one source answered; ``reason`` is empty when it did so in full."""

    source: PaperSource
    n_papers: int = 0
    reason: str = ""


class PaperSearch(Frozen):
    """What all sources returned for one query, merged; sources that failed say why."""

    query: PaperQuery
    searched_at: datetime
    papers: tuple[Paper, ...] = ()
    answers: tuple[SourceAnswer, ...] = ()


class Quote(Frozen):
    """One sentence about one gene under the asked perturbation, and where it stands."""

    gene: str
    direction: int = Field(ge=-1, le=1, description="what the sentence says: +1 rises, -1 falls, 0 nothing on it")
    stance: Stance
    quote: str
    where: Literal["title", "abstract"]
    start: int = Field(ge=0, description="offset of the quote in the title or abstract, as are all offsets")
    end: int


class Citation(Frozen):
    """A paper that names the perturbation and a gene in one sentence, with those sentences."""

    paper: Paper
    scored: bool = Field(description="False: retracted, or found only by a search for the predicted genes")
    quotes: tuple[Quote, ...]


class Citations(Frozen):
    """citations.json: contradictions first. ``reason`` says why no source was asked, and is empty otherwise."""

    reason: str = ""
    searched_at: datetime | None = None
    answers: tuple[SourceAnswer, ...] = Field(default=(), description="of the search for the perturbation")
    gene_answers: tuple[SourceAnswer, ...] = Field(default=(), description="of the search for the predicted genes")
    n_papers: int = 0
    n_left_out: int = Field(default=0, description="papers with mere mentions that are not listed")
    citations: tuple[Citation, ...] = ()


# --- the run ------------------------------------------------------------------------------------------------------


class RunConfig(Frozen):
    """What a run was asked to do; changing one value makes another run."""

    atlases: tuple[AtlasName, ...] = ("demo",)
    query_atlas: AtlasName | None = Field(default=None, description="atlas the query cells come from; None: any")
    query_h5ad: str | None = Field(default=None, description="the user's own query cells, path or gs:// URI")
    planner: Literal["auto", "offline"] = "auto"
    engine: Engine = "weighted"
    model: str | None = Field(default=None, description="checkpoint for engine stack, path or gs:// URI")
    genelist: str | None = Field(default=None, description="the model's genes in its order: JSON, text or pickle")
    diffusion_steps: int = Field(default=5, ge=1, le=100, description="steps of engine stack")
    executor: ExecutorName = "local"
    control_strategy: ControlStrategy = "synthetic_control"
    hide: tuple[HiddenPair, ...] = ()
    pin: tuple[str, ...] = Field(default=(), description="candidate keys or criteria that every round must include")
    ban: tuple[str, ...] = Field(default=(), description="candidate keys or criteria that no round may use")
    threshold: float = Field(default=7.0, ge=1, le=10)
    max_rounds: int = Field(default=5, ge=1, le=20)
    n_prompt: int = Field(default=2000, ge=1, le=20_000)
    n_query: int = Field(default=256, ge=1, le=20_000)
    seed: int = Field(default=0, ge=0)
    literature: bool = Field(default=False, description="ask the literature sources (needs the internet)")

    def located(self) -> RunConfig:
        """The same with paths in full, for those who open them: the record names the home folder only as ``~``."""
        paths = {"model": self.model, "genelist": self.genelist, "query_h5ad": self.query_h5ad}
        full = {name: str(Path(path).expanduser()) for name, path in paths.items() if path and path.startswith("~")}
        return self.model_copy(update=full) if full else self


class FileRef(Frozen):
    """A file of the run folder: path relative to it, and its digest."""

    path: str
    sha256: str
    n_bytes: int


class ModelCard(Frozen):
    """Whose weights made a prediction, and on what terms."""

    sha256: str
    citation: str
    licence: str


class Round(Frozen):
    """One iteration: choose candidates, infer, ground. Fields fill as its steps finish."""

    number: int = Field(ge=1)
    choice: Choice
    candidates: tuple[Candidate, ...] = Field(description="the candidates of the choice, whole")
    control_strategy: ControlStrategy = "synthetic_control"
    control_note: str = Field(default="", description="why the effective strategy differs from the requested one")
    query_cells: str = Field(default="", description="one sentence: which cells were transformed")
    n_prompt: int = 0
    n_control: int = 0
    n_query: int = 0
    spec: JobSpec | None = None
    job: JobHandle | None = None
    estimate: CostEstimate | None = Field(default=None, description="before the job was submitted; None: free")
    bills: tuple[Bill, ...] = Field(default=(), description="one each attempt that was paid for")
    task_seconds: dict[str, float] = Field(default_factory=dict)
    model: ModelCard | None = Field(default=None, description="None: no weights of a model were used")
    frac_genes_found: Real = NAN
    components: tuple[Component, ...] = ()
    composite: Composite | None = None
    agreement: tuple[EngineAgreement, ...] = ()
    n_de: int = 0
    top_genes: tuple[str, ...] = Field(default=(), description="largest rises first, from the genes called DE")
    confidence: Confidence | None = Field(default=None, description="None before the round was scored")
    feedback: tuple[Feedback, ...] = Field(default=(), description="what the next round should do otherwise")
    decision: str = Field(default="", description="why the loop went on or stopped after this round")
    files: tuple[FileRef, ...] = ()


class Interpretation(Frozen):
    """The answer in words; every number in it is in the record. Words never set a score."""

    headline: str
    paragraphs: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    planner: str = "offline"


class StepTime(Frozen):
    """A finished step, when and how long."""

    step: str
    finished_at: datetime
    seconds: float


class Failure(Frozen):
    """Why a run stopped: class, message for people, and the step that was under way."""

    kind: str
    message: str
    step: str
    facts: dict[str, Any] = Field(default_factory=dict)


class Fork(Frozen):
    """Where a run branched off from, and which finished steps it took over."""

    run_id: RunId
    changes: dict[str, Any] = Field(description="what differs from the parent's configuration")
    reused: tuple[str, ...] = Field(default=(), description="steps not repeated, e.g. 'retrieve', 'predict 1'")


class RunRecord(Frozen):
    """Everything about one run; saved after every step as ``record/000N.json`` and ``run.json``."""

    schema_version: int = SCHEMA_VERSION
    run_id: RunId
    serial: int = Field(default=0, ge=0, description="number of the record file; 0 = not saved yet")
    question: str
    config: RunConfig
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="sections that the numbers depend on, as they were when the run began"
    )
    created_at: datetime
    forked_from: Fork | None = None
    orchestrator: JobHandle | None = Field(default=None, description="job that works the run; None: a process does")
    status: RunStatus = "running"
    steps: tuple[StepTime, ...] = ()
    query: StructuredQuery | None = None
    candidates: tuple[Candidate, ...] = Field(default=(), description="the ranked table all rounds choose from")
    query_set: CellSet | None = Field(default=None, description="where the query cells come from; None: query_h5ad")
    rounds: tuple[Round, ...] = ()
    best_round: int | None = None
    termination: Termination | None = None
    interpretation: Interpretation | None = None
    failure: Failure | None = None
    files: tuple[FileRef, ...] = Field(default=(), description="published artifacts of the run folder")
    versions: dict[str, str] = Field(default_factory=dict)
    digests: dict[str, str] = Field(default_factory=dict, description="of the atlases and of the knowledge tables")
    notes: tuple[str, ...] = Field(default=(), description="what changed around the run between its steps")
    removed: tuple[FileRef, ...] = Field(default=(), description="files of rounds that garbage collection deleted")

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
    def cost_usd(self) -> float:
        """What the jobs of all rounds cost so far by list prices."""
        return sum((bill.usd for item in self.rounds for bill in item.bills), start=0.0)


class RunSummary(Frozen):
    """A run in one line; ``summary.json`` of the run folder, written beside the record after every step."""

    run_id: RunId
    status: RunStatus
    score: Real = NAN
    rounds: int = 0
    question: str
    engine: Engine
    created_at: datetime
    orchestrator: ExecutorName | None = None
    forked_from: RunId | None = None

    @classmethod
    def of(cls, record: RunRecord) -> RunSummary:
        """The summary of a record."""
        return cls(
            run_id=record.run_id,
            status=record.status,
            score=record.score,
            rounds=len(record.rounds),
            question=record.question,
            engine=record.config.engine,
            created_at=record.created_at,
            orchestrator=record.orchestrator.executor if record.orchestrator else None,
            forked_from=record.forked_from.run_id if record.forked_from else None,
        )


def is_run_id(text: str) -> bool:
    """Whether ``text`` is a valid run id (it becomes part of a Batch job id and of a path)."""
    return re.fullmatch(RUN_ID_PATTERN, text) is not None
