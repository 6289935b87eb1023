"""The command ``generate``: one prompt and one output for every value of a column."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from inference.model import main
from inference.stack.checkpoint import save_safetensors


def _run(capsys, flags, *more):
    """Exit code, the facts printed (None for none), and what was said."""
    code = main(["generate", *map(str, flags), *map(str, more)])
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == (code == 0)
    return code, json.loads(said.out) if said.out else None, said.err


def _flags(folder, **changes):
    named = {
        "checkpoint": folder / "m.safetensors",
        "base-adata": folder / "base.h5ad",
        "test-adata": folder / "test.h5ad",
        "genelist": folder / "genes.json",
        "output-dir": folder / "out",
        "split-column": "drug",
    } | changes
    return [item for name, value in named.items() for item in (f"--{name}", value)]


@pytest.fixture
def flags(tmp_path, make_adata, small_config, make_tensors):
    """Base cells of two drugs and some of none; the model lacks GENE0, the cells lack its gene More."""
    save_safetensors(tmp_path / "m.safetensors", config=small_config, tensors=make_tensors(small_config))
    (tmp_path / "genes.json").write_text(json.dumps([*(f"Gene{i}" for i in range(1, 40)), "More"]))
    base = make_adata(1, is_treated=True, n_each=30)
    base.obs["drug"] = pd.Categorical(["b/1", "a", None] * 10)
    base.write_h5ad(tmp_path / "base.h5ad")
    make_adata(3, n_each=20).write_h5ad(tmp_path / "test.h5ad")
    return _flags(tmp_path)


def test_reference_outputs_are_reproduced_bit_for_bit(fixtures, tmp_path, capsys):
    named = {"checkpoint": "tiny.ckpt", "base-adata": "prompt.h5ad", "test-adata": "query.h5ad"}
    named = {name: fixtures / file for name, file in (named | {"genelist": "genelist.pkl"}).items()}
    changes = {**named, "output-dir": tmp_path, "split-column": "cond"}
    code, facts, _ = _run(capsys, _flags(tmp_path, **changes), "--output-mode", "exact", "--batch-size", 2)
    assert code == 0
    assert facts["done"] == {"drug/B 2": f"{tmp_path}/drug_B_2.h5ad", "drugA": f"{tmp_path}/drugA.h5ad"}
    found, want = ad.read_h5ad(tmp_path / "drugA.h5ad"), ad.read_h5ad(fixtures / "cli_drugA.h5ad")
    assert np.array_equal(found.X.toarray(), want.X.toarray())
    assert found.var_names.tolist() == want.var_names.tolist()
    pd.testing.assert_frame_equal(found.obs, want.obs, rtol=1e-4, atol=1e-5)
    with np.load(fixtures / "mdm_n5_seed0_sampled_B.npz") as other:
        assert np.array_equal(ad.read_h5ad(tmp_path / "drug_B_2.h5ad").X.toarray(), other["X"])


def test_outputs_are_over_the_models_genes_and_tell_how_they_were_made(flags, tmp_path, capsys):
    code, facts, said = _run(capsys, flags, "--num-steps", 2, "--random-seed", 4)
    assert code == 0
    assert facts["done"] == {"a": f"{tmp_path}/out/a.h5ad", "b/1": f"{tmp_path}/out/b_1.h5ad"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.h5ad", "b_1.h5ad"]
    assert any("10 base cells have no value in obs['drug']" in note for note in facts["notes"])
    assert "step" not in said
    found, test = ad.read_h5ad(tmp_path / "out" / "a.h5ad"), ad.read_h5ad(tmp_path / "test.h5ad")
    assert found.var_names.tolist() == [*(f"Gene{i}" for i in range(1, 40)), "More"]
    assert found.var.index[found.var["padded"]].tolist() == ["More"]
    assert found.obs.drop(columns="gen_logit").equals(test.obs)
    assert np.array_equal(found.X.data, np.rint(found.X.data))
    record = json.loads(found.uns["haystack_inference"])
    assert (record["split_values"], record["seed"]) == (["a"], 4)
    assert record["model"]["frac_model_genes_in_query"] == 39 / 40
    assert {"citation", "licence", "sha256"} <= set(record["model"])


def test_rerun_does_only_what_is_missing_or_would_differ(flags, tmp_path, capsys):
    short = ("--num-steps", 1)
    _run(capsys, flags, *short)
    stamp = (tmp_path / "out" / "a.h5ad").stat().st_mtime_ns
    (tmp_path / "out" / "b_1.h5ad").write_bytes(b"another file")
    _, facts, _ = _run(capsys, flags, *short)
    assert (list(facts["skipped"]), list(facts["done"])) == (["a"], ["b/1"])
    assert (tmp_path / "out" / "a.h5ad").stat().st_mtime_ns == stamp
    _, facts, _ = _run(capsys, flags, *short, "--random-seed", 1, "--split-values", "a")
    assert (facts["skipped"], list(facts["done"])) == ({}, ["a"])


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_concatenated_output_holds_every_value_under_its_name(flags, tmp_path, capsys):
    short = ("--num-steps", 2, "--show-progress")
    _run(capsys, flags, *short)
    code, facts, said = _run(capsys, flags, *short, "--concatenate")
    assert code == 0
    assert set(facts["done"].values()) == {f"{tmp_path}/out/concatenated.h5ad"}
    assert "step 2 of 2" in said
    found = ad.read_h5ad(tmp_path / "out" / "concatenated.h5ad")
    assert found.obs["split_value"].tolist() == ["a"] * 20 + ["b/1"] * 20
    for start, name in ((0, "a"), (20, "b_1")):
        alone = ad.read_h5ad(tmp_path / "out" / f"{name}.h5ad")
        part = found[start : start + 20]
        assert np.array_equal(part.X.toarray(), alone.X.toarray())
        assert part.obs.drop(columns="split_value").equals(alone.obs)
        assert part.var.equals(alone.var)
    assert set(_run(capsys, flags, *short, "--concatenate")[1]["skipped"]) == {"a", "b/1"}


def test_symbols_are_taken_from_the_column_named(flags, tmp_path, capsys):
    short = ("--num-steps", 1)
    _run(capsys, flags, *short)
    want = ad.read_h5ad(tmp_path / "out" / "a.h5ad").X.toarray()
    test = ad.read_h5ad(tmp_path / "test.h5ad")
    test.var["symbol"] = test.var_names
    test.var_names = [f"PROBE{i}" for i in range(test.n_vars)]
    test.var.index.name = "probe"
    test.write_h5ad(tmp_path / "test.h5ad")
    code, _, said = _run(capsys, flags, *short)
    assert code == 2
    assert "none of the test cells' 40 genes (such as PROBE0, PROBE1, PROBE2)" in said
    code, facts, _ = _run(capsys, flags, *short, "--gene-name-col", "symbol")
    assert code == 0
    assert any("base.h5ad: var has no column 'symbol'" in note for note in facts["notes"])
    found = ad.read_h5ad(tmp_path / "out" / "a.h5ad")
    assert np.array_equal(found.X.toarray(), want)
    assert (found.var["symbol"].tolist(), found.var.index.name) == (found.var_names.tolist(), "probe")


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_counts_are_found_in_raw_where_it_covers_more_of_the_model(flags, tmp_path, capsys):
    """Half of the genes in X, all in raw; duplicates that the model lacks; and names of obs and var stay."""
    short = ("--num-steps", 1)
    _run(capsys, flags, *short)
    want = ad.read_h5ad(tmp_path / "out" / "a.h5ad")
    for name in ("base", "test"):
        whole = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        twice = ad.AnnData(whole.X[:, :2], obs=whole.obs, var=pd.DataFrame(index=["LACKED", "LACKED"]))
        cells = whole[:, ::2].copy()
        cells.raw = ad.concat([whole, twice], axis=1, merge="first")
        cells.obs.index.name = "barcode"
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    code, facts, _ = _run(capsys, flags, *short)
    assert (code, len(facts["done"])) == (0, 2)
    found = ad.read_h5ad(tmp_path / "out" / "a.h5ad")
    assert np.array_equal(found.X.toarray(), want.X.toarray())
    assert found.obs.index.name == "barcode"
    assert sum("(LACKED); the model has none of them: their columns are ignored" in one for one in facts["notes"]) == 2


def test_unknown_value_is_warned_of_and_the_others_are_written(flags, tmp_path, capsys):
    code, facts, said = _run(capsys, flags, "--num-steps", 1, "--split-values", "none", "a")
    assert (code, list(facts["done"])) == (0, ["a"])
    assert "obs['drug'] holds no 'none'; possible with --split-values: 'a', 'b/1'. The others are predicted" in said
    assert any(note.startswith("warning: ") for note in facts["notes"])


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--split-values", "c"], "obs['drug'] holds no 'c'; possible with --split-values: 'a', 'b/1'"),
        (["--split-column", "dose"], "obs has no column 'dose'; it has cell_type, donor_id, drug"),
        (["--base-adata", "none.h5ad"], "none.h5ad: no such file"),
        (["--context-ratio", "0.9"], "between 0 and 1"),
        (["--output-dir", "a/../b"], "steps upwards"),
    ],
)
def test_request_that_cannot_be_met_is_exit_2_and_writes_nothing(flags, tmp_path, capsys, more, match):
    code, _, said = _run(capsys, flags, *more)
    assert code == 2
    assert match in said
    assert not (tmp_path / "out").exists()


def test_flags_of_the_reference_without_effect_are_named(flags, capsys):
    code, _, said = _run(capsys, flags, "--num-workers", 4, "--num-steps", 1, "--split-values", "a")
    assert code == 0
    assert "--num-workers has no effect here" in said


def test_output_over_an_input_is_refused(flags, tmp_path, capsys):
    """A value called like the file that holds it, in the folder of that file."""
    base = ad.read_h5ad(tmp_path / "base.h5ad")
    base.obs["drug"] = pd.Categorical(["base", "test", "a"] * 10)
    base.write_h5ad(tmp_path / "base.h5ad")
    before = {name: (tmp_path / f"{name}.h5ad").read_bytes() for name in ("base", "test")}
    code, _, said = _run(capsys, flags, "--output-dir", tmp_path)
    assert code == 2
    assert "is both an input and an output; give --output-dir a folder of its own" in said
    assert {name: (tmp_path / f"{name}.h5ad").read_bytes() for name in before} == before
    assert not (tmp_path / "a.h5ad").exists()
