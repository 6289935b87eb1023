"""The run notebook under papermill with the engine: saves, events, failing cells, run folder from the output path."""

import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import papermill_io

from haystack_kernel import flow
from haystack_kernel.config.connect import connect
from haystack_kernel.jupyter.engine import SAVE_INTERVAL_S, inject_run_folder
from haystack_kernel.jupyter.execute import execute_run, notebook_path
from haystack_kernel.run import attach, open_run, resume

pytestmark = pytest.mark.slow

QUESTION = "How would B cells respond to IFN-beta?"
RUN_ID = "run-20260102t030405-abcdef"
SHOWS = """
from haystack_kernel.progress import notebook_progress
from haystack_kernel.ports import ProgressEvent
show = notebook_progress()
for i in range({n}):
    show(ProgressEvent(run_id="run-20260102t030405-abcdef", phase=f"phase {{i}}", message="<busy>", round=i or None))
"""


class CountingHandler:
    """papermill output handler for ``count://``: keeps what was written, how often."""

    def __init__(self):
        self.writes = []

    def write(self, data, path):
        self.writes.append(data)

    def pretty_path(self, path):
        return path


@pytest.fixture
def saves():
    handler = CountingHandler()
    papermill_io.register("count://", handler)
    yield handler.writes
    papermill_io._handlers = [pair for pair in papermill_io._handlers if pair[0] != "count://"]


def execute(source, output, **arguments):
    return papermill.execute_notebook(source, str(output), engine_name="haystack", progress_bar=False, **arguments)


# --- saving and listening -------------------------------------------------------------------------------------------


def test_many_cells_are_saved_a_few_times_and_whole_at_the_end(write_notebook, saves):
    source = write_notebook("x = 1", *[f"print({i})" for i in range(25)])
    started = time.monotonic()
    execute(source, "count://out.ipynb")
    # papermill itself saves before and after every cell, 54 times
    assert 2 <= len(saves) <= 4 + (time.monotonic() - started) / SAVE_INTERVAL_S
    last = nbformat.reads(saves[-1], as_version=4)
    assert [cell.outputs[0].text.strip() for cell in last.cells[1:]] == [str(i) for i in range(25)]
    assert all(cell.metadata.papermill.status == "completed" for cell in last.cells)
    assert last.metadata.papermill.duration > 0


def test_a_long_cell_appears_on_disk_while_it_runs(write_notebook, saves, tmp_path):
    """The cell prints until something of that was saved, or to its limit, which ends a hang."""
    is_saved = tmp_path / "is_saved"
    slow = (
        "import pathlib, time\ndeadline = time.monotonic() + 600\n"
        f"while time.monotonic() < deadline and not pathlib.Path({str(is_saved)!r}).exists():\n"
        "    print('begun'); time.sleep(0.1)\n"
        "print('ended')"
    )

    def watch():
        while not any("begun\\n" in data.split('"outputs"')[-1] for data in saves) and not is_over.wait(0.1):
            pass
        is_saved.touch()

    is_over = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        execute(write_notebook("x = 1", slow), "count://out.ipynb", autosave_cell_every=30)
    finally:
        is_over.set()
        watcher.join()
    outputs = [nbformat.reads(data, as_version=4).cells[1].outputs for data in saves]
    texts = ["".join(output.text for output in items) for items in outputs]
    assert any(text and "ended" not in text for text in texts)
    assert texts[-1].endswith("begun\nended\n")


def test_progress_events_arrive_and_the_last_display_is_static(write_notebook, tmp_path):
    events = []
    nb = execute(write_notebook("x = 1", SHOWS.format(n=3)), tmp_path / "out.ipynb", on_event=events.append)
    assert [(event["phase"], event["round"]) for event in events] == [("phase 0", None), ("phase 1", 1), ("phase 2", 2)]
    (output,) = nb.cells[1].outputs  # one display, updated
    assert (
        output.data["text/plain"]
        .splitlines()[-1]
        .partition(" ")[2]
        .startswith("[round 2] phase 2: <busy>, not finished")
    )
    assert "&lt;busy&gt;" in output.data["text/html"]
    assert "<busy>" not in output.data["text/html"]
    nbformat.validate(nb)


