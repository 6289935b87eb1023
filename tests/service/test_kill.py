"""`haystack serve` itself: killed in mid-run it loses nothing; a killed worker is told of and its run resumed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest

from haystack_kernel.config.settings import load_settings
from haystack_kernel.store import RunStore

TOKEN = "t" * 40
QUESTION = "How would B cells respond to IFN-beta?"
PATIENCE_S = 240  # ends hangs

pytestmark = pytest.mark.slow


@contextmanager
def serve(tmp_path):
    """`haystack serve` on a free port: a client that holds its token, and the process."""
    with (tmp_path / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "haystack_kernel", "serve", "--port", "0"],
            env={**os.environ, "HAYSTACK_SERVICE__TOKEN": TOKEN, "HAYSTACK_SERVICE__WATCH_S": "0.5"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            address = process.stdout.readline().strip()
            assert "/sign-in?token=" in address
            headers = {"authorization": f"Bearer {TOKEN}"}
            with httpx.Client(base_url=address.partition("/sign-in")[0], headers=headers, timeout=60) as client:
                yield client, process
        finally:
            process.kill()
            process.wait(30)
            process.stdout.close()


def state_when(client, run_id, holds):
    """The state of a run as soon as ``holds(state)``."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        state = client.get(f"/api/v1/runs/{run_id}").json()
        if holds(state):
            return state
        time.sleep(0.2)
    raise AssertionError(state)


def signal_workers(run_id, number):
    """Send a signal to every process that works on the run; how many there were."""
    n_found = 0
    for process in psutil.process_iter(["cmdline"]):
        if run_id in " ".join(process.info["cmdline"] or ()) and process.pid != os.getpid():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                n_found += 1
    return n_found


def stopped_in_mid_run(client):
    """A new run whose worker has begun and is stopped: its id. A run that was faster than this test is let go."""
    for _ in range(5):
        made = client.post("/api/v1/runs", json={"question": QUESTION, "options": {"threshold": 1}})
        assert made.status_code == 201, made.text
        run_id = made.json()["run_id"]
        state_when(client, run_id, lambda state: state["worker"] is not None or state["status"] != "running")
        n_stopped = signal_workers(run_id, signal.SIGSTOP)
        if n_stopped and client.get(f"/api/v1/runs/{run_id}").json()["status"] == "running":
            return run_id
    raise AssertionError("every run ended before it could be stopped")


def test_a_killed_service_loses_nothing_and_a_killed_worker_is_told_of_and_resumed(few_cells, tmp_path, monkeypatch):
    monkeypatch.setenv("HAYSTACK_LEASE__TTL_S", "6")  # a killed worker counts as gone so much later
    with serve(tmp_path) as (client, service):
        run_id = stopped_in_mid_run(client)
        service.send_signal(signal.SIGKILL)
        service.wait(30)
    with serve(tmp_path) as (client, service):
        state = state_when(client, run_id, lambda state: True)
        assert (state["status"], state["owner"]) == ("running", "local")
        assert signal_workers(run_id, signal.SIGKILL)  # they outlived the service
        state = state_when(client, run_id, lambda state: state["status"] != "running")
        assert state["status"] == "failed"
        message = state["failure"]["message"]  # whichever of them was gone first is told of
        assert "orchestrator" in message or "process vanished" in message
        assert f"haystack resume {run_id}" in state["next_commands"]
        page = client.get(f"/runs/{run_id}").text
        assert "Failed while" in page
        assert ">Resume</button>" in page
        resumed = client.post(f"/api/v1/runs/{run_id}/resume", json={})
        assert (resumed.status_code, resumed.json()["status"]) == (200, "running")
        service.send_signal(signal.SIGKILL)  # and the run goes on to its end without any service
        service.wait(30)
    store, deadline = RunStore(load_settings().storage), time.monotonic() + PATIENCE_S
    while (record := store.load(run_id)).status == "running":
        assert time.monotonic() < deadline, record
        time.sleep(0.1)
    assert record.status == "done", record.failure
    assert store.exists(run_id, "report.html")
    log = (tmp_path / "serve.log").read_text(encoding="utf-8")
    assert TOKEN not in log
    assert "Traceback" not in log
