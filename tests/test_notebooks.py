"""The notebooks are thin, without outputs, start with their parameters, and run offline."""

import shutil
from pathlib import Path

import nbformat
import papermill
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_first_code_cell_holds_the_parameters(path):
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in code_cells(path)]
    assert tagged == [True] + [False] * (len(tagged) - 1)


def test_cells_are_short_and_define_nothing(path):
    for cell in code_cells(path)[1:]:
        lines = [line.lstrip() for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 6, cell.source
        assert not any(line.startswith(("def ", "class ", "for ", "while ", "try:")) for line in lines), cell.source


def test_no_output_is_committed(path):
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(path))


def test_every_option_of_a_run_is_a_parameter_of_the_run_notebook(path):
    from haystack_kernel.schema import OPTIONS

    if path.stem != "haystack":
        return
    options = set(OPTIONS) - {"executor"}
    source = code_cells(path)[0].source
    assert not [name for name in (*options, "question", "storage", "run_id") if f"{name} = " not in source]


QUESTION = "How would B cells respond to IFN-beta?"
PARAMETERS = {  # the rest: as committed
    "haystack": {"question": QUESTION},
    "explore": {"question": QUESTION},
    "screen": {"data_set": None, "perturbations": ["IFN-beta"], "cell_types": ["B cell"], "engine": "weighted"},
    "backtest": {"atlas": "tiny", "n_pairs": 1, "held": ["cell_type"], "engines": ["weighted"]},
}


@pytest.mark.slow
def test_runs_offline(path, tmp_path, tiny_env, tiny_h5ad, tiny_atlas_root, monkeypatch):
    if path.stem == "backtest":  # which leaves a calibration with its atlas
        shutil.copytree(tiny_atlas_root, tmp_path / "atlases")
        monkeypatch.setenv("HAYSTACK_ATLAS_ROOT", str(tmp_path / "atlases"))
    parameters = {"h5ad": str(tiny_h5ad)} if path.stem == "anndata" else PARAMETERS.get(path.stem, {})
    done = papermill.execute_notebook(str(path), str(tmp_path / path.name), parameters=parameters, progress_bar=False)
    nbformat.validate(done)
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    said = "".join(str(output.get("data", {}).get("text/plain", "")) for output in outputs)
    assert "not finished in this cell" not in said  # every step has told its end
    if path.stem == "screen":
        assert "\N{BLACK CIRCLE} scored" in said  # the matrix that filled in
    assert not [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
