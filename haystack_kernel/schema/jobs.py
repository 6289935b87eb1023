"""Jobs: what runs and for whom, what it may cost, what it did cost, and its state.

In: plain values. Out: specs, handles, estimates, bills, states.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, model_validator

from haystack_kernel.schema.base import ExecutorName, Frozen, JobKind, JobState, RunId

SpendingKind = Literal["inference", "orchestrator", "planner"]
Provisioning = Literal["spot", "flex_start", "on_demand"]
PROVISIONING_WORDS: dict[Provisioning, str] = {
    "spot": "on Spot",
    "flex_start": "with flex start",
    "on_demand": "on demand",
}
_NEVER_STORED = "HAYSTACK_COST__APPROVE"  # consent that specs of earlier versions carried


class JobOwner(Frozen):
    """What a job works for: a round of a run, a whole run, or a batch of a campaign's tasks."""

    kind: Literal["run", "campaign"] = "run"
    id: RunId
    round: int = Field(default=0, ge=0, description="round of a run; 0: the whole run, or a campaign")


class JobSpec(Frozen):
    """One container execution, the same for every executor.

    ``job_id`` is derived from the owner and the spec's hash, so a repeated submit finds its job. A spec holds no
    consent to spending: that is given by each call, see :class:`haystack_kernel.ports.Consent`.
    """

    owner: JobOwner
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
    engines: tuple[str, ...] = Field(default=(), description="of other packages, whose image the job needs")
    follow_up_usd: float = Field(
        default=0.0,
        ge=0,
        description="of an orchestrator: highest cost of the first job that it starts; a cap must hold both",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, data: Any) -> Any:  # noqa: ANN401 - whatever is to be validated
        """Specs of earlier versions name a run and a round, and hold a budget and the consent of their day."""
        if not isinstance(data, dict) or "run_id" not in data:
            return data
        kept = {name: value for name, value in data.items() if name not in ("run_id", "round", "budget_usd")}
        kept["owner"] = {"kind": "run", "id": data["run_id"], "round": data.get("round", 0)}
        environment = dict(kept.get("environment") or {})
        environment.pop(_NEVER_STORED, None)
        command = list(kept.get("command", ()))
        if kept.get("kind") == "orchestrator":
            if command[-2:-1] == ["--max-cost"]:
                command = command[:-2]
            if command[-1:] == ["--yes"]:
                command = command[:-1]
        return {**kept, "environment": environment, "command": tuple(command)}

    @model_validator(mode="before")
    @classmethod
    def _of_one_engine(cls, data: Any) -> Any:  # noqa: ANN401 - whatever is to be validated
        """Specs of earlier versions name one engine of another package, or none by an empty name."""
        if not isinstance(data, dict) or "engine" not in data:
            return data
        kept = {name: value for name, value in data.items() if name != "engine"}
        return {**kept, "engines": (data["engine"],) if data["engine"] else ()}

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
    owner: JobOwner | None = Field(default=None, description="None: the run that the job id names")
    executor: ExecutorName
    manifest_uri: str = ""
    spec_hash: str
    submitted_at: datetime
    location: str = Field(default="", description="where the job runs: the machine's name, a resource name")


class Provisioned(Frozen):
    """Base of what says how its machines are provisioned; earlier versions told only whether on Spot."""

    provisioning: Provisioning = "on_demand"

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, data: Any) -> Any:  # noqa: ANN401 - whatever is to be validated
        if not isinstance(data, dict) or "spot" not in data:
            return data
        kept = {name: value for name, value in data.items() if name != "spot"}
        return {"provisioning": "spot" if data["spot"] else "on_demand", **kept}


class CostEstimate(Provisioned):
    """What one attempt of a job may cost, by list prices; ``high`` is what its time limit allows."""

    machine: str = Field(description="preset and machine type; empty: this machine, which costs nothing")
    n_machines: int = Field(default=1, ge=1)
    low_usd: float = Field(ge=0)
    likely_usd: float = Field(ge=0)
    high_usd: float = Field(ge=0)
    low_s: float = Field(ge=0, description="seconds each machine is paid for")
    likely_s: float = Field(ge=0)
    high_s: float = Field(ge=0)
    basis: str = Field(description="what the numbers rest on")


class Bill(Provisioned):
    """What one attempt cost by list prices; the invoice is the provider's."""

    kind: SpendingKind = "inference"
    job_id: str = Field(description="of the attempt, as the provider knows it")
    attempt: int = Field(ge=1)
    machine: str
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
    accrued: Bill | None = Field(default=None, description="what the attempt that runs now has cost so far")
    needs_approval: str = Field(
        default="", description="why the next attempt waits for consent and how to give it; empty: it does not"
    )
    console: str = Field(default="", description="address of a page about the job")

    @property
    def is_terminal(self) -> bool:
        """Whether the state can no longer change; ``unknown`` can."""
        return self.state in ("succeeded", "failed", "cancelled")