def test_each_cell_has_a_display_of_its_own(write_notebook, tmp_path):
    again = "show(ProgressEvent(run_id='run-20260102t030405-abcdef', phase='next', message='m'))"
    nb = execute(write_notebook("x = 1", SHOWS.format(n=2), again), tmp_path / "out.ipynb")
    assert [len(cell.outputs) for cell in nb.cells] == [0, 1, 1]
    assert " next: m, not finished in this cell" in nb.cells[2].outputs[0].data["text/plain"]


@pytest.mark.slow
def test_kernels_started_at_once_in_one_folder_do_not_share_sockets(write_notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_notebook("x = 1", "import os, time; time.sleep(0.5); os.getpid()")
    script = (
        "import papermill, sys; nb = papermill.execute_notebook(sys.argv[1], sys.argv[2], engine_name='haystack',"
        " progress_bar=False); print(nb.cells[1].outputs[0].data['text/plain'])"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, source, f"{i}.ipynb"], stdout=subprocess.PIPE) for i in range(3)
    ]
    said = [process.communicate()[0].decode().strip() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(set(said)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.ipynb", "1.ipynb", "2.ipynb", "in.ipynb"]


def test_no_save_of_a_notebook_holds_consent_and_executing_it_again_gives_none(write_notebook, saves, tmp_path):
    source = write_notebook("approve = None\nmax_cost = None", "print(approve, max_cost)")
    given = {"approve": True, "max_cost": 5.0}
    done = execute(source, "count://out.ipynb", parameters=given)
    assert given["approve"] is True
    assert done.cells[2].outputs[0].text == "True 5.0\n"
    assert saves
    for data in saves:
        nb = nbformat.reads(data, as_version=4)
        assert nb.metadata.papermill.parameters == {"approve": None, "max_cost": 5.0}
        assert "approve = True" not in data
        assert "approve = None  # consent is not stored" in nb.cells[1].source
    (tmp_path / "saved.ipynb").write_text(saves[-1])
    again = execute(str(tmp_path / "saved.ipynb"), "count://again.ipynb")
    assert again.cells[2].outputs[0].text == "None 5.0\n"


def test_consent_typed_into_the_parameters_is_not_saved_either(write_notebook, tmp_path):
    source = write_notebook("approve = True  # my own copy", "print(approve)", "print(1 / 0)")
    with pytest.raises(PapermillExecutionError):
        execute(source, tmp_path / "out.ipynb")
    saved = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    outputs = [output.text for output in outputs_of(saved) if output.output_type == "stream"]
    assert outputs == ["True\n"]
    assert "approve = True" not in (tmp_path / "out.ipynb").read_text()


# --- the run folder from the output path ----------------------------------------------------------------------------


def parameters_after(output_path, *, parameters=None, tags=("parameters",)):
    cells = [nbformat.v4.new_code_cell("storage = None\nrun_id = None", metadata={"tags": [tag]}) for tag in tags]
    nb = nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"parameters": parameters or {}}})
    inject_run_folder(nb, output_path)
    found = {}
    for cell in nb.cells:
        exec(cell.source, found)
    return found["storage"], found["run_id"]


@pytest.mark.parametrize(
    ("output", "storage", "run_id"),
    [
        (f"gs://b/team/runs/{RUN_ID}/run.ipynb", "gs://b/team", RUN_ID),
        (f"/data/runs/{RUN_ID}/other.ipynb", "/data", RUN_ID),
        (f"/a'b\\c/runs/{RUN_ID}/run.ipynb", "/a'b\\c", RUN_ID),
        (f"/data/runs/x/runs/{RUN_ID}/run.ipynb", "/data/runs/x", RUN_ID),
        ("/data/runs/BAD ID/run.ipynb", None, None),
        (f"/data/{RUN_ID}/run.ipynb", None, None),
        ("run.ipynb", None, None),
        (None, None, None),
    ],
)
def test_inject_takes_storage_and_run_id_from_the_output_path(output, storage, run_id):
    assert parameters_after(output) == (storage, run_id)


