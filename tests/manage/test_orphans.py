"""The sweep of cloud jobs that nobody counts on: listed by default, cancelled only with a confirmation."""

import json

import pytest
from typer.testing import CliRunner

from haystack_kernel.cli import app
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jobs import BatchExecutor, SystemClock, build_orchestrator_spec
from haystack_kernel.manage import find_orphans
from haystack_kernel.ports import Consent
from tests.servers import batch as served

RUN_ID = "run-20260102t030405-abcdef"


@pytest.fixture
def lost_job(tiny_env, tmp_path, monkeypatch):
    """The service, with a live job whose run folder is gone, and the job's id."""
    with served.batch_server() as server:
        given = {
            "PROJECT": "lab",
            "REGION": "us-central1",
            "ORCHESTRATOR_IMAGE": "registry/haystack-orchestrator:1",
            "ENDPOINT": server.address,
            "INSECURE": "true",
        }
        for name, value in given.items():
            monkeypatch.setenv(f"HAYSTACK_BATCH__{name}", value)
        spec = build_orchestrator_spec(RUN_ID, words=("run",), environment={}, timeout_s=60)
        BatchExecutor(load_settings(), clock=SystemClock(), consent=Consent(approve=True)).submit(spec)
        tiny_env.rename(tmp_path / "elsewhere")
        yield server, spec.job_id


def test_orphans_are_listed_and_cancelled_only_with_a_confirmation(lost_job):
    server, job_id = lost_job
    (found,) = find_orphans()
    assert (found.job_id, found.owner, found.is_of_this_storage) == (job_id, RUN_ID, True)
    refused = CliRunner().invoke(app, ["orphans", "--cancel"])
    assert isinstance(refused.exception, InvalidInputError)
    assert "cancel_job" not in server.calls
    shown = CliRunner().invoke(app, ["orphans", "--cancel", "--yes"])
    (row,) = json.loads(shown.stdout)
    assert (row["job_id"], row["cancelled"]) == (job_id, True)
    assert find_orphans() == ()


def test_a_sweep_without_a_project_says_what_to_set(tiny_settings):
    with pytest.raises(InvalidInputError, match=r"set batch\.project \(HAYSTACK_BATCH__PROJECT\), batch\.region"):
        find_orphans(settings=tiny_settings)
