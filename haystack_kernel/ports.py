"""The borders: what the flow asks of planners, atlases, executors, stores, clocks and progress listeners.

In: records of :mod:`haystack_kernel.schema`. Out: Protocols; :mod:`haystack_kernel.config.connect` picks who
implements them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    import anndata as ad
    import pandas as pd

    from haystack_kernel.schema import (
        Access,
        Candidate,
        CellSet,
        Choice,
        FileRef,
        Interpretation,
        JobHandle,
        JobSpec,
        JobStatus,
        ModelReadings,
        Paper,
        PaperQuery,
        PaperSearch,
        PaperSource,
        Perturbation,
        RunConfig,
        RunRecord,
        RunSummary,
        Settings,
        StructuredQuery,
        Vocabulary,
    )


T = TypeVar("T")


class Answer(NamedTuple, Generic[T]):
    """What a planner says, and what saying it used (nothing, for a planner of rules)."""

    value: T
    usage: Usage = Usage()


@dataclass(frozen=True)
class PlannerView:
    """What a planner may look at during one step of a run, and where it keeps what it asked a language model.

    Every look is a function, so that a planner of rules costs nothing. None of them changes the run.
    """

    run_id: str
    step: str  # of the run: understand, choose 2, interpret
    config: RunConfig
    store: Store
    progress: Progress
    conditions: Callable[[], pd.DataFrame]  # of the atlases, without what is hidden; see Atlas.conditions
    effect: Callable[[Candidate], pd.Series | None]  # gene -> measured log2 fold change; None without control cells
    find_papers: Callable[[], PaperSearch | None]  # the run's search; None where no source is to be asked
    spending: Callable[[], tuple[float, float]]  # dollars spent and reserved by everything of this run


@dataclass(frozen=True)
class PapersToRead:
    """Papers of a round, and what a planner is asked to read in them.

    ``genes`` are the symbols of the run, ``predicted`` the called ones with +1 or -1, ``scored`` the ids of the papers
    that count in the score.
    """

    papers: Sequence[Paper]
    treatment: Perturbation
    genes: Sequence[str]
    predicted: Mapping[str, int] = field(default_factory=dict)
    scored: frozenset[str] = frozenset()


class Planner(Protocol):
    """Understands the question, chooses among candidates, puts the result into words; never sets a score."""

    name: str

    def check(self, config: RunConfig) -> None:
        """Raise where this planner cannot work as the options ask: no credentials, no package, no transcript."""
        ...

    def understand(
        self, question: str, *, vocabulary: Vocabulary, view: PlannerView | None = None
    ) -> Answer[StructuredQuery]:
        """Parse ``question``; raises InvalidInputError when it cannot be served, saying why.

        Names of the ``vocabulary`` can be asked about although nothing else may be known of them.
        """
        ...

    def choose(self, record: RunRecord, *, view: PlannerView | None = None) -> Answer[Choice | None]:
        """Pick the candidates of the next round, or None when nothing untried is left."""
        ...

    def read_papers(self, asked: PapersToRead, *, view: PlannerView) -> Answer[ModelReadings | None]:
        """Read papers beside the rules; None for a planner that asks no model. What is read is shown, never scored."""
        ...

    def interpret(
        self, record: RunRecord, *, de: pd.DataFrame, pathways: pd.DataFrame, view: PlannerView | None = None
    ) -> Answer[Interpretation]:
        """Say what the best round predicts and how far to trust it."""
        ...


class Atlas(Protocol):
    """Cells of one or several atlases seen as one collection."""

    def conditions(self) -> pd.DataFrame:
        """One row per distinct condition.

        Columns: ``atlas``, ``dataset``, ``cell_type_cl_id``, ``cell_type_name``, ``perturbation_name``,
        ``perturbation_type``, ``is_control``, ``tissue_uberon_id``, ``tissue_name``, ``donor_id``, ``donor_sex``,
        ``donor_age_category``, ``disease_mondo_id``, ``disease_name``, ``sample_condition``, ``n_cells``,
        ``median_total_counts`` (NaN where counts were not read) and ``median_n_genes``. Missing text is the empty
        string. Counted when the atlas was built, so asking is cheap however many cells there are.
        """
        ...

    def select(self, cell_set: CellSet) -> pd.DataFrame:
        """Rows of cells.parquet that satisfy the criteria, with ``cell_id`` and ``atlas``; ordered by cell_id."""
        ...

    def fetch(self, cells: pd.DataFrame) -> ad.AnnData:
        """Raw counts of the rows given (from :meth:`select`), in their order.

        ``X`` float32 CSR counts, obs index = ``cell_id`` and all columns of ``cells``, var index = upper-case gene
        symbols (unique), gene space of the source (the union where rows come from several sources, absent genes 0).
        """
        ...

    def digests(self) -> dict[str, str]:
        """Atlas name -> digest of its index, for the record."""
        ...


@dataclass(frozen=True)
class Consent:
    """Consent to spending, given by the call that is under way and by nothing else.

    No setting, record, spec or environment variable holds it, so that nothing stored ever authorises spending.

    Parameters
    ----------
    approve
        Whether jobs that cost money may be started.
    max_usd
        Dollars that all jobs of a run together may cost; the smaller of this and the setting ``cost.max_usd`` holds.

    Raises
    ------
    InvalidInputError
        ``approve`` is not a boolean, or ``max_usd`` no amount of money.
    """

    approve: bool = False
    max_usd: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.approve, bool):  # the text "False" would count as true
            msg = f"approve is {self.approve!r}; give True or False"
            raise InvalidInputError(msg, approve=repr(self.approve))
        cap = self.max_usd
        if cap is None:
            return
        if isinstance(cap, bool) or not isinstance(cap, (int, float)) or not cap >= 0:
            msg = f"max_cost is {cap!r}; give an amount in US dollars, 0 or more"
            raise InvalidInputError(msg, max_cost=repr(cap))

    @classmethod
    def given(cls, approve: bool | None, max_cost: float | None) -> Consent:  # noqa: FBT001 - as callers name them
        """The consent of a call's arguments; None: not given."""
        return cls(approve=False if approve is None else approve, max_usd=max_cost)

    @property
    def words(self) -> tuple[str, ...]:
        """The same as arguments of the command line."""
        cap = () if self.max_usd is None else ("--max-cost", repr(self.max_usd))
        return (*(("--yes",) if self.approve else ()), *cap)


