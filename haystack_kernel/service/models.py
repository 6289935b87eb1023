"""What requests and answers of the REST interface hold; the OpenAPI document is made of these.

In: plain values. Out: models that validate them.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, create_model

from haystack_kernel.errors import explain_refusals
from haystack_kernel.manage.catalogue import MAX_LIMIT
from haystack_kernel.manage.tenancy import Spending
from haystack_kernel.schema import OPTIONS, CostEstimate, ExecutorName, RunConfig, ShownStatus

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from haystack_kernel.manage.previews import Preview
    from haystack_kernel.manage.tenancy import Person
    from haystack_kernel.schema import Access, Candidate
    from haystack_kernel.store import IndexedRun


def _optional(field: FieldInfo) -> Any:  # noqa: ANN401 - a type and a field, as create_model takes them
    """A field of a run's options that may be left out; lists of records are given as text."""
    kind = list[str] if get_origin(field.annotation) is tuple else field.annotation
    limits = {name: getattr(rule, name) for rule in field.metadata for name in ("ge", "le") if hasattr(rule, name)}
    return (Optional[kind], Field(default=None, description=field.description, **limits))  # noqa: UP045 - made at run time


# Options of a run, each of which may be left out; the list of them stands in RunConfig alone.
_OPTIONS = create_model(
    "RunOptions",
    __config__=ConfigDict(extra="forbid"),
    **{name: _optional(RunConfig.model_fields[name]) for name in OPTIONS},
)


def _options(value: dict[str, Any]) -> dict[str, Any]:
    """Options that are given and known; ValueError names the others."""
    try:
        checked = _OPTIONS.model_validate(value)
    except ValidationError as error:
        raise ValueError("; ".join(explain_refusals(error))) from None
    return checked.model_dump(exclude_none=True, mode="json")


RunOptions = Annotated[
    dict[str, Any],
    AfterValidator(_options),
    WithJsonSchema({**_OPTIONS.model_json_schema(), "title": "RunOptions"}),
]
Question = Annotated[str, Field(min_length=10, max_length=2000, description="a question in English")]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class QuestionIn(_In):
    """A question to look at."""

    question: Question


class PreviewIn(QuestionIn):
    """A question and options to look at."""

    options: RunOptions = {}


class SpendingIn(_In):
    """Consent to spending, which only this request gives."""

    approve: bool = Field(default=False, description="jobs that cost money may start")
    max_cost: float | None = Field(
        default=None, ge=0, le=1e6, allow_inf_nan=False, description="dollars that all jobs of the run may cost"
    )

    @property
    def spending(self) -> Spending:
        """The same for the verbs."""
        return Spending(approve=self.approve, max_cost=self.max_cost)


class SubmitIn(SpendingIn):
    """A question to work on."""

    question: Question
    options: RunOptions = {}


class ForkIn(SpendingIn):
    """What a new run does otherwise than the run it is made from."""

    changes: RunOptions = {}
    question: Question | None = None


class ShareIn(_In):
    """Who may read a run beside its owner."""

    people: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(default=[], max_length=100)
    everyone: bool = False


class LinkIn(_In):
    """A link to make."""

    days: float = Field(default=1.0, gt=0, le=90, allow_inf_nan=False)


class RunRow(BaseModel):
    """A run in one line."""

    run_id: str
    status: ShownStatus
    score: float | None = Field(description="composite of the best round, 1 to 10; null: not scored")
    rounds: int
    question: str
    engine: str
    executor: ExecutorName
    cell_type: str
    treatment: str
    owner: str | None = Field(description="null: of nobody whom the service knows")
    cost_usd: float
    seconds: float = Field(description="of all finished steps")
    created_at: datetime
    changed_at: datetime | None
    forked_from: str | None

    @classmethod
    def of(cls, row: IndexedRun) -> RunRow:
        """The row of an index."""
        summary = row.summary
        return cls(
            run_id=summary.run_id,
            status=summary.status,
            score=finite(summary.score, digits=3),
            rounds=summary.rounds,
            question=summary.question,
            engine=summary.engine,
            executor=summary.executor,
            cell_type=summary.cell_type,
            treatment=summary.treatment,
            owner=row.access.owner if row.access else None,
            cost_usd=round(summary.cost_usd, 4),
            seconds=round(summary.seconds, 1),
            created_at=summary.created_at,
            changed_at=summary.changed_at,
            forked_from=summary.forked_from,
        )


class RunPage(BaseModel):
    """Some runs, newest first."""

    runs: list[RunRow]
    n_found: int = Field(description="runs that fit, on all pages")
    following: str | None = Field(description="give it as `after` for the next page; null: this is the last")