def test_inject_makes_a_relative_storage_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parameters_after(f"out/runs/{RUN_ID}/run.ipynb")[0] == str(tmp_path / "out")


def test_inject_leaves_what_was_given(tmp_path):
    output = f"/data/runs/{RUN_ID}/run.ipynb"
    assert parameters_after(output, parameters={"storage": "gs://else"}) == (None, RUN_ID)
    tags = ("parameters", "injected-parameters")
    assert parameters_after(output, tags=tags) == ("/data", RUN_ID)


# --- the run notebook -----------------------------------------------------------------------------------------------


def outputs_of(nb):
    return [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.slow
def test_the_notebook_goes_on_with_the_run_its_output_path_names(scored, tiny_env):
    output = tiny_env / "runs" / scored.run_id / "run.ipynb"
    command = [sys.executable, "-m", "papermill", "--engine", "haystack", "--no-progress-bar"]
    command += [str(notebook_path("haystack")), str(output), "-p", "question", QUESTION]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = attach(scored.run_id)
    assert run.record.status == "done"
    assert run.record.steps[: len(scored.steps)] == scored.steps
    assert [time.step for time in run.record.steps[len(scored.steps) :]] == ["interpret", "publish"]
    nb = run.notebook()
    nbformat.validate(nb)
    assert "widgets" not in nb.metadata
    kinds = {kind for output in outputs_of(nb) for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    assert "application/vnd.jupyter.widget-view+json" not in kinds
    assert not [output for output in outputs_of(nb) if output.output_type in ("error", "stream")]
    progress = [output for output in outputs_of(nb) if "haystack" in output.get("metadata", {})]
    assert progress[-1].data["text/plain"].splitlines()[-1].partition(" ")[2].startswith("publish: done (")


@pytest.fixture
def foreign_kernel(tmp_path, monkeypatch):
    """A kernel "python3" of the user's that belongs to another Python and would not even start."""
    folder = tmp_path / "share" / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))


def test_a_failing_cell_leaves_a_valid_notebook_and_a_run_that_goes_on(tiny_env, foreign_kernel):
    stream = io.StringIO()
    outcome = execute_run(
        "How would B cells respond to IL-6?", storage=None, run_id=RUN_ID, options={"seed": 4}, stream=stream
    )
    assert outcome.summary["failure"]["kind"] == type(outcome.error).__name__ == "NoCandidateError"
    assert "stopped at 'retrieve'" in str(outcome.error)
    assert "retrieve: searching the atlases" in stream.getvalue()
    run = resume(RUN_ID)
    nb = run.notebook()
    nbformat.validate(nb)
    assert nb.metadata.papermill.exception is True
    marker = [cell for cell in nb.cells if "papermill-error-cell-tag" in cell.metadata.get("tags", [])]
    assert "An Exception was encountered" in marker[0].source
    assert [output.ename for output in outputs_of(nb) if output.output_type == "error"] == ["NoCandidateError"]
    assert run.record.config.seed == 4
    assert flow.next_step(run.record) == "retrieve"


def test_a_notebook_that_fails_without_a_run_says_so(tiny_env, write_notebook, tmp_path):
    with pytest.raises(PapermillExecutionError, match="too short"):
        execute(str(notebook_path("haystack")), tmp_path / "out.ipynb", parameters={"question": "B cells?"})
    assert not tiny_env.exists()
    assert "An Exception was encountered" in (tmp_path / "out.ipynb").read_text()


@pytest.mark.slow
def test_executing_a_finished_run_again_changes_nothing_but_the_notebook(scored, tiny_env):
    done = flow.work(scored, connect())
    report = Path(tiny_env, "runs", done.run_id, "report.html")
    before = report.read_text()
    outcome = execute_run(QUESTION, storage=None, run_id=done.run_id, options={}, stream=io.StringIO())
    assert outcome.error is None
    assert outcome.summary["status"] == "done"
    assert open_run(run_id=done.run_id).record.serial == done.serial
    assert len(report.read_text()) > len(before)  # now with the executed notebook
