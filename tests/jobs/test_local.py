"""Local jobs: one process per spec, found again, cancelled, diagnosed."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress

import anndata as ad
import numpy as np
import psutil
import pytest
from scipy.sparse import csr_matrix

from haystack_kernel.errors import JobFailedError
from haystack_kernel.jobs import (
    LocalExecutor,
    SystemClock,
    build_job_spec,
    build_manifest,
    build_orchestrator_spec,
    expected_handle,
    pace,
    wait,
)
from haystack_kernel.schema import BatchSettings, JobHandle, JobSettings, JobSpec, JobStatus, RunConfig, Settings
from inference.manifest import dump_manifest

RUN_ID = "run-20260102t030405-abcdef"


def write_cells(path, *, rate, seed):
    rng = np.random.default_rng(seed)
    counts = csr_matrix(rng.poisson(rate, size=(20, 50)).astype(np.float32))
    adata = ad.AnnData(counts)
    adata.obs_names = [f"{path.stem}-{i}" for i in range(20)]
    adata.var_names = [f"GENE{i}" for i in range(50)]
    adata.obs["cell_type_name"] = "B cell"
    adata.obs["donor_id"] = "d1"
    adata.write_h5ad(path)


@pytest.fixture
def spec(tmp_path):
    for seed, (role, rate) in enumerate({"prompt": 3.0, "control": 1.0, "query": 1.0}.items()):
        write_cells(tmp_path / f"{role}.h5ad", rate=rate, seed=seed)
    manifest = build_manifest(str(tmp_path), config=RunConfig(), strategy="synthetic_control", has_control=True)
    (tmp_path / "manifest.json").write_text(dump_manifest(manifest))
    return build_job_spec(
        manifest, run_id=RUN_ID, round_number=1, manifest_uri=str(tmp_path / "manifest.json"), timeout_s=60
    )


@pytest.fixture
def executor(tmp_path):
    return LocalExecutor(str(tmp_path / "scratch"), clock=SystemClock())


def test_build_manifest_holds_treated_control_and_every_other_baseline():
    manifest = build_manifest("f", config=RunConfig(engine="shift"), strategy="synthetic_control", has_control=True)
    assert {task.id: task.engine for task in manifest.tasks} == {
        "treated": "shift",
        "control": "shift",
        "baseline-none": "none",
        "baseline-mean": "mean",
        "baseline-weighted": "weighted",
    }
    assert next(task for task in manifest.tasks if task.id == "control").prompt == "f/control.h5ad"


def test_build_manifest_with_resamples_repeats_the_predictions_of_a_model_and_nothing_else():
    config = RunConfig(engine="stack", model="demo", seed=5)
    manifest = build_manifest("f", config=config, strategy="synthetic_control", has_control=True, n_resamples=2)
    found = {task.id: task for task in manifest.tasks}
    repeats = ["treated-resample-1", "control-resample-1", "treated-resample-2", "control-resample-2"]
    assert [name for name, task in found.items() if task.resample] == repeats
    assert len({found[name].seed for name in ("treated", "treated-resample-1", "treated-resample-2")}) == 3
    assert [found[name].seed for name in repeats[::2]] == [found[name].seed for name in repeats[1::2]]
    assert {found[name].engine for name in repeats} == {"stack"}
    unmatched = build_manifest("f", config=config, strategy="query_as_control", has_control=False, n_resamples=1)
    assert [task.id for task in unmatched.tasks if task.resample] == ["treated-resample-1"]
    baseline = build_manifest(
        "f", config=RunConfig(engine="shift"), strategy="synthetic_control", has_control=True, n_resamples=2
    )
    assert not [task.id for task in baseline.tasks if task.resample]


def test_build_manifest_without_control_cells_has_no_control_task():
    manifest = build_manifest("f", config=RunConfig(), strategy="query_as_control", has_control=False)
    assert "control" not in [task.id for task in manifest.tasks]
    assert {task.control for task in manifest.tasks} == {None}


def test_build_job_spec_is_a_function_of_run_round_and_manifest():
    manifest = build_manifest("f", config=RunConfig(), strategy="synthetic_control", has_control=True)
    one = build_job_spec(manifest, run_id=RUN_ID, round_number=1, manifest_uri="f/m.json", timeout_s=1)
    again = build_job_spec(manifest, run_id=RUN_ID, round_number=1, manifest_uri="f/m.json", timeout_s=1)
    other = build_job_spec(manifest, run_id=RUN_ID, round_number=2, manifest_uri="f/m.json", timeout_s=1)
    assert one == again
    assert one.job_id != other.job_id
    assert len(one.job_id) <= 63


@pytest.mark.slow
def test_submit_when_repeated_attaches_to_the_one_job_and_outputs_appear(executor, spec, tmp_path):
    handles = [executor.submit(spec), executor.submit(spec)]
    status = wait(handles[0], executor=executor, clock=SystemClock(), timeout_s=600, poll_s=0.05)
    assert status.state == "succeeded"
    assert executor.submit(spec).job_id == handles[0].job_id == handles[1].job_id == spec.job_id
    assert len(list((tmp_path / "scratch" / spec.job_id).iterdir())) == 1
    predicted = ad.read_h5ad(tmp_path / "outputs" / "treated.h5ad")
    query = ad.read_h5ad(tmp_path / "query.h5ad")
    assert predicted.X.sum() > 1.3 * query.X.sum()


@pytest.mark.slow
def test_submit_after_a_failed_attempt_starts_another(executor, spec, tmp_path):
    (tmp_path / "query.h5ad").rename(tmp_path / "away.h5ad")
    with pytest.raises(JobFailedError, match=r"query\.h5ad") as caught:
        wait(executor.submit(spec), executor=executor, clock=SystemClock(), timeout_s=600, poll_s=0.05)
    assert caught.value.facts["exit_code"] in (1, 2)
    (tmp_path / "away.h5ad").rename(tmp_path / "query.h5ad")
    status = wait(executor.submit(spec), executor=executor, clock=SystemClock(), timeout_s=600, poll_s=0.05)
    assert status.state == "succeeded"
    assert len(list((tmp_path / "scratch" / spec.job_id).iterdir())) == 2


@pytest.fixture
def process_of(tmp_path):
    """The process of a job's first attempt."""

    def find(handle):
        folder = tmp_path / "scratch" / handle.job_id / "attempt-1"
        return psutil.Process(json.loads((folder / "pid.json").read_text())["pid"])

    return find


