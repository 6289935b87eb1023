"""A process that waits for a local job: it does that job as any other process would, and never outlives its starter."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from haystack_kernel.jobs import LocalExecutor, SystemClock, standby, start_standby, wait
from tests.jobs.test_local import spec  # noqa: F401 - a fixture

LIMIT_S = 300


def wait_until(happened):
    deadline = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def executor(tmp_path):
    return LocalExecutor(str(tmp_path / "scratch"), clock=SystemClock())


@pytest.fixture
def waiting():
    """A process that waits with nothing loaded; it is ended where the test leaves it."""
    start_standby(("json",))
    child = standby._waiting[-1]
    yield child
    standby._waiting.clear()
    if child.stdin is not None:
        child.stdin.close()
    child.kill()
    child.wait(LIMIT_S)


@pytest.mark.slow
def test_a_job_is_done_by_the_process_that_waited_and_found_again_by_others(executor, waiting, spec, tmp_path):  # noqa: F811
    handle = executor.submit(spec)
    attempt = tmp_path / "scratch" / spec.job_id / "attempt-1"
    assert json.loads((attempt / "pid.json").read_text())["pid"] == waiting.pid
    other = LocalExecutor(str(tmp_path / "scratch"), clock=SystemClock())
    assert other.submit(spec).job_id == handle.job_id
    assert wait(handle, executor=other, clock=SystemClock(), timeout_s=LIMIT_S, poll_s=0.05).exit_code == 0
    assert json.loads((attempt / "result.txt").read_text())["n_tasks"] == len(json.loads(manifest(tmp_path))["tasks"])
    assert "task 1 of" in (attempt / "log.txt").read_text()
    wait_until(lambda: executor.status(handle).state == "succeeded" and waiting.poll() is not None)
    assert list(attempt.parent.iterdir()) == [attempt]


def manifest(folder):
    return (folder / "manifest.json").read_text()


@pytest.mark.slow
def test_a_job_that_the_program_refuses_leaves_its_exit_code_and_its_reason(executor, waiting, spec, tmp_path):  # noqa: F811
    (tmp_path / "manifest.json").write_text("{}")
    handle = executor.submit(spec)
    wait_until(lambda: executor.status(handle).is_terminal)
    status = executor.status(handle)
    assert (status.state, status.exit_code) == ("failed", 2)
    assert status.detail.startswith("error: ")


def test_a_cancelled_job_ends_the_process_that_waited(executor, waiting, spec):  # noqa: F811
    os.kill(waiting.pid, signal.SIGSTOP)  # it reads its order only once it is told to end
    handle = executor.submit(spec)
    os.kill(waiting.pid, signal.SIGCONT)
    assert executor.cancel(handle).state == "cancelled"
    wait_until(lambda: waiting.poll() is not None)


def test_a_job_that_was_cancelled_before_its_order_came_is_not_begun(executor, waiting, spec, tmp_path):  # noqa: F811
    child = standby.take_standby()
    (tmp_path / "cancelled").touch()
    assert standby.give_job(child, attempt=tmp_path, words=spec.command)
    wait_until((tmp_path / "exit").exists)
    assert (tmp_path / "exit").read_text() == "143\n"
    assert not (tmp_path / "log.txt").exists()


@pytest.mark.slow
def test_a_process_that_died_while_it_waited_costs_no_job(executor, waiting, spec, tmp_path):  # noqa: F811
    waiting.kill()
    waiting.wait(LIMIT_S)
    status = wait(executor.submit(spec), executor=executor, clock=SystemClock(), timeout_s=LIMIT_S, poll_s=0.05)
    assert status.state == "succeeded"
    pid = json.loads((tmp_path / "scratch" / spec.job_id / "attempt-1" / "pid.json").read_text())["pid"]
    assert pid != waiting.pid


@pytest.mark.slow
def test_it_does_not_outlive_whoever_started_it():
    code = (
        "from haystack_kernel.jobs import standby; import time; standby.start_standby(('json',)); "
        "print(standby._waiting[0].pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(starter.stdout.readline()))
    starter.kill()
    starter.wait(LIMIT_S)
    starter.stdout.close()
    child.wait(LIMIT_S)


def test_a_job_with_settings_starts_a_process_of_its_own(executor, waiting, spec, tmp_path):  # noqa: F811
    handle = executor.submit(spec.model_copy(update={"environment": {"HAYSTACK_SEED": "1"}}))
    pid = json.loads((tmp_path / "scratch" / spec.job_id / "attempt-1" / "pid.json").read_text())["pid"]
    assert pid != waiting.pid
    assert standby._waiting == [waiting]
    executor.cancel(handle)