class Executor(Protocol):
    """Runs jobs. Submit-or-attach: the same spec twice is one job.

    An executor is built with the :class:`Consent` of the call that is under way, and creates nothing that costs money
    without it.
    """

    name: str

    def submit(self, spec: JobSpec) -> JobHandle:
        """Start the job, or find it if it was started before; raises ApprovalNeededError where consent is lacking."""
        ...

    def status(self, job: JobHandle) -> JobStatus:
        """State now; never blocks, never raises for a job that failed."""
        ...

    def tend(self, job: JobHandle) -> JobStatus:
        """State now, after doing what the job needs to go on (another attempt after a preemption or a stock-out).

        Without consent no attempt is started: the status says what waits for approval, and nothing is lost.
        """
        ...

    def cancel(self, job: JobHandle) -> JobStatus:
        """Stop the job and wait until it has stopped."""
        ...


class Store(Protocol):
    """Run folders, local or in a bucket, through the same code."""

    def create(self, record: RunRecord) -> RunRecord:
        """Save the first record of a run; raises ConflictError when the run exists."""
        ...

    def save(self, record: RunRecord) -> RunRecord:
        """Save the next record; raises ConflictError when another writer took its number."""
        ...

    def load(self, run_id: str) -> RunRecord:
        """Newest whole record; raises NotFoundError naming the runs that exist."""
        ...

    def has(self, run_id: str) -> bool:
        """Whether the run has a record."""
        ...

    def summary(self, run_id: str) -> RunSummary:
        """The run in one line, cheaply."""
        ...

    def access(self, run_id: str) -> Access | None:
        """Whose run it is; None where no service has served it."""
        ...

    def claim(self, run_id: str, access: Access | None) -> None:
        """Save whose run it is, unless that is known or there is nobody to name."""
        ...

    def change_access(self, run_id: str, change: Callable[[Access | None], Access]) -> Access:
        """Save who may read a run; no other change is lost."""
        ...

    def list_runs(self) -> list[str]:
        """Run ids, newest first."""
        ...

    def uri(self, run_id: str, path: str = "") -> str:
        """Address of a file in the run folder."""
        ...

    def write(self, run_id: str, path: str, data: bytes) -> FileRef:
        """Write a file atomically (readers see the old or the new one, never half)."""
        ...

    def read(self, run_id: str, path: str) -> bytes:
        """Read a file; raises NotFoundError."""
        ...

    def create_file(self, run_id: str, path: str, data: bytes) -> bool:
        """Write a file unless it exists; whether this call wrote it."""
        ...

    def try_write(self, run_id: str, path: str, data: bytes) -> bool:
        """Write a file in one try; whether that worked."""
        ...

    def names(self, run_id: str, folder: str) -> list[str]:
        """Names directly below a folder of the run folder."""
        ...

    def exists(self, run_id: str, path: str) -> bool:
        """Whether the file is there."""
        ...

    def files(self, run_id: str) -> dict[str, int]:
        """Every file of a run folder with its size in bytes."""
        ...

    def copy(self, source: str, path: str, target: str) -> None:
        """Copy a file of run ``source`` to run ``target``; raises NotFoundError."""
        ...

    def remove(self, run_id: str, paths: Iterable[str]) -> None:
        """Delete files of a run folder, never its record."""
        ...


