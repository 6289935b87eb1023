import json
import logging
import subprocess
import sys

import nbformat
import pytest

from haystack_kernel.jupyter.exporter import HaystackReportExporter
from haystack_kernel.schema import Failure
from haystack_kernel.store import RunStore


@pytest.fixture
def notebook():
    node = nbformat.v4
    output = node.new_output("display_data", data={"text/html": "<b>shown</b><script>alert(1)</script>"})
    return node.new_notebook(cells=[node.new_markdown_cell("# Title"), node.new_code_cell("work()", outputs=[output])])


@pytest.fixture
def run_folder(tmp_path, record, notebook):
    """The folder of a run that failed early, with its notebook."""
    failure = Failure(kind="NotFoundError", message="no atlas 'x'", step="retrieve")
    RunStore(str(tmp_path)).create(record.model_copy(update={"status": "failed", "failure": failure}))
    folder = tmp_path / "runs" / record.run_id
    nbformat.write(notebook, folder / "run.ipynb")
    return folder


def test_exporter_renders_a_notebook_alone_and_says_so(tmp_path, notebook, caplog):
    nbformat.write(notebook, tmp_path / "mine.ipynb")
    page, resources = HaystackReportExporter(log=logging.getLogger("exporter")).from_filename(
        str(tmp_path / "mine.ipynb")
    )
    assert f"without its run: {tmp_path} is no run folder" in caplog.text
    assert resources["output_extension"] == ".html"
    assert "<h1>mine</h1>" in page
    assert "<b>shown</b>" in page
    assert "alert(1)" not in page


def test_exporter_renders_the_run_that_the_notebook_lies_in(run_folder, record):
    page, _ = HaystackReportExporter().from_filename(str(run_folder / "run.ipynb"))
    assert f"<h1>{record.question}</h1>" in page
    assert "no atlas" in page
    assert "<b>shown</b>" in page


@pytest.mark.parametrize("start", ["../{run}/run.ipynb", "run.ipynb", "../../linked/run.ipynb"])
def test_exporter_finds_the_record_wherever_it_is_called_from(run_folder, record, monkeypatch, start):
    """From beside the run folder, from a folder within it, and through a link to it."""
    (run_folder.parents[1] / "linked").symlink_to(run_folder)
    (run_folder / "rounds").mkdir()
    monkeypatch.chdir(run_folder / ("rounds" if start == "run.ipynb" else "."))
    path = "../run.ipynb" if start == "run.ipynb" else start.format(run=record.run_id)
    page, _ = HaystackReportExporter().from_filename(path)
    assert f"<h1>{record.question}</h1>" in page


def test_exporter_shows_the_newest_record_where_its_copy_is_old_or_missing(run_folder, record, tmp_path):
    """The process was killed between the record and its copies."""
    store, old = RunStore(str(tmp_path)), (run_folder / "run.json").read_bytes()
    later = Failure(kind="StorageError", message="the disk was full", step="retrieve")
    store.save(store.load(record.run_id).model_copy(update={"failure": later}))
    for is_there in (True, False):
        (run_folder / "run.json").write_bytes(old)
        if not is_there:
            (run_folder / "run.json").unlink()
        page, _ = HaystackReportExporter().from_filename(str(run_folder / "run.ipynb"))
        assert "the disk was full" in page
        assert "no atlas" not in page


def test_exporter_falls_back_to_the_notebook_when_the_record_is_unreadable(run_folder):
    for path in (run_folder / "record").glob("*.json"):
        path.write_text(json.dumps({"schema_version": 99}))
    page, _ = HaystackReportExporter().from_filename(str(run_folder / "run.ipynb"))
    assert "<h1>run</h1>" in page
    assert "<b>shown</b>" in page


@pytest.mark.slow
def test_listing_exporters_imports_nothing_heavy():
    heavy = ("pandas", "matplotlib", "anndata", "scanpy", "scipy", "duckdb", "haystack_kernel.report.render")
    code = (
        "import json, sys; from nbconvert.exporters import get_export_names, get_exporter;"
        "assert 'haystack-report' in get_export_names(); get_exporter('haystack-report');"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.slow
@pytest.mark.parametrize(("to", "title"), [("haystack-report", "How would B cells"), ("html", "<title>run</title>")])
def test_nbconvert_command_line_converts_in_both_forms(run_folder, to, title):
    command = [sys.executable, "-m", "nbconvert", "--to", to, "run.ipynb", "--output", "out"]
    done = subprocess.run(command, cwd=run_folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert title in (run_folder / "out.html").read_text(encoding="utf-8")
