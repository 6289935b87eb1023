"""`haystack serve` itself: killed in mid-run it loses nothing; a killed worker is told of and its run resumed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest

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


def workers_of(run_id):
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if run_id in " ".join(process.info["cmdline"] or ()) and process.pid != os.getpid()
    ]


def test_a_killed_service_loses_nothing_and_a_killed_worker_is_told_of_and_resumed(few_cells, tmp_path):
    with serve(tmp_path) as (client, service):
        made = client.post("/api/v1/runs", json={"question": QUESTION, "options": {"threshold": 1}})
        assert made.status_code == 201, made.text
        run_id = made.json()["run_id"]
        state_when(client, run_id, lambda state: state["worker"] is not None)  # it is being worked on
        service.send_signal(signal.SIGKILL)
        service.wait(30)
    assert workers_of(run_id)  # it goes on
    with serve(tmp_path) as (client, _):
        state = state_when(client, run_id, lambda state: True)
        assert (state["status"], state["owner"]) == ("running", "local")
        for process in workers_of(run_id):
            process.kill()
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
        state = state_when(client, run_id, lambda state: state["status"] == "done")
        assert client.get(f"/api/v1/runs/{run_id}/report").status_code == 200
        deadline = time.monotonic() + PATIENCE_S
        while not (rows := client.get("/api/v1/runs", params={"status": "done"}).json()["runs"]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert [row["run_id"] for row in rows] == [run_id]
    log = (tmp_path / "serve.log").read_text(encoding="utf-8")
    assert TOKEN not in log
    assert "Traceback" not in log
