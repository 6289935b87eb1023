"""A run whose processes are killed goes on where it stopped, and no job is paid twice."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from haystack_kernel.errors import ConflictError, HaystackError
from haystack_kernel.run import attach, resume
from tests.workers import Program, Worker

QUESTION = "How would B cells respond to IFN-beta?"
STORY = [
    "understand",
    "retrieve",
    "choose",
    "assemble",
    "submit",
    "collect",
    "ground",
    "decide",
    "interpret",
    "publish",
]
PATIENCE_S = 600  # ends a hang; a busy machine may need minutes

pytestmark = pytest.mark.slow


def newest(store):
    """Newest record of the only run, {} before there is one."""
    records = sorted(store.glob("runs/*/record/*.json"))
    return json.loads(records[-1].read_text()) if records else {}


def doing(store):
    """Name of the step under way: the one after the newest finished one."""
    record = newest(store)
    if not record or record["status"] != "running":
        return None
    return STORY[len(record["steps"])] if len(record["steps"]) < len(STORY) else None


def wait_for(process, store, step):
    deadline = time.monotonic() + PATIENCE_S
    while doing(store) != step or not list(store.glob("runs/*/lease/*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, newest(store).get("steps")
        time.sleep(0.01)


def family(process):
    """The command and its kernel; not the job, which has a session of its own and is meant to live on.

    A process shows its parent's command line until it has begun its own program, so the kernel is waited for.
    """
    me = psutil.Process(process.pid)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        kernels = []
        for child in me.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                kernels += [child] if "ipykernel" in " ".join(child.cmdline()) else []
        if kernels:
            return [me, *kernels]
        time.sleep(0.05)
    pytest.fail("the command has no kernel")


def kill(processes):
    for process in processes:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=PATIENCE_S)


def attempts():
    """Folders of the attempts of all jobs: one each where nothing was started twice."""
    return list(Path(os.environ["HAYSTACK_CACHE"]).glob("jobs/*/attempt-*"))


def check_finished(done, store):
    out, err = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 0, err
    assert json.loads(out)["status"] == "done"
    record = newest(store)
    assert [item["step"].split()[0] for item in record["steps"]] == STORY
    (attempt,) = attempts()
    assert (attempt / "exit").read_text().strip() == "0"


def test_resume_after_a_kill_finishes_the_run_and_repeats_no_finished_step(few_cells):
    """Command and kernel are killed while the job runs on; the kills at every other step follow below."""
    process = Program("run", QUESTION)
    wait_for(process, few_cells, "collect")
    killed = family(process)
    kill(killed)
    process.communicate()
    before = newest(few_cells)
    assert (before["status"], doing(few_cells)) == ("running", "collect")
    check_finished(Program("resume", before["run_id"]), few_cells)
    assert newest(few_cells)["steps"][: len(before["steps"])] == before["steps"]


def test_when_only_the_kernel_dies_the_command_says_so_and_resume_goes_on(few_cells):
    process = Program("run", QUESTION)
    wait_for(process, few_cells, "collect")
    kill(family(process)[1:])
    out, err = process.communicate(timeout=PATIENCE_S)
    status = json.loads(out)
    assert (process.returncode, status["status"]) == (1, "interrupted")
    assert "kernel died" in err
    assert f"haystack resume {status['run_id']}" in err
    assert "Traceback" not in err
    assert resume(status["run_id"]).work(until="ground").record.rounds[0].task_seconds
    assert len(attempts()) == 1


def test_when_the_job_is_killed_resume_makes_what_is_missing(few_cells):
    process = Program("run", QUESTION)
    wait_for(process, few_cells, "collect")
    (attempt,) = attempts()
    os.killpg(json.loads((attempt / "pid.json").read_text())["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE_S)
    status = json.loads(out)
    assert (process.returncode, status["failure"]["kind"]) == (1, "JobFailedError")
    assert "vanished" in err
    resumed = resume(status["run_id"]).work(until="ground")
    assert [time.step.split()[0] for time in resumed.record.steps] == [*STORY[:5], "submit", "collect"]
    assert len(attempts()) == 2


def test_cancel_from_another_process_ends_the_command_and_the_job(few_cells):
    process = Program("run", QUESTION)
    wait_for(process, few_cells, "collect")
    (attempt,) = attempts()
    job = json.loads((attempt / "pid.json").read_text())["pid"]
    done = Program("cancel", newest(few_cells)["run_id"])
    assert json.loads(done.communicate(timeout=PATIENCE_S)[0])["status"] == "cancelled"
    out, err = process.communicate(timeout=PATIENCE_S)
    status = json.loads(out)
    assert (process.returncode, status["status"], status["failure"]) == (1, "cancelled", None)
    assert f"run {status['run_id']} was cancelled" in err
    assert not psutil.pid_exists(job)


# --- who works on a run ---------------------------------------------------------------------------------------------

RUN_ID = "run-20260102t030405-abcdef"


@pytest.fixture
def worker(few_cells, tmp_path):
    """Start a process that works on the run and waits for a word at the beginning of a step: ``worker(step)``."""
    started = []

    def start_worker(step):
        started.append(Worker(tmp_path / f"worker-{len(started)}.log", RUN_ID, QUESTION, step))
        return started[-1]

    yield start_worker
    for process in started:
        process.kill()


@pytest.fixture(params=["local", "batch"])
def executor(request, monkeypatch):
    """Both executors, chosen by the environment; jobs of the cloud go to a local Batch service."""
    if request.param == "local":
        yield request.param
        return
    from tests.conftest import load_server

    served = load_server("batch")
    with served.batch_server(served.REAL) as server:
        given = {"PROJECT": "lab", "REGION": "us-central1", "INFERENCE_IMAGE": "registry/haystack-inference:1"}
        given |= {"ENDPOINT": server.address, "INSECURE": "true", "POLL_INTERVAL_S": "1"}
        for name, value in given.items():
            monkeypatch.setenv(f"HAYSTACK_BATCH__{name}", value)
        monkeypatch.setenv("HAYSTACK_JOBS__EXECUTOR", "batch")
        yield request.param


def test_a_worker_that_is_gone_at_any_step_is_told_and_another_one_goes_on(worker, executor):
    """Killed and interrupted in turns, at the beginning of every step after the question was understood."""
    for number, step in enumerate(STORY[1:]):
        process = worker(step)
        assert process.said() == "at", process.end(PATIENCE_S)
        before = attach(RUN_ID).status()
        assert (before["status"], before["next_step"]) == ("running", step)
        assert (before["worker"]["pid"], before["worker"]["alive"]) == (process.pid, True)
        with pytest.raises(ConflictError, match=f"process {process.pid} on "):
            resume(RUN_ID)
        process.send_signal(signal.SIGINT if number % 2 else signal.SIGKILL)
        process.end(PATIENCE_S)
        after = attach(RUN_ID).status()
        assert (after["status"], after["next_step"], after["worker"]["alive"]) == ("interrupted", step, False)
        assert after["next_commands"][0] == f"haystack resume {RUN_ID}"
        with pytest.raises(HaystackError, match=f"nobody is working on run {RUN_ID}: process {process.pid} "):
            attach(RUN_ID).follow(str)
    run = resume(RUN_ID, approve=True).work()
    assert run.status()["status"] == "done"
    assert [time.step.split()[0] for time in run.record.steps] == STORY
    if executor == "local":
        assert len(attempts()) == 1
    else:
        assert len(run.record.rounds[0].bills) == 1


def test_a_stopped_worker_that_continues_after_another_took_over_changes_nothing(worker, monkeypatch):
    monkeypatch.setenv("HAYSTACK_LEASE__TTL_S", "1.5")
    process = worker("choose")
    assert process.said() == "at", process.end(PATIENCE_S)
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE_S
    while attach(RUN_ID).status()["worker"]["alive"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run = resume(RUN_ID).work(until="assemble")
    process.send_signal(signal.SIGCONT)
    process.told.send("go on")
    status, err = process.end(PATIENCE_S)
    assert status == 1
    assert f"ConflictError: run {RUN_ID} is being worked on by process {os.getpid()}" in err
    assert attach(RUN_ID).record == run.record
    assert [time.step for time in run.record.steps] == ["understand", "retrieve", "choose 1"]


def test_of_two_resumes_at_once_exactly_one_works(worker):
    first = worker("retrieve")
    assert first.said() == "at", first.end(PATIENCE_S)
    first.kill()
    both = [worker("choose") for _ in range(2)]
    said = [process.said() for process in both]
    assert sorted(said) == ["", "at"]
    loser = both[said.index("")]
    assert "ConflictError" in loser.end(PATIENCE_S)[1]
    assert attach(RUN_ID).status()["worker"]["pid"] == both[said.index("at")].pid