def test_status_when_the_process_was_killed_says_it_vanished(executor, spec, process_of):
    handle = executor.submit(spec)
    os.killpg(process_of(handle).pid, signal.SIGKILL)
    while not (status := executor.status(handle)).is_terminal:
        time.sleep(0.02)
    assert status.state == "failed"
    assert "vanished" in status.detail


def test_cancel_ends_the_process_group_and_says_cancelled(executor, spec, process_of):
    handle = executor.submit(spec)
    process = process_of(handle)
    status = executor.cancel(handle)
    assert status.state == "cancelled"
    assert not psutil.pid_exists(process.pid) or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def stuck(tmp_path):
    """A job whose program waits for ever: its manifest is a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe.json")
    return JobSpec(
        owner={"id": RUN_ID, "round": 1},
        job_id=f"haystack-{RUN_ID}-0000000f",
        command=("--manifest", str(tmp_path / "pipe.json")),
        spec_hash="0",
        n_tasks=1,
        timeout_s=60,
    )


def marked(folder):
    """Ids of the live processes that carry the mark of an attempt."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("ATTEMPT_OF_HAYSTACK") == str(folder):
                found.add(process.pid)
    return found


def test_with_its_leading_process_killed_a_job_is_alive_attached_to_and_cancelled(tmp_path, stuck, process_of):
    executor, folder = (
        LocalExecutor(str(tmp_path / "scratch"), clock=SystemClock()),
        tmp_path / "scratch" / stuck.job_id,
    )
    handle = executor.submit(stuck)
    leader = process_of(handle)
    while len(marked(folder / "attempt-1")) < 2:  # the shell and the program
        time.sleep(0.02)
    os.kill(leader.pid, signal.SIGKILL)
    executor._children[leader.pid].wait()
    later = LocalExecutor(str(tmp_path / "scratch"), clock=SystemClock())  # as another process has it
    assert later.status(handle).state == "running"
    assert "leading process is gone" in later.status(handle).detail
    later.submit(stuck)
    assert [path.name for path in folder.iterdir()] == ["attempt-1"]
    assert later.cancel(handle).state == "cancelled"
    assert marked(folder / "attempt-1") == set()