class RunQuery(_In):
    """Filters of the list of runs."""

    status: ShownStatus | None = None
    text: str = Field(default="", max_length=200, description="part of the question or of the id")
    cell_type: str = Field(default="", max_length=200)
    treatment: str = Field(default="", max_length=200)
    owner: str = Field(default="", max_length=200)
    min_score: float | None = Field(default=None, ge=1, le=10, allow_inf_nan=False)
    since: str | None = Field(default=None, max_length=40, description="a date, a time (UTC), or an age such as 7d")
    until: str | None = Field(default=None, max_length=40)
    after: str | None = Field(default=None, max_length=200, description="cursor of the page before")
    limit: int = Field(default=50, ge=1, le=MAX_LIMIT)


class RunOut(BaseModel):
    """Where a run stands."""

    model_config = ConfigDict(extra="allow")

    run_id: str
    question: str
    status: ShownStatus
    next_step: str | None
    doing: str = Field(description="the next step in words; empty after the last one")
    rounds: int
    score: float | None
    score_words: str = Field(description="the score with the most that was possible; empty: not scored")
    cost_usd: float
    owner: str | None
    may_steer: bool = Field(description="whether you may cancel, resume and share it")
    elapsed_s: float = Field(description="since it began; until it ended where it has")
    left_s: float | None = Field(description="estimated from earlier runs; null where nothing is known")
    steps: list[dict[str, Any]] = Field(description="finished steps with their seconds")


class FileOut(BaseModel):
    """A file of a run."""

    path: str
    n_bytes: int


class LogOut(BaseModel):
    """The end of the logs of a run."""

    orchestrator: str
    job: str


class ShareOut(BaseModel):
    """Who may read a run."""

    owner: str | None
    people: list[str]
    everyone: bool
    links: list[datetime] = Field(description="when each link expires")

    @classmethod
    def of(cls, access: Access | None) -> ShareOut:
        """What is stored, without secrets."""
        if access is None:
            return cls(owner=None, people=[], everyone=False, links=[])
        links = [link.expires_at for link in access.links]
        return cls(owner=access.owner, people=list(access.shared_with), everyone=access.everyone, links=links)


class LinkOut(ShareOut):
    """A link that was just made; it is told only once."""

    url: str


class CandidateOut(BaseModel):
    """A set of cells that a round may use as prompt."""

    key: str
    strategy: str
    dataset: str
    cell_type: str
    perturbation: str | None
    n_cells: int
    score: float
    reason: str
    control: str = Field(description="how the control was matched, or why there is none")

    @classmethod
    def of(cls, item: Candidate) -> CandidateOut:
        """A candidate of a record."""
        return cls(
            key=item.key,
            strategy=item.strategy,
            dataset=item.prompt.dataset,
            cell_type=item.prompt.label or ", ".join(item.prompt.cell_type_names or item.prompt.cell_type_ids),
            perturbation=item.prompt.perturbation,
            n_cells=item.prompt.n_cells,
            score=round(item.score, 4),
            reason=item.reason,
            control=item.control_reason,
        )


class CandidatesOut(BaseModel):
    """The query and the ranked candidates that a question would use."""

    query: dict[str, Any]
    candidates: list[CandidateOut]


class EstimateOut(BaseModel):
    """What a question may cost."""

    executor: ExecutorName
    low_usd: float = Field(description="one round")
    high_usd: float = Field(description="as many rounds as the options allow, each up to its time limit")
    of_round: CostEstimate | None
    of_orchestrator: CostEstimate | None
    of_planner: CostEstimate | None
    usd_left_today: float

    @classmethod
    def of(cls, seen: Preview, *, usd_left: float) -> EstimateOut:
        """The costs of a preview."""
        return cls(
            executor=seen.record.config.executor,
            low_usd=round(seen.low_usd, 4),
            high_usd=round(seen.high_usd, 4),
            of_round=seen.of_round,
            of_orchestrator=seen.of_orchestrator,
            of_planner=seen.of_planner,
            usd_left_today=round(usd_left, 4),
        )


class MeOut(BaseModel):
    """Who you are to the service, and what you may do."""

    name: str
    is_admin: bool
    running: int
    runs_at_once: int
    spent_today_usd: float
    usd_per_day: float


class AtlasRow(BaseModel):
    """An atlas in one line."""

    name: str
    n_cells: int
    n_control: int
    datasets: list[str]


class AtlasOut(BaseModel):
    """What an atlas holds."""

    model_config = ConfigDict(extra="allow")

    name: str
    n_cells: int


def finite(value: float, *, digits: int) -> float | None:
    """A number for JSON: rounded, None for NaN."""
    return None if math.isnan(value) else round(value, digits)


def own(person: Person) -> str | None:
    """Whose runs a person sees: None, i.e. everybody's, for an admin."""
    return None if person.is_admin else person.name
