"""Ctrl-C, SIGTERM and the stop button: what stopped, what is kept and how to go on, without a traceback."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import nbformat
import papermill
import pytest
from jupyter_client.manager import start_new_kernel

from haystack_kernel import flow
from haystack_kernel.errors import RunInterrupted
from haystack_kernel.jupyter.stopping import listen
from haystack_kernel.run import Run, attach
from haystack_kernel.schema import JobStatus
from haystack_kernel.steering import describe_interruption

QUESTION = "How would B cells respond to IFN-beta?"
LIMIT_S = 300  # ends a hang


# --- the papermill engine -------------------------------------------------------------------------------------------


def stop_when(path, text):
    """Send this process SIGINT once ``text`` stands in the notebook on disk."""

    def watch():
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and not (path.exists() and text in path.read_text(encoding="utf-8")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch)
    watcher.start()
    return watcher


@pytest.mark.slow
@pytest.mark.parametrize("is_stubborn", [False, True])
def test_an_interrupted_notebook_saves_what_the_cell_said_and_no_cell_as_completed(
    write_notebook, tmp_path, is_stubborn
):
    """A cell that swallows the interrupt is not followed by the next one either."""
    waits = "import time\nwhile True:\n    print('begun', flush=True); time.sleep(0.2)"
    if is_stubborn:
        waits = "try:\n    " + waits.replace("\n", "\n    ") + "\nexcept KeyboardInterrupt: pass"
    source, output = write_notebook("x = 1", waits, "print('later')"), tmp_path / "out.ipynb"
    watcher = stop_when(output, '"begun')
    with pytest.raises((papermill.PapermillExecutionError, KeyboardInterrupt)):
        papermill.execute_notebook(source, str(output), engine_name="haystack", progress_bar=False)
    watcher.join()
    nb = nbformat.read(output, as_version=4)
    assert nb.metadata.papermill.exception is True
    cells = [cell for cell in nb.cells if "papermill" in cell.metadata and cell.cell_type == "code"]
    states = [cell.metadata.papermill.status for cell in cells]
    assert states == (["completed", "completed", "failed"] if is_stubborn else ["completed", "failed", "pending"])
    assert cells[2].outputs == []
    errors = [item.ename for item in cells[1].outputs if item.output_type == "error"]
    assert errors == ([] if is_stubborn else ["KeyboardInterrupt"])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_request_to_stop_is_passed_on_once_and_then_ends_this_process():
    asked = []
    with listen() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert stop.exit_code == 143
    with listen() as stop:
        stop.pass_on = lambda: asked.append(1)
        signal.raise_signal(signal.SIGINT)
        assert (asked, stop.exit_code) == ([1], 130)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == [1]


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_run_that_is_interrupted_on_the_command_line_says_so_shortly_and_goes_on_later(few_cells, number, to_all):
    """A terminal sends Ctrl-C to the whole process group; the kernel may get it as well."""
    run_id = "run-interrupted-1"
    command = [sys.executable, "-m", "haystack_kernel", "run", QUESTION, "--run-id", run_id]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "retrieve: searching" in line:
                (os.killpg if to_all else os.kill)(process.pid, number)
        out = process.stdout.read()
    said = "".join(lines)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert f"Run {run_id} was interrupted" in lines[-3]
    assert f"`haystack resume {run_id}`" in lines[-1]
    (line,) = out.splitlines()
    assert json.loads(line)["run_id"] == run_id
    nb = nbformat.read(few_cells / "runs" / run_id / "run.ipynb", as_version=4)
    assert nb.metadata.papermill.exception is True
    run = attach(run_id)
    assert run.record.failure is None
    assert flow.next_step(run.record) in ("retrieve", "choose")
    assert run.retrieve().record.candidates


class Cloud:
    """A cloud whose jobs are running."""

    name = "batch"

    def status(self, job):
        return JobStatus(state="running")


@pytest.mark.slow
def test_the_message_says_whether_a_job_goes_on_and_is_billed(ports, begin, clock):
    record = flow.work(begin(n_prompt=4, n_query=3), ports, until="collect")
    text = describe_interruption(record, ports, storage="gs://b/it's")
    assert text.count("\n") == 2
    assert "haystack.last()" in text
    assert "haystack.last()" not in describe_interruption(record, ports, in_notebook=False)  # for a terminal
    assert "goes on" not in text  # the job of this executor is over when it is submitted
    assert f"""haystack resume {record.run_id} --storage 'gs://b/it'"'"'s'""" in text

    job = record.rounds[-1].job.model_copy(update={"executor": "batch"})
    last = record.rounds[-1].model_copy(update={"job": job})
    cloudy = record.model_copy(update={"rounds": (*record.rounds[:-1], last)})
    ports.executors["batch"] = Cloud()
    text = describe_interruption(cloudy, ports)
    assert f"Its job {job.job_id} (batch) goes on and is billed until it ends" in text
    assert f"`haystack cancel {record.run_id}` ends it" in text
    del ports.executors["batch"]
    assert "cannot be asked from here; it may go on and is billed" in describe_interruption(cloudy, ports)


@pytest.mark.slow
def test_a_run_that_is_stopped_before_a_step_begins_reads_interrupted_at_once_and_names_its_job(ports, begin):
    run = Run(flow.work(begin(n_prompt=4, n_query=3), ports, until="collect"), ports=ports)
    assert run.status()["status"] == "running"  # a kernel may be about to go on
    found = run.leave().status()
    assert (found["status"], found["next_step"]) == ("interrupted", "collect")
    assert found["next_commands"][-1] == f"haystack cancel {run.run_id}"  # its job may go on
    job = run.record.rounds[-1].job.model_copy(update={"executor": "batch"})
    last = run.record.rounds[-1].model_copy(update={"job": job})
    ports.executors["batch"] = Cloud()
    ports.store.save(run.record.model_copy(update={"rounds": (*run.record.rounds[:-1], last)}))
    assert f"Its job {job.job_id} (batch) goes on and is billed" in run.status()["detail"]
    n_leases = len(ports.store.names(run.run_id, "lease"))
    run.leave()
    assert len(ports.store.names(run.run_id, "lease")) == n_leases  # left once is enough


# --- the stop button ------------------------------------------------------------------------------------------------


def replies(client, code):
    """Execute ``code``; its error output and its reply."""
    shown = []
    reply = client.execute_interactive(code, output_hook=shown.append, timeout=LIMIT_S)
    errors = [message["content"] for message in shown if message["msg_type"] == "error"]
    return errors, reply["content"]


@pytest.mark.slow
def test_the_stop_button_shows_three_lines_stops_later_cells_and_leaves_the_run_usable(few_cells):
    manager, client = start_new_kernel(startup_timeout=LIMIT_S, kernel_name="python3")
    try:
        assert replies(client, "%load_ext haystack_kernel")[1]["status"] == "ok"
        message = client.execute(f"answer = %ask {QUESTION}", stop_on_error=True)
        later = client.execute("later = True")  # "Run All" has sent the next cells already
        shown, is_asked = [], False
        while True:
            item = client.get_iopub_msg(timeout=LIMIT_S)
            if item["parent_header"].get("msg_id") != message:
                continue
            if "retrieve: searching" in str(item["content"].get("data")) and not is_asked:
                is_asked = True
                manager.interrupt_kernel()
            shown.append(item)
            if item["content"].get("execution_state") == "idle":
                break
        (error,) = [item["content"] for item in shown if item["msg_type"] == "error"]
        assert error["ename"] == RunInterrupted.__name__
        assert len(error["traceback"]) == 3
        assert "was interrupted at step" in error["traceback"][0]
        replied = {}
        while later not in replied:
            reply = client.get_shell_msg(timeout=LIMIT_S)
            replied[reply["parent_header"]["msg_id"]] = reply["content"]["status"]
        assert replied[later] != "ok"
        errors, _ = replies(client, "run")  # not the magic %run
        assert errors == []
        check = [
            "import haystack_kernel as haystack",
            "assert haystack.last() is run",
            "assert ', interrupted, ' in repr(run)",
            "assert run.retrieve().candidates",
        ]
        assert replies(client, "\n".join(check))[0] == []
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
