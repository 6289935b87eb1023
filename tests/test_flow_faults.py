"""What stops a run, what is kept of it, and how it goes on: failures, damage, full disks, cancelling, two at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from haystack_kernel import flow
from haystack_kernel.config.connect import connect
from haystack_kernel.errors import (
    ConflictError,
    ContractError,
    InvalidInputError,
    JobFailedError,
    StorageError,
)
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.planners.offline import OfflinePlanner
from haystack_kernel.ports import Answer
from haystack_kernel.run import Run
from haystack_kernel.schema import JobHandle, JobStatus, Usage
from haystack_kernel.store import RunStore

FEW = {"n_prompt": 4, "n_query": 3}  # cells, where their number does not matter


def steps_of(record):
    return [time.step for time in record.steps]


# --- failing and going on -------------------------------------------------------------------------------------------


class FailsOnce:
    """Implements the Executor port: the first job ends badly, the next attempt is done by ``inner``."""

    name = "local"

    def __init__(self, inner):
        self.inner = inner
        self.failed = set()

    def submit(self, spec):
        if self.failed:
            return self.inner.submit(spec)
        self.failed.add(spec.job_id)
        return JobHandle(
            job_id=spec.job_id,
            executor="local",
            manifest_uri=spec.manifest_uri,
            spec_hash=spec.spec_hash,
            submitted_at=self.inner.clock.now(),
        )

    def status(self, job):
        if job.job_id not in self.inner.states:
            return JobStatus(state="failed", detail="out of memory", exit_code=137, log_tail="…")
        return self.inner.status(job)

    tend = status

    def cancel(self, job):
        return self.inner.cancel(job)


@pytest.mark.slow
def test_a_failed_job_is_recorded_and_resume_starts_another_attempt_of_the_same_job(ports, begin):
    executor = FailsOnce(ports.executors["local"])
    broken = replace(ports, executors={"local": executor})
    record = begin(**FEW)
    with pytest.raises(JobFailedError, match="out of memory"):
        flow.work(record, broken)
    failed = ports.store.load(record.run_id)
    assert (failed.status, failed.failure.step, failed.failure.kind) == ("failed", "collect", "JobFailedError")
    assert failed.failure.facts["exit_code"] == 137
    assert flow.next_step(failed) is None
    done = flow.work(flow.revive(failed, broken), broken, until="ground")
    assert done.failure is None
    assert done.rounds[0].spec == failed.rounds[0].spec
    assert steps_of(done) == ["understand", "retrieve", "choose 1", "assemble 1", "submit 1", "submit 1", "collect 1"]


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda path: path.unlink(), JobFailedError, "ended without"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), ContractError, "differs from the digest"),
        (lambda path: path.with_name(path.name + ".result.json").write_text("{"), ContractError, "is damaged"),
    ],
)
@pytest.mark.slow
def test_a_damaged_output_is_noticed_and_resume_makes_it_again(ports, begin, damage, error, says):
    record = flow.work(begin(**FEW), ports, until="collect")
    outputs = Path(ports.settings.storage) / "runs" / record.run_id / "rounds" / "1" / "outputs"
    damage(outputs / "treated.h5ad")
    with pytest.raises(error, match=says):
        flow.work(record, ports)
    failed = ports.store.load(record.run_id)
    before = (outputs / "control.h5ad").stat().st_mtime_ns
    done = flow.work(flow.revive(failed, ports), ports, until="ground")
    assert done.rounds[0].task_seconds
    assert done.rounds[0].job.job_id != failed.rounds[0].job.job_id  # the old job counts as done, it cannot run again
    assert (outputs / "control.h5ad").stat().st_mtime_ns == before  # what is whole is not made again


class Unplanned:
    """Implements the Planner port with a programming error in one of its methods."""

    name = "unplanned"

    def understand(self, question, *, vocabulary, view):
        return {}["no such key"]


def test_an_unexpected_error_is_recorded_too(ports, begin):
    record = begin()
    with pytest.raises(KeyError, match="no such key"):
        flow.work(record, replace(ports, planners={"offline": Unplanned()}))
    failed = ports.store.load(record.run_id)
    assert (failed.failure.kind, failed.failure.step) == ("KeyError", "understand")
    assert flow.work(flow.revive(failed, ports), ports, until="retrieve").query.cell_type_name == "B cell"


class Billing(OfflinePlanner):
    """Implements the Planner port by rules, and says that each question took a model 900 tokens and a cent."""

    name = "billing"

    def understand(self, question, *, vocabulary, view=None):
        return Answer(
            super().understand(question, vocabulary=vocabulary).value,
            Usage(input_tokens=800, output_tokens=100, usd=0.01),
        )


def test_the_planner_is_the_one_that_the_record_names_and_what_it_used_is_kept_with_the_step(ports, begin):
    billing = replace(ports, planners={**ports.planners, "billing": Billing(load_knowledge())})
    by_rules = flow.work(begin(), billing, until="retrieve")
    assert by_rules.steps[0].usage is None
    by_model = begin()
    named = by_model.config.model_copy(update={"planner": "billing"})
    by_model = flow.work(by_model.model_copy(update={"config": named}), billing, until="retrieve")
    assert by_model.steps[0].usage == Usage(input_tokens=800, output_tokens=100, usd=0.01)
    with pytest.raises(
        InvalidInputError, match="planner 'billing' is not available here; possible: offline, claude, replay"
    ):
        ports.planner_named("billing")


class FullDisk(RunStore):
    """Implements the Store port on a disk that is full when records are saved."""

    def save(self, record):
        raise StorageError("no space left", path="run.json")


def test_when_the_failure_cannot_be_saved_either_the_first_error_is_shown(ports, begin):
    record = begin()
    with pytest.raises(KeyError, match="no such key") as caught:
        flow.advance(record, replace(ports, planners={"offline": Unplanned()}, store=FullDisk(ports.settings.storage)))
    assert any("no space left" in note for note in caught.value.__notes__)
    assert ports.store.load(record.run_id) == record


def test_when_a_finished_step_cannot_be_saved_the_last_record_stays_whole(ports, begin):
    record = flow.work(begin(), ports, until="retrieve")
    run = Run(record, ports=replace(ports, store=FullDisk(ports.settings.storage)))
    with pytest.raises(StorageError, match="no space left"):
        run.work()
    assert ports.store.load(record.run_id) == record
    assert steps_of(flow.work(record, ports, until="choose")) == ["understand", "retrieve"]


class Gone(FullDisk):
    """A storage that has gone altogether."""

    def load(self, run_id):
        raise StorageError("the bucket is gone", path="run.json")


def test_work_when_the_storage_is_gone_shows_the_first_error(ports, begin):
    run = Run(begin(), ports=replace(ports, store=Gone(ports.settings.storage)))
    with pytest.raises(StorageError, match="no space left"):
        run.work()


# --- two on one run -------------------------------------------------------------------------------------------------


def test_of_two_processes_on_one_run_one_is_told_and_nothing_is_lost(ports, begin):
    record = begin()
    first, second = (
        Run(record, ports=ports),
        Run(record, ports=replace(connect(ports.settings), executors=ports.executors)),
    )
    first.understand()
    with pytest.raises(ConflictError, match=f"haystack attach {record.run_id}"):
        second.understand()
    assert second.record == first.record == ports.store.load(record.run_id)
    assert second.record.status == "running"
    assert steps_of(second.retrieve().record) == ["understand", "retrieve"]


class Endless:
    """Implements the Executor port: a job runs until it is cancelled."""

    name = "local"

    def __init__(self):
        self.state = "running"

    def submit(self, spec):
        now = connect().clock.now()
        handle = {"manifest_uri": spec.manifest_uri, "spec_hash": spec.spec_hash, "submitted_at": now}
        return JobHandle(job_id=spec.job_id, executor="local", **handle)

    def status(self, job):
        return JobStatus(state=self.state)

    tend = status

    def cancel(self, job):
        self.state = "cancelled"
        return self.status(job)


def cancelling(ports, *, phase, message):
    """Ports whose listener cancels the run, as another process would, when it hears of ``phase``."""

    def listen(event):
        if (event.phase, event.message) == (phase, message):
            Run(ports.store.load(event.run_id), ports=ports).cancel()

    return replace(ports, progress=listen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "message", "done"),
    [("collect", "job running", 5), ("submit", "starting the prediction", 4), ("choose", "done", 3)],
)
def test_cancel_from_elsewhere_stops_the_run_and_its_job_quietly(ports, begin, phase, message, done):
    endless = Endless()
    ports = replace(ports, executors={"local": endless})
    run = Run(begin(), ports=cancelling(ports, phase=phase, message=message)).work()
    assert run.record == ports.store.load(run.run_id)
    assert (run.record.status, run.record.failure) == ("cancelled", None)
    assert len(run.record.steps) == done
    assert endless.state == ("running" if phase == "choose" else "cancelled")


def test_cancel_of_a_finished_or_cancelled_run_changes_nothing(ports, begin):
    run = Run(begin(), ports=ports)
    assert run.cancel().record.status == "cancelled"
    serial = run.record.serial
    assert run.cancel().record.serial == serial
    assert flow.next_step(flow.revive(run.record, ports)) == "understand"


@pytest.mark.slow
def test_work_until_a_step_that_is_past_already_does_nothing(ports, begin):
    record = flow.work(begin(**FEW), ports, until="collect")
    for earlier in ("retrieve", "choose", "collect"):
        assert flow.work(record, ports, until=earlier) is record
