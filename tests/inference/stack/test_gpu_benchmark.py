"""The GPU benchmark runs; where there is no GPU it claims nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the benchmark takes minutes: run it by hand")
def test_benchmark_runs_on_a_processor_and_claims_nothing():
    words = [sys.executable, "tests/benchmarks/gpu.py"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["is_claim"] is False
    assert {"torch_fp32", "torch_bf16"} <= set(found["variants"])
    assert found["relative_error"]["torch_fp32"]["mean"] < 1e-5
    assert 0 < found["relative_error"]["torch_bf16"]["mean"] < 0.05
    timed = [*found["windows"].values(), *found["kernels"].values()]
    assert {value["ms"] for value in timed} | set(found["job_s"].values()) == {None}
