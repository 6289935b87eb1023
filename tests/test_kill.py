"""A run whose processes are killed goes on where it stopped, and no job is paid twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from haystack_kernel.run import resume

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


def start(*arguments):
    command = [sys.executable, "-m", "haystack_kernel", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


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
    while doing(store) != step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, newest(store).get("steps")
        time.sleep(0.01)


def family(process):
    """The command and its kernel; not the job, which has a session of its own and is meant to live on."""
    me = psutil.Process(process.pid)
    return [me, *[child for child in me.children(recursive=True) if "ipykernel" in " ".join(child.cmdline())]]


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


@pytest.mark.parametrize("step", ["retrieve", "collect", "ground"])
def test_resume_after_a_kill_finishes_the_run_and_repeats_no_finished_step(few_cells, step):
    process = start("run", QUESTION)
    wait_for(process, few_cells, step)
    killed = family(process)
    assert len(killed) == 2
    kill(killed)
    process.communicate()
    before = newest(few_cells)
    assert (before["status"], doing(few_cells)) == ("running", step)
    check_finished(start("resume", before["run_id"]), few_cells)
    assert newest(few_cells)["steps"][: len(before["steps"])] == before["steps"]


def test_when_only_the_kernel_dies_the_command_says_so_and_resume_goes_on(few_cells):
    process = start("run", QUESTION)
    wait_for(process, few_cells, "collect")
    kill(family(process)[1:])
    out, err = process.communicate(timeout=PATIENCE_S)
    status = json.loads(out)
    assert (process.returncode, status["status"]) == (1, "running")
    assert "kernel died" in err
    assert f"haystack resume {status['run_id']}" in err
    assert "Traceback" not in err
    assert resume(status["run_id"]).work(until="ground").record.rounds[0].task_seconds
    assert len(attempts()) == 1


def test_when_the_job_is_killed_resume_makes_what_is_missing(few_cells):
    process = start("run", QUESTION)
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
    process = start("run", QUESTION)
    wait_for(process, few_cells, "collect")
    (attempt,) = attempts()
    job = json.loads((attempt / "pid.json").read_text())["pid"]
    done = start("cancel", newest(few_cells)["run_id"])
    assert json.loads(done.communicate(timeout=PATIENCE_S)[0])["status"] == "cancelled"
    out, err = process.communicate(timeout=PATIENCE_S)
    status = json.loads(out)
    assert (process.returncode, status["status"], status["failure"]) == (1, "cancelled", None)
    assert f"run {status['run_id']} was cancelled" in err
    assert not psutil.pid_exists(job)