def test_a_cancellation_between_the_attempts_folder_and_its_process_holds(tmp_path, stuck):
    executor, other = (LocalExecutor(str(tmp_path / "scratch"), clock=SystemClock()) for _ in range(2))

    class Cancelling(dict):
        """Read by the starter once it has made the folder, before it starts the process."""

        def items(self):
            handle = expected_handle(stuck, executor="local", now=SystemClock().now())
            assert other.cancel(handle).state == "cancelled"
            return super().items()

    handle = executor.submit(stuck.model_copy(update={"environment": Cancelling()}))
    while not (status := executor.status(handle)).exit_code:
        time.sleep(0.02)
    folder = tmp_path / "scratch" / stuck.job_id / "attempt-1"
    assert (status.state, status.exit_code) == ("cancelled", 143)
    assert not (folder / "log.txt").exists()  # the program never began
    assert marked(folder) == set()


def test_what_an_ended_attempt_left_behind_ends_before_the_next_begins(tmp_path, stuck):
    executor = LocalExecutor(str(tmp_path / "scratch"), clock=SystemClock())
    folder = tmp_path / "scratch" / stuck.job_id / "attempt-1"
    folder.mkdir(parents=True)
    (folder / "exit").write_text("1")
    mark = f"ATTEMPT_OF_HAYSTACK={folder}"
    with subprocess.Popen(["/usr/bin/env", mark, "sleep", "60"], start_new_session=True) as left:  # as a kernel does
        while not marked(folder):
            time.sleep(0.02)
        handle = executor.submit(stuck)
        assert left.wait(10) == -signal.SIGTERM
    assert executor.status(handle).state in ("queued", "running")
    assert executor.cancel(handle).state == "cancelled"
    assert {path.name for path in folder.parent.iterdir()} == {"attempt-1", "attempt-2"}


def test_status_of_a_job_of_another_machine_is_a_failure_with_the_reason(executor, spec, clock):
    handle = JobHandle(
        job_id="haystack-elsewhere", executor="local", manifest_uri="m", spec_hash="0", submitted_at=clock.now()
    )
    assert "no trace of the job" in executor.status(handle).detail


def test_an_orchestrator_of_another_machine_is_unknown_and_not_failed(executor, clock):
    spec = build_orchestrator_spec(RUN_ID, words=("run", "?"), environment={}, timeout_s=1)
    here = expected_handle(spec, executor="local", now=clock.now())
    there = here.model_copy(update={"location": "another-machine"})
    assert executor.status(here).state == "failed"
    assert executor.status(there).state == "unknown"
    assert "another-machine" in executor.status(there).detail


@pytest.mark.slow
def test_an_orchestrator_is_the_haystack_command_with_the_settings_given(executor, tmp_path):
    (tmp_path / "empty store" / "runs").mkdir(parents=True)
    environment = {"HAYSTACK_STORAGE": str(tmp_path / "empty store")}
    spec = build_orchestrator_spec(RUN_ID, words=("list",), environment=environment, timeout_s=60)
    handle = executor.submit(spec)
    assert wait(handle, executor=executor, clock=SystemClock(), timeout_s=600, poll_s=0.05).state == "succeeded"
    assert (tmp_path / "scratch" / spec.job_id / "attempt-1" / "result.txt").read_text() == "[]\n"


def test_the_id_of_an_orchestrator_follows_from_the_run_alone():
    one = build_orchestrator_spec(RUN_ID, words=("run", "a"), environment={}, timeout_s=1)
    other = build_orchestrator_spec(RUN_ID, words=("run", "a", "--yes"), environment={"X": "1"}, timeout_s=2)
    assert (one.job_id, one.spec_hash) == (other.job_id, other.spec_hash)


