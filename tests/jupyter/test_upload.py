"""The executed notebook on its way to a bucket: now and then while it runs, whole at the end, never lost."""

import io
import logging

import nbformat
import papermill
import pytest

from haystack_kernel.errors import ConflictError, ServiceError, StorageError
from haystack_kernel.jupyter.execute import execute_run
from haystack_kernel.jupyter.upload import NotebookUpload, is_superseded
from haystack_kernel.run import attach, open_run
from inference.patience import Patience

RUN_ID = "run-20260102t030405-abcdef"
STORAGE = "gs://haystack-test/team"
URI = f"{STORAGE}/runs/{RUN_ID}/run.ipynb"
QUESTION = "How would B cells respond to IFN-beta?"


def notebook(*sources, error=None):
    cells = [nbformat.v4.new_code_cell(source, id=f"cell{number}") for number, source in enumerate(sources)]
    if error:
        cells[-1].outputs = [nbformat.v4.new_output("error", ename=error, evalue="said", traceback=[])]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells))


def kept(server, uri=URI):
    return server.objects.contents.get(tuple(uri.removeprefix("gs://").split("/", 1)), b"").decode()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def upload(bucket_server, clock, lines, tmp_path):
    patience = Patience(seconds=300, sleep=clock.sleep, monotonic=clock.monotonic)
    return NotebookUpload(URI, copy=tmp_path / "copy.ipynb", interval_s=10, patience=patience, warn=lines.append)


def test_a_running_notebook_goes_up_once_an_interval_and_the_last_state_always(upload, bucket_server, clock, tmp_path):
    states = [notebook(f"x = {number}") for number in range(25)]
    for state in states:
        upload.write(state, URI)
        clock.sleep(1)
    assert len(bucket_server.requests) == 3  # at 0, 10 and 20 s
    assert kept(bucket_server) == states[20]
    assert (tmp_path / "copy.ipynb").read_text() == states[-1]
    upload.is_last = True
    upload.write(states[-1], URI)
    assert kept(bucket_server) == states[-1]
    assert not (tmp_path / "copy.ipynb").exists()
    upload.write(states[-1], URI)  # papermill writes once more what its engine has saved
    assert len(bucket_server.requests) == 4


def test_an_upload_that_fails_while_the_notebook_runs_warns_once_and_is_tried_later(
    upload, bucket_server, clock, lines
):
    bucket_server.fail("", status=503, times=2)
    for number in range(3):
        upload.write(notebook(f"x = {number}"), URI)
        clock.sleep(10)
    assert clock.monotonic() == 30  # nothing waited
    assert [line.split(":")[0] for line in lines] == ["the notebook could not be uploaded yet, the run goes on"]
    assert kept(bucket_server) == notebook("x = 2")


@pytest.mark.parametrize("kind", ["refuse", "reset", "lose", "halve", "shorten"])
def test_the_last_upload_is_tried_until_it_arrives_whole(upload, bucket_server, clock, kind):
    upload.is_last = True
    bucket_server.fail("", status=429, times=1000, kind="refuse", holds=lambda: clock.monotonic() < 60)
    bucket_server.fail("", kind=kind, times=2)
    upload.write(notebook("x = 1"), URI)
    assert kept(bucket_server) == notebook("x = 1")
    assert clock.monotonic() >= 60


@pytest.mark.parametrize(("status", "kind"), [(503, ServiceError), (401, StorageError), (403, StorageError)])
def test_a_notebook_that_cannot_go_up_stays_here_and_the_error_says_where(
    upload, bucket_server, tmp_path, status, kind
):
    upload.is_last = True
    failing = bucket_server.fail("", status=status, times=1000)
    with pytest.raises(kind, match=r"run\.ipynb") as caught:
        upload.write(notebook("x = 1"), URI)
    assert str(tmp_path / "copy.ipynb") in str(caught.value)
    assert (tmp_path / "copy.ipynb").read_text() == notebook("x = 1")
    failing.times = 0
    upload.write(notebook("x = 1"), URI)
    assert kept(bucket_server) == notebook("x = 1")


