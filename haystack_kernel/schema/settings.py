"""Everything that can be set, with its default and its limits.

In: plain values. Out: one frozen, validated :class:`Settings`; :mod:`haystack_kernel.config.settings` reads them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from haystack_kernel.schema.base import (
    DEMO_ATLAS,
    AtlasName,
    ControlStrategy,
    EngineChoice,
    ExecutorName,
    address_fault,
)
from inference.manifest import ENGINES, is_engine_name

NO_STANDING_CONSENT = (
    "cost.approve is not a setting: spending is approved by each call. Remove it from haystack.toml and from the "
    "environment (HAYSTACK_COST__APPROVE), and give --yes on the command line or approve=True in Python"
)


def check_service_address(value: str) -> str:
    """Return an address without its last slash; ValueError unless it is https or of this machine."""
    parts = urlsplit(value)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        msg = "must be an https address"
        raise ValueError(msg)
    return value.rstrip("/")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    retired: ClassVar[frozenset[str]] = frozenset()  # options of earlier versions; they are ignored

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: object) -> object:
        if not cls.retired or not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if name not in cls.retired}


class RetrievalSettings(_Section):
    """How candidates are found and ranked."""

    retired: ClassVar[frozenset[str]] = frozenset({"vectoriser"})

    max_candidates: int = Field(default=50, ge=1, description="search stops here")
    n_top: int = Field(default=10, ge=1, description="candidates kept after greedy ranking")
    weight_relevance: float = Field(default=0.5, ge=0)
    weight_diversity: float = Field(default=0.3, ge=0)
    weight_quality: float = Field(default=0.2, ge=0)
    penalty_same_perturbation: float = Field(default=0.3, ge=0, le=1)
    penalty_same_cell_type: float = Field(default=0.2, ge=0, le=1)
    penalty_same_dataset: float = Field(default=0.1, ge=0, le=1)
    ontology_hops: int = Field(default=2, ge=0, le=4)
    mechanistic_floor: float = Field(default=0.3, ge=0, le=1, description="less in common says little about the effect")
    semantic_floor: float = Field(default=0.5, ge=0, le=1, description="cosine of descriptions")
    min_cells: int = Field(default=5, ge=1, description="smaller sets are not proposed")


class RoundSettings(_Section):
    """When the loop stops."""

    threshold: float = Field(default=7.0, ge=1, le=10)
    maximum: int = Field(default=5, ge=1, le=20)
    plateau_rounds: int = Field(default=3, ge=1, description="this many rounds without a gain of plateau_gain stop")
    plateau_gain: float = Field(default=1.0, ge=0)


class GroundingSettings(_Section):
    """Thresholds of differential expression and of the nulls."""

    retired: ClassVar[frozenset[str]] = frozenset({"min_abs_log2fc", "max_padj", "n_seeds", "min_stability"})

    max_lfsr: float = Field(default=0.05, gt=0, lt=0.5, description="called = the sign is less likely to be wrong")
    min_detection: float = Field(default=0.02, ge=0, le=1, description="tested = detected in this share of an arm")
    min_tested_genes: int = Field(
        default=50, ge=1, description="below this every component is NaN; below 1,000 the score is capped"
    )
    n_draws: int = Field(default=9999, ge=99, description="draws of each null; 9,999 reach a score of 10")
    n_resamples: int = Field(
        default=2, ge=0, le=20, description="of the prompt, which an engine with a model predicts from again; 0: none"
    )
    weight_pathway: float = Field(default=0.25, ge=0)
    weight_target: float = Field(default=0.30, ge=0)
    weight_literature: float = Field(default=0.25, ge=0)
    weight_network: float = Field(default=0.20, ge=0)


class InferenceSettings(_Section):
    """What predicts, and on how many cells."""

    engine: EngineChoice | None = Field(
        default=None,
        description="None: stack where a model is given, or on the demo atlas; else weighted. auto: the one that the "
        "back-test of the atlas favours, else that default",
    )
    n_prompt: int = Field(default=2000, ge=1, le=20_000)
    n_query: int = Field(default=256, ge=1, le=20_000)
    control_strategy: ControlStrategy = "synthetic_control"
    diffusion_steps: int = Field(default=5, ge=1, le=100)
    model: str | None = Field(default=None, description="checkpoint for engine stack, path or gs:// URI")
    genelist: str | None = Field(default=None, description="gene list that belongs to the model")

    @field_validator("model", "genelist")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if fault := address_fault(value or ""):
            raise ValueError(fault)
        return value


class JobSettings(_Section):
    """Where jobs run, how long one may take, and how often one of this machine is looked at."""

    executor: ExecutorName = "local"
    timeout_s: float = Field(default=1800, gt=0)
    poll_s: float = Field(default=0.1, gt=0)


class BatchSettings(_Section):
    """Google Cloud Batch: where jobs run, on what machines, and how patiently they are watched."""

    project: str = ""
    region: str = Field(default="", description="e.g. us-central1; jobs run in its zones only")
    zones: tuple[str, ...] = Field(default=(), description="tried one attempt each, in this order; none: the region")
    inference_image: str = Field(default="", description="container image of docker/Dockerfile.inference")
    engine_images: dict[str, str] = Field(
        default_factory=dict, description="engine of another package -> image made from inference_image that has it"
    )
    gpu_engines: tuple[str, ...] = Field(default=(), description="engines of other packages that need a GPU")
    orchestrator_image: str = Field(default="", description="container image of docker/Dockerfile.orchestrator")
    machine: str = Field(default="a100-40gb", description="preset for jobs with a model")
    cpu_machine: str = Field(default="cpu", description="preset for jobs without a model and for orchestrators")
    cpu_milli: int | None = Field(default=None, ge=1, description="of each task; None: the preset's")
    memory_mib: int | None = Field(default=None, ge=1, description="of each task; None: the preset's")
    shm_gib: int = Field(default=8, ge=1, description="shared memory of the container")
    boot_disk_gib: int = Field(default=100, ge=30)
    spot: bool = Field(default=False, description="first attempts of a prediction on Spot, the last on demand")
    spot_attempts: int = Field(default=2, ge=1, description="without zones; with zones one each")
    flex_start: bool = Field(
        default=False,
        description="jobs with a GPU wait for a flex-start machine (FLEX_START) between Spot and on demand",
    )
    flex_start_patience_s: float = Field(
        default=1800, ge=0, description="longest wait for a flex-start machine; then one on demand is asked for"
    )
    max_attempts: int = Field(default=4, ge=1, description="of one submission, the first included")
    tasks_per_shard: int = Field(default=16, ge=1, description="more tasks than this share several machines")
    max_shards: int = Field(default=8, ge=1)
    service_account: str = Field(default="", description="account that jobs run as; unset: the project's default")
    orchestrator_account: str = Field(
        default="", description="account of jobs that work a run and start others; unset: service_account"
    )
    network: str = ""
    subnetwork: str = ""
    no_external_ip: bool = False
    secrets: dict[str, str] = Field(
        default_factory=dict, description="variable of the orchestrator -> projects/*/secrets/*/versions/*"
    )
    labels: dict[str, str] = Field(default_factory=dict, description="added to those of HAYSTACK")
    topic: str = Field(
        default="",
        description="projects/*/topics/* of Pub/Sub that jobs which work a run tell every change of their state; "
        "services then wait to be woken instead of asking",
    )
    poll_interval_s: float = Field(default=10, gt=0)
    queue_timeout_s: float = Field(default=7200, gt=0, description="waiting for a machine, apart from jobs.timeout_s")
    stockout_patience_s: float = Field(default=600, ge=0, description="then the next place of the ladder is tried")
    boot_patience_s: float = Field(
        default=1800, gt=0, description="a machine that is paid for but has not begun to work by then is given up"
    )
    settle_s: float = Field(default=60, ge=0, description="wait for late events, and for a job that is not found")
    endpoint: str = Field(default="", description="host:port of another Batch service, e.g. a local one")
    insecure: bool = Field(default=False, description="the endpoint speaks plain text and takes local paths")

    @field_validator("zones", "gpu_engines", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("engine_images", "gpu_engines")
    @classmethod
    def _are_foreign(cls, value: dict[str, str] | tuple[str, ...]) -> dict[str, str] | tuple[str, ...]:
        for name in value:
            if name in ENGINES:
                msg = f"{name!r} is an engine of HAYSTACK, whose image is batch.inference_image; name others only"
                raise ValueError(msg)
            if not is_engine_name(name):
                msg = f"{name!r} is no name of an engine: 2 to 40 of a-z, 0-9 and _, none of HAYSTACK's own words"
                raise ValueError(msg)
        if isinstance(value, dict) and (empty := [name for name, image in value.items() if not image.strip()]):
            msg = f"give the address of an image for {empty[0]!r}"
            raise ValueError(msg)
        return value

    @field_validator("topic")
    @classmethod
    def _is_topic(cls, value: str) -> str:
        if value and not re.fullmatch(r"projects/[^/]+/topics/[A-Za-z][A-Za-z0-9._~+%-]{2,254}", value):
            msg = f"{value!r} must be projects/<p>/topics/<name>"
            raise ValueError(msg)
        return value

    @field_validator("secrets")
    @classmethod
    def _upper(cls, value: dict[str, str]) -> dict[str, str]:
        return {name.upper(): secret for name, secret in value.items()}  # the layers lower every key


class CostSettings(_Section):
    """A standing limit on spending; no setting approves any, each call does (``--yes``, ``approve=True``)."""

    max_usd: float | None = Field(
        default=None,
        ge=0,
        description="cap of a run, all its rounds, attempts and its orchestrator together; the smaller of this and the "
        "cap of the call holds",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_standing_consent(cls, data: object) -> object:
        if isinstance(data, dict) and "approve" in data:
            raise ValueError(NO_STANDING_CONSENT)
        return data


class CellSettings(_Section):
    """What this disk keeps, under ``cache``, of sources that are slow to read; least recently used goes first."""

    cache_gib: float = Field(default=4.0, ge=0, description="chunks of sources in a bucket; 0 keeps none")
    rows_gib: float = Field(
        default=20.0, ge=0, description="matrices stored by gene (CSC), rearranged by cell; 0 reads them whole"
    )


class BucketSettings(_Section):
    """How ``gs://`` storage is used."""

    patience_s: float = Field(default=300.0, ge=0, description="a bucket that fails is tried again for this long")
    save_patience_s: float = Field(
        default=1800.0, ge=0, description="the same for what was computed and is to be saved, so that it is not lost"
    )
    save_interval_s: float = Field(default=10.0, ge=1, description="a running notebook goes up at most this often")


