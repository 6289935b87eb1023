"""A whole run whose predictions are jobs of a Batch service: consent, cost, receipts, crashes; the real program."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from haystack_kernel import flow
from haystack_kernel.cli import exit_code
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config, changed_options
from haystack_kernel.errors import ApprovalNeededError, InvalidInputError, JobFailedError
from haystack_kernel.jobs import BatchExecutor
from haystack_kernel.ports import Consent
from haystack_kernel.report.methods import methods_paragraph
from haystack_kernel.run import Run, open_run, resume
from haystack_kernel.schema import CostSettings, RunRecord
from haystack_kernel.store import new_run_id
from haystack_kernel.widgets.watching import Monitor
from tests.workers import Program

QUESTION = "How would B cells respond to IFN-beta?"


def load_server_module():
    path = Path(__file__).parent / "servers" / "batch.py"
    spec = importlib.util.spec_from_file_location("batch_server_of_runs", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


served = load_server_module()


@pytest.fixture
def cloud():
    with served.batch_server(served.REAL) as server:
        yield server


@pytest.fixture
def world(ports, cloud):
    """Ports whose jobs go to the local service: ``world(approve=True)``; each call is a new process."""

    def make(*, approve=True, max_usd=None, **batch):
        given = {
            "project": "lab",
            "region": "us-central1",
            "inference_image": "registry/haystack-inference:1",
            "endpoint": cloud.address,
            "insecure": True,
            "poll_interval_s": 1,
            **batch,
        }
        section = type(ports.settings.batch)(**given)
        settings = ports.settings.model_copy(update={"batch": section})
        consent = Consent(approve=approve, max_usd=max_usd)
        executor = BatchExecutor(settings, clock=ports.clock, consent=consent)
        return replace(ports, settings=settings, executors={"batch": executor}, consent=consent)

    return make


@pytest.fixture
def ask(world, clock):
    """A saved record that has no step yet, of one round."""

    def make():
        ports = world()
        config = build_config(ports.settings, executor="batch", max_rounds=1)
        record = RunRecord(run_id=new_run_id(clock.now()), question=QUESTION, config=config, created_at=clock.now())
        return ports.store.create(record)

    return make


@pytest.mark.slow
def test_a_run_on_batch_ends_scored_with_one_job_and_its_receipt(world, ask, cloud):
    ports = world()
    record = flow.work(ask(), ports, until="publish")
    (only,) = record.rounds
    assert record.interpretation is not None
    assert cloud.started == [only.spec.job_id]
    assert not only.spec.needs_gpu  # no task uses a model
    (bill,) = only.bills
    assert "e2-standard-4" in bill.machine
    assert record.cost_usd == bill.usd == pytest.approx((0.134 + 10 / 730) * 420 / 3600)
    assert only.estimate.low_usd < only.estimate.high_usd
    said = [event.message for event in ports.progress.events if event.phase == "submit"]
    assert any("the job costs about 0.0" in text for text in said)
    assert "1 cloud job" in methods_paragraph(record)
    assert Run(record, ports=ports).status()["cost_usd"] == round(bill.usd, 4)


def test_the_cost_of_a_round_is_told_before_there_is_one(world, ask, begin, cloud):
    record, ports = ask(), world(approve=False)
    told = Run(record, ports=ports).estimate()
    assert 0 < told.low_usd < told.likely_usd < told.high_usd
    assert Run(begin(), ports=ports).estimate() is None
    assert cloud.calls == []


@pytest.mark.slow
def test_without_approval_the_run_stops_before_anything_is_spent_and_goes_on_with_it(world, ask, cloud):
    record = ask()
    with pytest.raises(ApprovalNeededError, match=f"haystack resume {record.run_id} --yes"):
        flow.work(record, world(approve=False), until="collect")
    assert cloud.calls == []
    stopped = world().store.load(record.run_id)
    assert (stopped.status, stopped.failure.kind) == ("failed", "ApprovalNeededError")
    ports = world()
    assert flow.work(flow.revive(stopped, ports), ports, until="ground").rounds[0].bills
    assert len(cloud.started) == 1


@pytest.mark.slow
def test_a_job_that_was_started_before_the_crash_needs_no_second_approval(world, ask, cloud):
    record = flow.work(ask(), world(), until="submit")
    flow.submit(record, world())  # and dies before it saves
    ports = world(approve=False)
    assert flow.work(ports.store.load(record.run_id), ports, until="ground").rounds[0].task_seconds
    assert len(cloud.started) == 1


@pytest.mark.slow
def test_what_failed_attempts_cost_counts_against_the_cap(world, ask, cloud):
    cloud.plans = [served.Plan(end=9, variables={"BATCH_TASK_INDEX": "7", "BATCH_TASK_COUNT": "8"})]
    record = ask()
    with pytest.raises(JobFailedError, match="exit code 9"):
        flow.work(record, world(max_usd=0.095), until="ground")
    ports = world(max_usd=0.095)
    record = flow.revive(ports.store.load(record.run_id), ports)
    assert record.cost_usd == pytest.approx((0.134 + 10 / 730) * 420 / 3600)  # 0.017
    with pytest.raises(ApprovalNeededError, match=r"spent 0\.02 USD.*The cap is 0\.10 USD"):
        flow.work(record, ports, until="ground")
    assert len(cloud.started) == 1
    ports = world(max_usd=1)
    record = flow.work(flow.revive(ports.store.load(record.run_id), ports), ports, until="ground")
    assert [bill.attempt for bill in record.rounds[0].bills] == [1, 2]
    assert len(cloud.started) == 2


@pytest.mark.slow
def test_an_output_that_was_changed_in_the_bucket_is_made_again_by_a_new_job(world, ask, cloud):
    record = flow.work(ask(), world(), until="collect")
    ports = world()
    while ports.executors["batch"].tend(record.rounds[0].job).state != "succeeded":
        pass
    path = Path(ports.store.uri(record.run_id, "rounds/1/outputs/treated.h5ad"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Exception, match="changed or cut short"):
        flow.work(record, ports, until="ground")
    ports = world()
    record = flow.work(flow.revive(ports.store.load(record.run_id), ports), ports, until="ground")
    assert record.rounds[0].task_seconds
    assert len(cloud.started) == 2
    assert len(record.rounds[0].bills) == 2


def test_cancel_of_a_run_cancels_its_cloud_job(world, ask, cloud):
    cloud.plans = [served.Plan(is_idle=True)]
    ports = world()
    record = flow.work(ask(), ports, until="collect")
    while ports.executors["batch"].status(record.rounds[0].job).state != "running":
        pass
    run = Run(record, ports=ports).cancel()
    assert run.record.status == "cancelled"
    (held,) = cloud.jobs.values()
    assert held.job.status.state == served.State.CANCELLED


def test_the_cap_is_no_part_of_what_a_run_is(tiny_settings):
    config = build_config(tiny_settings, executor="local")
    allowed = tiny_settings.model_copy(update={"cost": CostSettings(max_usd=3)})
    assert build_config(allowed, executor="local") == config
    assert changed_options(config, allowed) == ""
    assert "executor is 'local', not 'batch'" in changed_options(
        config, allowed.model_copy(update={"storage": "gs://b/p"}), executor="batch"
    )


def test_batch_needs_addresses_that_the_cloud_can_read(tiny_settings):
    with pytest.raises(InvalidInputError, match=r"--storage .* must be gs://"):
        build_config(tiny_settings, executor="batch")
    there = tiny_settings.model_copy(update={"storage": "gs://b/p"})
    assert build_config(there, executor="batch", engine="weighted").executor == "batch"


def test_building_the_executors_opens_nothing_and_needs_no_project(tiny_settings):
    assert set(connect(tiny_settings).executors) == {"local", "batch"}


# --- other processes ------------------------------------------------------------------------------------------------

WORK = """
import sys
from haystack_kernel.run import open_run
open_run(sys.argv[1], run_id=sys.argv[2], executor="batch", approve=True).work(until="ground")
"""


@pytest.fixture
def environment(few_cells, cloud, monkeypatch):
    """Processes that start now work on the local service."""
    given = {
        "PROJECT": "lab",
        "REGION": "us-central1",
        "INFERENCE_IMAGE": "registry/haystack-inference:1",
        "ENDPOINT": cloud.address,
        "INSECURE": "true",
        "POLL_INTERVAL_S": "0.1",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"HAYSTACK_BATCH__{name}", value)


@pytest.mark.slow
def test_open_run_and_resume_take_consent_from_their_caller(environment, cloud):
    with pytest.raises(ApprovalNeededError) as caught:
        open_run(QUESTION, run_id="run-consent", executor="batch").work(until="collect")
    assert exit_code(caught.value) == 2
    run = resume("run-consent", approve=True, max_cost=1.0).work(until="ground")
    assert run.record.rounds[0].bills
    assert len(cloud.started) == 1


@pytest.mark.slow
def test_a_run_killed_before_it_heard_that_its_job_was_made_is_resumed_with_that_job(environment, cloud):
    pause = cloud.pauses["create_job", True] = served.Pause()
    command = [sys.executable, "-c", WORK, QUESTION, "run-killed"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert pause.reached.wait(600)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    pause.over.set()
    cloud.pauses.clear()
    (last,) = resume("run-killed", approve=True).work(until="ground").record.rounds
    assert len(cloud.started) == len(cloud.jobs) == 1
    assert [bill.attempt for bill in last.bills] == [1]


@pytest.mark.slow
def test_the_command_takes_executor_consent_and_cap_and_prints_the_cost(environment, cloud):
    words = ("run", QUESTION, "--executor", "batch", "--yes", "--max-cost", "1", "--run-id", "run-command")
    process = Program(*words)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert json.loads(out)["cost_usd"] == round(resume("run-command").record.cost_usd, 4) > 0
    assert len(cloud.started) == 1


@pytest.mark.slow
def test_a_monitor_tells_every_state_of_a_job_as_the_service_does(world, ask, cloud):
    """Queued, on its way, running, taken away, queued again at another machine; then it is cancelled and billed."""
    states = served.State
    shown_first = (states.QUEUED, states.QUEUED, states.SCHEDULED, states.RUNNING)
    cloud.plans = [served.Plan(states=shown_first, end=50001), served.Plan(is_idle=True)]
    ports = world()
    record = flow.work(ask(), ports, until="collect")
    monitor = Monitor(record.run_id, settings=ports.settings, max_cost=1.0, open_ports=lambda consent: ports)
    assert monitor.seen.job.state == "queued"
    assert "in the queue" in repr(monitor)
    assert "of 1.00 USD at most" in repr(monitor)
    while not monitor.seen.job.detail:  # the service moves a state further at each look
        monitor.refresh()
    assert monitor.seen.status == "running"
    assert [bill.state for bill in monitor.seen.attempts] == ["failed"]
    told = repr(monitor)
    assert "inference 1  cpu (e2-standard-4)  7 min 00 s  0.02 USD  failed" in told
    (now,) = [line for line in told.splitlines() if "now queued" in line]
    assert now.endswith("was taken away (host maintenance or a fault of the host).")
    assert "Last events" in told
    monitor.act("cancel")
    monitor.settle()
    assert monitor.said.startswith("Cancelled. Billed: 0.0")
    assert monitor.seen.status == "cancelled"