def test_a_disk_that_keeps_no_copy_does_not_stop_the_upload(upload, bucket_server, lines, tmp_path):
    (tmp_path / "copy.tmp").mkdir()
    upload.is_last = True
    upload.write(notebook("x = 1"), URI)
    assert kept(bucket_server) == notebook("x = 1")
    assert "no local copy" in lines[0]


def test_the_notebook_of_a_process_that_lost_the_run_does_not_replace_the_winners(upload, bucket_server, lines):
    bucket_server.objects.put("haystack-test", f"team/runs/{RUN_ID}/run.ipynb", b"theirs", meta={}, query={})
    upload.is_last = True
    upload.write(notebook("x = 1", error="ConflictError"), URI)
    assert kept(bucket_server) == "theirs"
    assert "another process works on this run" in lines[0]


def test_is_superseded_looks_at_errors_only():
    assert is_superseded(notebook("x", error="ConflictError"))
    assert not is_superseded(notebook("raise ConflictError", error="KeyError"))
    assert not is_superseded(notebook("# ConflictError"))


# --- through papermill ----------------------------------------------------------------------------------------------


def execute(source, output):
    return papermill.execute_notebook(source, output, engine_name="haystack", progress_bar=False)


@pytest.fixture
def limited(bucket_server, tmp_path, monkeypatch):
    """A bucket that takes one write a second of one object, as the service does."""
    monkeypatch.setenv("HAYSTACK_CACHE", str(tmp_path / "cache"))
    bucket_server.objects.min_gap_s = 1.0
    return bucket_server


@pytest.mark.slow
def test_many_short_cells_need_two_uploads(bucket_server, write_notebook, tmp_path, monkeypatch):
    """However slowly they run: the interval is longer than the test may take."""
    monkeypatch.setenv("HAYSTACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HAYSTACK_BUCKET__SAVE_INTERVAL_S", "3600")
    nb = execute(write_notebook("x = 1", *[f"print({number})" for number in range(20)]), URI)
    assert kept(bucket_server) == nbformat.writes(nb)
    assert [line.split()[0] for line in bucket_server.requests] == ["POST"] * 2
    assert not list((tmp_path / "cache" / "notebooks").iterdir())


@pytest.mark.slow
def test_a_failing_cell_is_in_the_bucket_with_its_marker(limited, write_notebook):
    with pytest.raises(papermill.PapermillExecutionError, match="on purpose"):
        execute(write_notebook("x = 1", "raise ValueError('on purpose')"), URI)
    nb = nbformat.reads(kept(limited), as_version=4)
    assert nb.metadata.papermill.exception is True
    assert "An Exception was encountered" in nb.cells[0].source


@pytest.mark.slow
def test_a_bucket_that_fails_during_the_run_only_warns(limited, write_notebook, caplog):
    failing = limited.fail("POST /upload", status=503, times=1)
    with caplog.at_level(logging.WARNING, logger="papermill"):
        nb = execute(write_notebook("x = 1", "print('done')"), URI)
    assert failing.n_seen == 1
    assert "could not be uploaded yet, the run goes on" in caplog.text
    assert kept(limited) == nbformat.writes(nb)


# --- two orchestrators of one run -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_two_orchestrators_one_wins_and_the_other_is_told_to_attach(bucket_server, few_cells, monkeypatch):
    """The other one saves the run's next record just before this one's arrives."""
    monkeypatch.setenv("HAYSTACK_STORAGE", STORAGE)
    winner = open_run(QUESTION, run_id=RUN_ID)

    def overtake():
        bucket_server.faults.clear()
        winner.retrieve()

    # what this one uploads first is its notebook, then the record of the step it has done
    bucket_server.fail("POST /upload", kind="none")
    bucket_server.fail("POST /upload", kind="before", action=overtake)
    outcome = execute_run(QUESTION, storage=STORAGE, run_id=RUN_ID, options={}, stream=io.StringIO())
    assert bucket_server.faults == []
    assert isinstance(outcome.error, ConflictError)
    assert f"haystack attach {RUN_ID}" in str(outcome.error)
    assert attach(RUN_ID).record == winner.record
    assert "ConflictError" not in kept(bucket_server)