class LiteratureSource(Protocol):
    """Finds papers in the literature services."""

    def search(self, query: PaperQuery, *, sources: Sequence[PaperSource] | None = None) -> PaperSearch:
        """Ask the sources (None: all) at the same time; one that fails says why in its answer, nothing is raised."""
        ...


class Clock(Protocol):
    """Time, injected so that tests do not wait."""

    def now(self) -> datetime:
        """Wall time with UTC zone, for records."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump, for durations and deadlines."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


@dataclass(frozen=True)
class ProgressEvent:
    """One thing worth showing: ``phase`` is a step of the flow, ``fraction`` of it 0..1 or None when unknown.

    ``usual_s`` is what the step took in earlier runs like this one; 0 where none tells.
    """

    run_id: str
    phase: str
    message: str
    round: int | None = None
    fraction: float | None = None
    elapsed_s: float = 0.0
    usual_s: float = 0.0


class Progress(Protocol):
    """A listener: notebook display, stderr lines, papermill engine, widgets."""

    def __call__(self, event: ProgressEvent) -> None:
        """Show ``event``; must not raise."""
        ...


@dataclass(frozen=True)
class Ports:
    """Everything the flow talks to, built once by :func:`haystack_kernel.config.connect.connect`."""

    settings: Settings
    planners: Mapping[str, Planner]
    open_atlas: Callable[[Sequence[str]], Atlas]
    store: Store
    literature: LiteratureSource
    executors: Mapping[str, Executor]
    clock: Clock
    progress: Progress
    consent: Consent = field(default_factory=Consent)
    patience_s: float = 300.0  # how long a failing bucket is waited for

    def planner_named(self, name: str) -> Planner:
        """Return the planner that a record names; ``auto`` is the first of those there are.

        Raises
        ------
        InvalidInputError
            This installation has no planner of that name.
        """
        if name == "auto":  # of records of earlier versions, which knew no other
            name = next(iter(self.planners))
        if name not in self.planners:
            msg = f"planner {name!r} is not available here; possible: {', '.join(self.planners)}"
            raise InvalidInputError(msg, planner=name)
        return self.planners[name]