class ScriptedExecutor:
    """Implements the Executor port by playing states."""

    name = "local"

    def __init__(self, *states):
        self.states = list(states)
        self.cancelled = False

    def submit(self, spec):
        raise NotImplementedError

    def status(self, job):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return JobStatus(state=state, detail="because", exit_code=7)

    tend = status

    def cancel(self, job):
        self.cancelled = True
        return JobStatus(state="cancelled")


@pytest.fixture
def handle(clock):
    return JobHandle(job_id="j", executor="local", manifest_uri="m", spec_hash="0", submitted_at=clock.now())


def test_wait_polls_until_the_job_succeeds(clock, handle):
    executor = ScriptedExecutor("queued", "running", "unknown", "succeeded")
    assert wait(handle, executor=executor, clock=clock, timeout_s=60, poll_s=1).state == "succeeded"
    assert 3 <= clock.seconds < 5


@pytest.mark.parametrize(("ends", "at_most"), [(3.01, 3.3), (97.0, 102.0), (3000.0, 3001.0)])
def test_wait_notices_the_end_soon_and_looks_seldom(clock, handle, ends, at_most):
    looks = []

    class Working(ScriptedExecutor):
        def tend(self, job):
            looks.append(clock.seconds)
            return JobStatus(state="succeeded" if clock.seconds >= ends else "running")

    wait(handle, executor=Working(), clock=clock, timeout_s=9000, poll_s=0.1)
    assert ends <= clock.seconds < at_most
    assert len(looks) < 80 + ends


def test_wait_when_the_deadline_passes_cancels_and_raises(clock, handle):
    executor = ScriptedExecutor("running")
    with pytest.raises(JobFailedError, match="still running after 60 s"):
        wait(handle, executor=executor, clock=clock, timeout_s=60, poll_s=1)
    assert executor.cancelled


def test_wait_counts_the_queue_apart_from_the_run(clock, handle):
    executor = ScriptedExecutor(*["queued"] * 60, *["running"] * 5, "succeeded")
    status = wait(handle, executor=executor, clock=clock, timeout_s=600, poll_s=10, queue_timeout_s=10_000)
    assert status.state == "succeeded"
    assert clock.seconds > 700
    with pytest.raises(JobFailedError, match=r"still queued after 50 s \(because\) and was cancelled"):
        wait(handle, executor=ScriptedExecutor("queued"), clock=clock, timeout_s=100, poll_s=10, queue_timeout_s=50)


def test_wait_gives_each_attempt_and_each_finished_shard_its_own_time(clock, handle):
    class Growing(ScriptedExecutor):
        def tend(self, job):
            n = int(clock.seconds // 80)
            return JobStatus(state="running" if n < 6 else "succeeded", n_done=n % 3, attempt=1 + n // 3)

    assert wait(handle, executor=Growing(), clock=clock, timeout_s=100, poll_s=5).state == "succeeded"
    assert clock.seconds > 400


def test_wait_when_the_job_ends_well_while_it_is_being_cancelled_returns_that(clock, handle):
    class Late(ScriptedExecutor):
        def cancel(self, job):
            return JobStatus(state="succeeded")

    assert wait(handle, executor=Late("running"), clock=clock, timeout_s=60, poll_s=1).state == "succeeded"


def test_pace_of_a_cloud_job_leaves_its_time_limit_to_the_service(spec):
    settings = Settings(batch=BatchSettings(poll_interval_s=7, queue_timeout_s=99), jobs=JobSettings(poll_s=0.5))
    local, batch = (pace(name, spec=spec, settings=settings) for name in ("local", "batch"))
    assert local == {"poll_s": 0.5, "timeout_s": 60, "queue_timeout_s": 60}
    assert (batch["poll_s"], batch["queue_timeout_s"]) == (7, 99)
    assert batch["timeout_s"] > spec.timeout_s


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_wait_when_the_job_ends_badly_raises_with_its_facts(clock, handle, state):
    with pytest.raises(JobFailedError, match=f"job j {state}: because") as caught:
        wait(handle, executor=ScriptedExecutor(state), clock=clock, timeout_s=60, poll_s=1)
    assert caught.value.facts["exit_code"] == 7