class LeaseSettings(_Section):
    """How a worker shows that it still works on a run."""

    ttl_s: float | None = Field(
        default=None,
        ge=1,
        description="a worker that was not heard of for so long counts as gone; None: 30 on a disk, 90 in a bucket",
    )


class LiteratureSettings(_Section):
    """Which literature sources are asked, how politely, and for how long. Keys are optional and never recorded."""

    enabled: bool = Field(default=True, description="runs on the demo atlas alone leave it off unless asked")
    europepmc_url: str = "https://www.ebi.ac.uk/europepmc/webservices/rest"
    pubmed_url: str = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
    semanticscholar_url: str = "https://api.semanticscholar.org/graph/v1"
    max_papers: int = Field(default=80, ge=1, le=100, description="abstracts of one source and search")
    timeout_s: float = Field(default=20.0, gt=0, description="one search, all sources and tries together")
    connect_timeout_s: float = Field(default=3.0, gt=0, description="a source that cannot be reached is given up")
    tries: int = Field(default=3, ge=1, le=10, description="on 429, 5xx and lost connections")
    max_mib: float = Field(default=16.0, gt=0, description="a larger answer is refused")
    cache_days: float = Field(default=7.0, ge=0, description="answers are kept so long under cache; 0 keeps none")
    email: str | None = Field(default=None, description="told to the sources, so that they can write before they block")
    ncbi_api_key: SecretStr | None = None
    semanticscholar_api_key: SecretStr | None = None

    @field_validator("europepmc_url", "pubmed_url", "semanticscholar_url")
    @classmethod
    def _address(cls, value: str) -> str:
        return check_service_address(value)


