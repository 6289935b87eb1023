"""Jobs: what runs, what it may cost, what it did cost, and its state.

In: plain values. Out: specs, handles, estimates, bills, states.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from haystack_kernel.schema.base import ExecutorName, Frozen, JobKind, JobState, RunId


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
