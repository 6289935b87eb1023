"""Every fault of the cloud: nothing lost, nothing paid twice, and what to do said."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def load_cases():
    path = Path(__file__).parents[2] / "servers" / "job_faults.py"
    spec = importlib.util.spec_from_file_location("job_faults_module", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


faults = load_cases()


@pytest.fixture
def here(served, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHT_LOG", str(tmp_path / "computed.txt"))
    with faults.world(tmp_path, served) as made:
        yield made


@pytest.mark.parametrize("case", faults.CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_fault(here, case):
    ended = case.run(here)
    assert re.search(case.ends, ended, re.DOTALL), ended
    assert len(here.server.started) == case.n_jobs
    assert len(here.server.jobs) == (case.n_jobs if case.n_created is None else case.n_created)
    assert here.server.overlaps == []
    assert len(here.computed) == case.n_tasks
    assert len(set(here.computed)) == case.n_tasks  # none twice
