"""Jobs: what to run, what it may cost, where it runs, and waiting for it."""

from haystack_kernel.jobs.batch.executor import BatchExecutor
from haystack_kernel.jobs.batch.request import check_settings
from haystack_kernel.jobs.consent import SpendingGate
from haystack_kernel.jobs.cost import describe, estimate_cost, in_usd
from haystack_kernel.jobs.local import LocalExecutor
from haystack_kernel.jobs.spec import (
    BASELINE_PREFIX,
    CONTROL,
    RESAMPLE_INFIX,
    TREATED,
    build_job_spec,
    build_manifest,
    build_orchestrator_spec,
    expected_handle,
    owner_in,
    reads_others,
)
from haystack_kernel.jobs.standby import start_standby
from haystack_kernel.jobs.wait import SystemClock, pace, wait

__all__ = [
    "BASELINE_PREFIX",
    "CONTROL",
    "RESAMPLE_INFIX",
    "TREATED",
    "BatchExecutor",
    "LocalExecutor",
    "SpendingGate",
    "SystemClock",
    "build_job_spec",
    "build_manifest",
    "build_orchestrator_spec",
    "check_settings",
    "describe",
    "estimate_cost",
    "in_usd",
    "expected_handle",
    "owner_in",
    "pace",
    "reads_others",
    "start_standby",
    "wait",
]