class ClaudeSettings(_Section):
    """The planner ``claude``: whose service is asked, which models, and what a run may use of them."""

    provider: Literal["anthropic", "vertex", "google_cloud"] | None = Field(
        default=None,
        description="Anthropic's own service with a key, or Claude in a Google Cloud project with that project's "
        "credentials; None: anthropic where a key is set",
    )
    api_key: SecretStr | None = Field(default=None, description="of Anthropic's service; also ANTHROPIC_API_KEY")
    base_url: str = Field(default="", description="of another address of the service; empty: the provider's")
    project: str = Field(default="", description="of Google Cloud; empty: that of the credentials")
    region: str = Field(default="global", description="of Google Cloud")
    workspace: str = Field(default="", description="of provider google_cloud")
    access_token: SecretStr | None = Field(default=None, description="of Google Cloud; None: the usual credentials")
    model: str = Field(default="claude-sonnet-5-5", min_length=1)
    small_model: str = Field(default="claude-haiku-5-5", min_length=1, description="for small steps: reading papers")
    max_tokens: int = Field(default=8000, ge=1024, le=20_000, description="of one answer, thinking included")
    max_usd: float = Field(default=1.0, ge=0, description="of one run, within the cap of the run")
    max_total_tokens: int = Field(default=500_000, ge=1000, description="of one run, read and written")
    max_turns: int = Field(default=12, ge=2, le=50, description="requests of one step")
    max_seconds: float = Field(default=900, gt=0, description="of one run, waiting for answers")
    timeout_s: float = Field(default=180, gt=0, le=600, description="of one request")
    tries: int = Field(default=4, ge=1, le=10, description="on 429, 5xx, 529 and lost connections")
    max_wait_s: float = Field(
        default=60, ge=0, description="longest wait before another try; a longer one ends the step"
    )

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        return check_service_address(value) if value else ""

    @property
    def is_configured(self) -> bool:
        """Whether credentials are known, so that planner ``auto`` is claude."""
        return self.provider in ("vertex", "google_cloud") or self.api_key is not None


