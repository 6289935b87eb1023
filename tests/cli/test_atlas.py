"""Commands about atlases."""

import json

import anndata as ad
import numpy as np
import pytest

from haystack_kernel.atlas import list_atlases

GOOD = ["--name", "mine", "--perturbation-column", "perturbation", "--control", "control"]


@pytest.mark.slow
def test_build_list_info_and_check_work_together(call, tiny_h5ad, tmp_path):
    root = tmp_path / "mine"
    said = call("atlas", "build", tiny_h5ad, *GOOD, "--atlas-root", root)
    assert said.code == 0
    built = json.loads(said.out)
    assert (built["n_cells"], built["n_control"], built["n_genes"]) == (216, 108, 1300)
    assert "atlas is ready" in said.err
    (row,) = json.loads(call("atlas", "list", "--atlas-root", root).out)
    assert (row["name"], row["n_cells"], row["datasets"]) == ("mine", 216, ["mine"])
    info = json.loads(call("atlas", "info", "mine", "--atlas-root", root).out)
    assert {item["name"]: item["n_cells"] for item in info["perturbations"]} == {"IFN-beta": 72, "TNF-alpha": 36}
    assert json.loads(call("atlas", "check", "mine", "--atlas-root", root).out)["ok"]
    index = next((root / "mine").glob("cells.parquet/*"))
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    said = call("atlas", "check", "mine", "--atlas-root", root)
    assert said.code == 1
    assert json.loads(said.out)["ok"] is False
    said = call("atlas", "check", "--table", "--atlas-root", root)
    assert said.code == 1
    [row, remedy] = [line for line in said.out.splitlines() if index.name in line]
    assert row.split()[:2] == ["mine", "damaged"]
    assert remedy == f"damaged: {index}"
    assert "haystack atlas build FILE --name mine --dataset mine --add" in said.out


def test_init_drafts_a_mapping_that_build_reads(call, tiny_h5ad, tmp_path):
    path, root = tmp_path / "mine.yaml", tmp_path / "root"
    drafted = json.loads(call("atlas", "init", tiny_h5ad, "--output", path).out)
    assert drafted["fields"]["perturbation"] == "perturbation"
    assert (drafted["missing"], drafted["output"]) == ([], str(path))
    said = call("atlas", "build", tiny_h5ad, "--name", "mine", "--schema", path, "--atlas-root", root)
    assert json.loads(said.out)["n_control"] == 108
    said = call("atlas", "init", tiny_h5ad, "--output", path)
    assert said.code == 2
    assert "exists and may hold your changes" in said.err
    assert call("atlas", "init", tiny_h5ad, "--table").out == path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_add_move_and_info_as_a_table(call, tiny_h5ad, tmp_path):
    root, copy = tmp_path / "root", tmp_path / "copy.h5ad"
    copy.write_bytes(tiny_h5ad.read_bytes())
    call("atlas", "build", tiny_h5ad, *GOOD, "--atlas-root", root)
    said = call("atlas", "build", copy, *GOOD, "--dataset", "second", "--atlas-root", root)
    assert said.code == 2
    assert "holds mine; add second to it with --add" in said.err
    assert json.loads(call("atlas", "build", copy, *GOOD, "--add", "--atlas-root", root).out)["n_atlas_cells"] == 432
    moved = copy.rename(tmp_path / "moved.h5ad")
    assert call("atlas", "check", "mine", "--atlas-root", root).code == 1
    said = call("atlas", "move", "mine", moved, "--dataset", "copy", "--atlas-root", root)
    assert json.loads(said.out)["datasets"] == ["copy"]
    assert call("atlas", "check", "mine", "--deep", "--atlas-root", root).code == 0
    shown = call("atlas", "info", "mine", "--table", "--atlas-root", root).out
    assert [line for line in shown.splitlines() if line.startswith(("copy ", "mine "))]


