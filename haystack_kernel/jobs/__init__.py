"""Inference jobs: what to run, where it runs, and waiting for it."""

from haystack_kernel.jobs.local import LocalExecutor
from haystack_kernel.jobs.spec import (
    BASELINE_PREFIX,
    CONTROL,
    SEED_INFIX,
    TREATED,
    build_job_spec,
    build_manifest,
    build_orchestrator_spec,
    expected_handle,
)
from haystack_kernel.jobs.wait import SystemClock, wait

__all__ = [
    "BASELINE_PREFIX",
    "CONTROL",
    "SEED_INFIX",
    "TREATED",
    "LocalExecutor",
    "SystemClock",
    "build_job_spec",
    "build_manifest",
    "build_orchestrator_spec",
    "expected_handle",
    "wait",
]
