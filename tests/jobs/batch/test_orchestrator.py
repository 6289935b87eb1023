"""A whole run handed to a Batch service of this machine: submitted once, seen, cancelled with its job."""

import json

import pytest

from haystack_kernel.config.settings import load_settings
from haystack_kernel.manage import examine, submit

pytestmark = pytest.mark.slow

QUESTION = "How would B cells respond to IFN-beta?"


@pytest.fixture
def settings(tiny_env, batch_settings):
    batch = batch_settings().batch.model_dump()
    return load_settings(batch=batch)


def test_a_run_is_submitted_once_and_cancelled_with_its_job(settings, cloud, served):
    cloud.plans = [served.Plan(is_idle=True)]
    made = submit(QUESTION, settings=settings, executor="batch", approve=True, max_cost=5)
    again = submit(made.run_id, settings=settings)  # which needs no consent: it finds the job
    assert again.record.orchestrator == made.record.orchestrator
    shown = made.status()
    assert shown["orchestrator"]["executor"] == "batch"
    assert shown["orchestrator"]["state"] in ("queued", "scheduled", "running")
    (path,) = [p for p in made._ports.store.files(made.run_id) if p.endswith("attempt-0001.json")]
    stored = made._ports.store.read(made.run_id, path).decode()
    assert "--yes" not in stored
    assert "--max-cost" not in stored
    assert json.loads(stored)["spec"]["command"][-2:] == ["--", QUESTION]
    assert "HAYSTACK_CACHE" not in json.loads(stored)["spec"]["environment"]
    (held,) = cloud.jobs.values()
    words = list(held.job.task_groups[0].task_spec.runnables[0].container.commands)
    assert words[:4] == ["run", "--yes", "--max-cost", "5"]
    made.cancel()
    assert made.status()["status"] == "cancelled"
    assert made.orchestrator_status().state == "cancelled"


def test_doctor_asks_the_batch_service(settings):
    found = {line.check: line for line in examine("batch", settings=settings)}
    assert found["batch service"].ok, found["batch service"]
    assert found["bucket"].ok
    assert found["batch settings"].ok