class ServiceSettings(_Section):
    """The web service: who is let in, what each may do, and what happens when a run ends."""

    identity: Literal["token", "iap", "lab"] = Field(
        default="token",
        description="a token that is printed at the start, Google's Identity-Aware Proxy, or the JupyterLab around it",
    )
    token: SecretStr | None = Field(default=None, description="None: `haystack serve` makes one")
    lab_secret: SecretStr | None = Field(default=None, description="made by JupyterLab when it starts the service")
    person: str = Field(default="local", min_length=1, max_length=200, description="whose runs a token or Lab makes")
    audience: tuple[str, ...] = Field(
        default=(),
        description="of IAP's signed header: /projects/N/locations/R/services/S, or "
        "/projects/N/global/backendServices/ID behind a load balancer; no other is believed",
    )
    keys_url: str = Field(
        default="https://www.gstatic.com/iap/verify/public_key-jwk", description="public keys that IAP signs with"
    )
    address: str = Field(default="", description="of the service as people know it, for messages about runs that end")
    admins: tuple[str, ...] = Field(default=(), description="e-mail addresses of those who may see and stop every run")
    hosts: tuple[str, ...] = Field(
        default=(), description="names that the service answers to; none: with a token this machine's own, else any"
    )
    inputs: tuple[str, ...] = Field(
        default=(),
        description="beginnings of addresses (gs://bucket/folder/) from which a question may take query cells, a model "
        "or a gene list; with a token any place",
    )
    runs_at_once: int = Field(default=3, ge=1, description="of one person")
    local_runs_at_once: int = Field(default=8, ge=1, description="on this machine, of everybody together")
    usd_per_day: float = Field(default=100.0, ge=0, description="of one person, spent and reserved")
    requests_per_minute: int = Field(default=1200, ge=10, description="of one person")
    submits_per_minute: int = Field(default=30, ge=1, description="of one person")
    max_body_kib: int = Field(default=256, ge=1, description="larger requests are refused")
    request_timeout_s: float = Field(default=20.0, gt=0, description="a request whose body takes longer is refused")
    storage_patience_s: float = Field(
        default=10.0, ge=0, description="a bucket that fails is tried again for so long while somebody waits"
    )
    answer_timeout_s: float = Field(
        default=60.0, gt=0, description="a question that takes longer to look at or to start is answered with that"
    )
    link_days: float = Field(default=7.0, gt=0, le=90, description="longest life of a link that shares a run")
    log_questions: bool = Field(default=False, description="write the text of questions into the audit lines")
    watch_s: float = Field(default=15.0, gt=0, description="between two looks at the runs that are worked on")
    told_watch_s: float = Field(
        default=600.0, gt=0, description="the same for runs whose jobs tell batch.topic, should a message be lost"
    )
    wake_account: str = Field(
        default="",
        description="e-mail address of the service account whose Pub/Sub push subscription may wake the service",
    )
    wake_audience: str = Field(default="", description="for whom the tokens of that subscription are made")
    wake_keys_url: str = Field(
        default="https://www.googleapis.com/oauth2/v3/certs", description="public keys that those tokens are signed by"
    )
    webhook: SecretStr | None = Field(default=None, description="address that is told when a run ends")
    webhook_secret: SecretStr | None = Field(default=None, description="signs what the webhook is sent")
    notify: tuple[SecretStr, ...] = Field(
        default=(), description="addresses for the package apprise (mailto://…), told when a run ends"
    )

    @field_validator("audience", "admins", "hosts", "inputs", "notify", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("admins")
    @classmethod
    def _fold(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.casefold() for name in value)

    @model_validator(mode="after")
    def _has_audience(self) -> ServiceSettings:
        if bool(self.wake_account) != bool(self.wake_audience):
            msg = "set service.wake_account and service.wake_audience together: who wakes the service, and for whom"
            raise ValueError(msg)
        if self.identity == "iap" and not self.audience:
            msg = "identity 'iap' needs service.audience (HAYSTACK_SERVICE__AUDIENCE): without it any proxy's would do"
            raise ValueError(msg)
        return self


class McpSettings(_Section):
    """Tools for assistants (`haystack mcp`): limits that hold whatever a client says that the person approved."""

    token: SecretStr | None = Field(default=None, description="of the HTTP server; None: one is made at each start")
    max_usd: float = Field(
        default=0.0, ge=0, description="what all runs started through one server may cost together; 0: only free runs"
    )
    runs_at_once: int = Field(default=2, ge=1, description="runs started through one server that may work at a time")


class Settings(_Section):
    """All settings. Paths may be local or, for ``storage``, ``gs://bucket/prefix``."""

    storage: str = Field(default="~/haystack", description="run folders live in <storage>/runs/<run_id>")
    atlas_root: str = Field(
        default="~/haystack/atlases", description="one folder per atlas; an address holds copies of such folders"
    )
    knowledge: str = Field(
        default="~/haystack/knowledge", description="ontologies, gene sets and targets added to the packaged tables"
    )
    cache: str = Field(
        default="~/.cache/haystack", description="job scratch, chunks and rows of sources; safe to delete"
    )
    atlases: tuple[AtlasName, ...] = (DEMO_ATLAS,)
    planner: Literal["auto", "offline", "claude"] = Field(
        default="auto", description="auto: claude where its credentials are configured, else offline"
    )
    seed: int = Field(default=0, ge=0)
    retrieval: RetrievalSettings = RetrievalSettings()
    rounds: RoundSettings = RoundSettings()
    grounding: GroundingSettings = GroundingSettings()
    inference: InferenceSettings = InferenceSettings()
    jobs: JobSettings = JobSettings()
    batch: BatchSettings = BatchSettings()
    cost: CostSettings = CostSettings()
    cells: CellSettings = CellSettings()
    bucket: BucketSettings = BucketSettings()
    lease: LeaseSettings = LeaseSettings()
    literature: LiteratureSettings = LiteratureSettings()
    claude: ClaudeSettings = ClaudeSettings()
    service: ServiceSettings = ServiceSettings()
    mcp: McpSettings = McpSettings()

    @field_validator("atlases", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("knowledge")
    @classmethod
    def _local(cls, value: str) -> str:
        if "://" in value and not address_fault(value):
            msg = "must be a local folder"
            raise ValueError(msg)
        return value

    @field_validator("storage", "atlas_root", "knowledge", "cache")
    @classmethod
    def _expand(cls, value: str) -> str:
        if not value.strip():
            msg = "must not be empty"
            raise ValueError(msg)
        if fault := address_fault(value):
            raise ValueError(fault)
        scheme, separator, rest = value.partition("://")
        return f"{scheme}://{rest.rstrip('/')}" if separator else str(Path(value).expanduser().absolute())
