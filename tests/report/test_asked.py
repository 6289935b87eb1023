import dataclasses
import shutil

import nbformat
import pytest

from haystack_kernel.report.asked import asked_notebook
from haystack_kernel.run import Run
from haystack_kernel.schema import RunConfig
from haystack_kernel.store import RunStore


def test_the_notebook_asks_the_same_again_and_says_that_it_was_not_executed(make_run):
    nasty = "How would 'B' \"cells\" respond to IFN-beta?\n# not a heading"
    config = RunConfig(atlases=("kang",), seed=7, hide=({"cell_type_id": "CL:0000236", "perturbation": "IFN-beta"},))
    record = make_run(question=nasty, config=config)
    notebook = asked_notebook(record)
    nbformat.validate(notebook)
    assert asked_notebook(record) == notebook
    assert not [cell for cell in notebook.cells if cell.get("outputs")]
    assert "no cell of it was executed" in notebook.cells[0].source
    assert notebook.cells[0].source.count("\n#") == 0
    names = {}
    exec(notebook.cells[1].source, names)
    assert names["question"] == nasty
    assert RunConfig(**names["options"]) == config


@pytest.mark.slow
def test_a_run_without_a_notebook_leaves_one_and_links_its_report(finished, tmp_path, monkeypatch):
    ports, record = finished
    shutil.copytree(ports.settings.storage, tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    run = Run(record, ports=dataclasses.replace(ports, store=RunStore(str(tmp_path / "store"))))
    link = f"store/runs/{record.run_id}/report.html"
    assert repr(run.report()) == link
    assert "no cell of it was executed" in run.notebook().cells[0].source
    assert "no cell of it was executed" in (tmp_path / link).read_text()
    assert repr(run.report()) == link  # and the notebook that is there is kept
