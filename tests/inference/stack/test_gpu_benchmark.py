"""The GPU benchmark runs; where there is no GPU it claims nothing."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the benchmark takes minutes: run it by hand")
def test_benchmark_runs_on_a_processor_and_claims_nothing(tmp_path):
    words = [sys.executable, "tests/benchmarks/gpu.py", "--out", str(tmp_path / "gpu.json"), "--seconds", "600"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    assert found == json.loads((tmp_path / "gpu.json").read_text())
    assert [name for name, section in found.items() if "result" not in section] == []
    results = {name: section["result"] for name, section in found.items()}
    assert results["machine"]["is_claim"] is False
    assert {"chosen_fp32", "torch_fp32", "torch_bf16"} <= set(results["variants"])
    assert results["relative_error"]["torch_fp32"]["mean"] < 1e-5
    assert 0 < results["relative_error"]["torch_bf16"]["mean"] < 0.05
    assert (results["manifest"]["tasks"], results["manifest"]["done"]) == (2, 2)
    timed = [*results["windows"].values(), *results["tokens"].values(), *results["head"].values()]
    assert {value["ms"] for value in timed} | set(results["job_s"].values()) == {None}
    assert {section["section_s"] for section in found.values()} | set(results["host"].values()) == {None}


def test_a_section_that_fails_or_comes_too_late_leaves_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    gpu = runpy.run_path(str(ROOT / "tests" / "benchmarks" / "gpu.py"), run_name="benchmark")
    report = gpu["Report"](tmp_path / "out.json", seconds=600.0)
    assert report.add("one", lambda: {"ms": float("nan")}) is not None
    assert report.add("two", lambda: {}["missing"]) is None
    report.add("three", lambda: {"ms": 1.0})
    late = gpu["Report"](None, seconds=0.0)
    assert late.add("four", lambda: {"ms": 2.0}) is None
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["one"]["result"] == {"ms": None}
    assert found["two"]["error"] == "KeyError: 'missing'"
    assert found["three"]["result"] == {"ms": 1.0}
    assert "no time was left" in capsys.readouterr().out.splitlines()[-1]