def test_build_reports_unknown_labels_and_keeps_them(call, tiny_h5ad, tmp_path):
    adata, path, root = ad.read_h5ad(tiny_h5ad), tmp_path / "odd.h5ad", tmp_path / "root"
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace("NK cell", "NK cel type zork")
    adata.write_h5ad(path)
    said = call("atlas", "build", path, *GOOD, "--atlas-root", root)
    [line] = [line for line in said.err.splitlines() if "zork" in line]
    assert line.split()[0] == "cell_type"
    assert "36" in line
    [label] = json.loads(call("atlas", "info", "mine", "--atlas-root", root).out)["unmapped"]
    assert (label["label"], label["n_cells"], label["dataset"]) == ("NK cel type zork", 36, "mine")


def test_list_as_a_table_is_aligned(call):
    lines = call("atlas", "list", "--table").out.splitlines()
    assert lines[0].split() == ["name", "n_cells", "n_control", "datasets", "path"]
    assert lines[1].split()[:3] == ["tiny", "216", "108"]


def test_list_of_an_empty_root_is_empty_and_one_that_is_not_there_is_said(call, tmp_path):
    assert call("atlas", "list", "--atlas-root", tmp_path).out == "[]\n"
    for command in ("list", "check"):
        said = call("atlas", command, "--atlas-root", tmp_path / "none")
        assert (said.code, said.out) == (2, "")
        assert f"{tmp_path / 'none'} does not exist" in said.err


@pytest.mark.parametrize("command", ["info", "check"])
@pytest.mark.parametrize(("name", "says"), [("absent", "absent"), ("../x", "invalid"), ("UPPER", "invalid")])
def test_commands_refuse_names_of_no_atlas(call, command, name, says):
    said = call("atlas", command, name)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


@pytest.fixture
def spoiled(tiny_h5ad, tmp_path):
    """Files that cannot be an atlas, each wrong in one way."""
    good = ad.read_h5ad(tiny_h5ad)

    def write(name):
        path, adata = tmp_path / f"{name}.h5ad", good.copy()
        if name == "gone":
            return path
        if name == "truncated":
            path.write_bytes(tiny_h5ad.read_bytes()[:5000])
            return path
        if name == "text":
            path.write_text("cell,gene\n")
            return path
        if name == "normalised":
            adata.X.data = np.log1p(adata.X.data)
        elif name == "negative":
            adata.X.data[7] = -2
        elif name == "nan":
            adata.X.data[7] = np.nan
        elif name == "empty":
            adata = adata[:0].copy()
        elif name == "mouse":
            adata.var_names = [f"{gene[0]}{gene[1:].lower()}" for gene in adata.var_names]
        elif name == "no donor":
            del adata.obs["donor_id"]
        elif name == "no control":
            adata.obs["perturbation"] = adata.obs["perturbation"].cat.rename_categories({"control": "IL-6"})
        adata.write_h5ad(path)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone", "gone.h5ad"),
        ("truncated", "truncated"),
        ("text", "text.h5ad"),
        ("normalised", "raw"),
        ("negative", "negative"),
        ("nan", "NaN"),
        ("empty", "no cells"),
        ("mouse", "mouse"),
        ("no donor", "donor_id"),
        ("no control", "control"),
    ],
)
def test_build_refuses_an_unusable_file_and_leaves_no_atlas(call, spoiled, tmp_path, name, says):
    said = call("atlas", "build", spoiled(name), *GOOD, "--atlas-root", tmp_path / "root")
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert "Traceback" not in said.err
    assert list_atlases(tmp_path / "root") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "../x"], "invalid"),
        (["--name", "mine", "--schema", "nonsense"], "schema 'nonsense' is unknown"),
        (["--name", "mine", "--schema", "gone.yaml"], "gone.yaml"),
        (["--name", "mine", "--perturbation-column", "nonsense"], "nonsense"),
        (["--name", "mine", "--dataset", "a/b"], "dataset name 'a/b' is invalid"),
        (["--name", "mine", "--perturbation-column", "perturbation", "--perturbation-type", "magic"], "magic"),
    ],
)
def test_build_refuses_bad_options(call, tiny_h5ad, tmp_path, arguments, says):
    said = call("atlas", "build", tiny_h5ad, *arguments, "--atlas-root", tmp_path / "root")
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert not (tmp_path / "x").exists()
