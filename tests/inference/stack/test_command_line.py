from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.manifest import Manifest, Task, dump_manifest
from inference.run_inference import main
from inference.stack.checkpoint import save_safetensors

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _no_batch(monkeypatch):
    monkeypatch.delenv("BATCH_TASK_INDEX", raising=False)
    monkeypatch.delenv("BATCH_TASK_COUNT", raising=False)


@pytest.fixture
def model(tmp_path, small_config, make_tensors):
    """Checkpoint and gene list of a model that knows the first 39 of the designed cells' 40 genes, and one more."""
    paths = tmp_path / "model.safetensors", tmp_path / "genes.json"
    save_safetensors(paths[0], config=small_config, tensors=make_tensors(small_config))
    paths[1].write_text(json.dumps([*(f"GENE{i}" for i in range(39)), "MORE"]))
    return paths


def _run(capsys, *arguments):
    code = main([str(item) for item in arguments])
    return code, json.loads(capsys.readouterr().out)


def _flags(prompt, query, output, model):
    names = ("--prompt-gcs", "--query-gcs", "--output-gcs", "--model-gcs", "--genelist-gcs")
    return [str(item) for pair in zip(names, (prompt, query, output, *model), strict=True) for item in pair]


def _against(fixtures, path, name):
    """Predicted values and the reference's, both over the query's genes that the model has."""
    found = ad.read_h5ad(path)
    columns = {gene: index for index, gene in enumerate(json.loads((fixtures / "genelist.json").read_text()))}
    own = [index for index, gene in enumerate(found.var_names) if gene.upper() in columns]
    with np.load(fixtures / f"{name}.npz") as want:
        np.testing.assert_allclose(found.obs["gen_logit"], want["logits"], atol=1e-4)
        return found.X.toarray()[:, own], want["X"][:, [columns[found.var_names[i].upper()] for i in own]]


@pytest.fixture
def reference_flags(fixtures, tmp_path):
    prompt = ad.read_h5ad(fixtures / "prompt.h5ad")
    prompt[prompt.obs["cond"] == "drugA"].copy().write_h5ad(tmp_path / "prompt.h5ad")
    model = (fixtures / "tiny.ckpt", fixtures / "genelist.json")
    return _flags(tmp_path / "prompt.h5ad", fixtures / "query.h5ad", tmp_path / "out.h5ad", model)


@pytest.mark.slow
def test_seed_page_command_line_runs_the_model_in_a_process_of_its_own(reference_flags, tmp_path, fixtures):
    command = [sys.executable, "-m", "inference.run_inference", *reference_flags]
    command += ["--diffusion-steps", "5", "--batch-size", "32", "--device", "cpu"]
    # libgomp says how it waits, if it is told to do so
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "verbose"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("GOMP_SPINCOUNT") == result.stderr.count("GOMP_SPINCOUNT = '0'")
    assert json.loads(result.stdout)["done"] == ["predictions"]
    assert "task 1 of 1: predictions (stack)" in result.stderr
    assert "step 5 of 5" in result.stderr
    found, query = ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_h5ad(fixtures / "query.h5ad")
    assert np.array_equal(found.X.data, np.rint(found.X.data))
    assert found.layers["expected"].shape == found.shape
    genes = set(json.loads((fixtures / "genelist.json").read_text()))
    shown = {gene.upper() for gene in ad.read_h5ad(fixtures / "prompt.h5ad").var_names}
    for index, gene in enumerate(found.var_names):
        assert found.var["padded"].iloc[index] == (gene.upper() not in genes & shown)
        if gene.upper() not in genes:
            assert np.array_equal(found.X[:, index].toarray(), query.X[:, index].toarray())
    assert found.obs.drop(columns="gen_logit").equals(query.obs)


@pytest.mark.slow
def test_expected_mode_reproduces_the_reference(reference_flags, tmp_path, fixtures, capsys):
    assert _run(capsys, *reference_flags, "--output-mode", "expected", "--seed", "0")[0] == 0
    found, want = _against(fixtures, tmp_path / "out.h5ad", "mdm_n5_seed0_MEAN_A")
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_exact_mode_reproduces_the_reference_bit_for_bit(reference_flags, tmp_path, fixtures, capsys):
    assert _run(capsys, *reference_flags, "--output-mode", "exact", "--batch-size", "2")[0] == 0
    found, want = _against(fixtures, tmp_path / "out.h5ad", "mdm_n5_seed0_sampled_A")
    assert np.array_equal(found, want)


@pytest.mark.slow
def test_manifest_of_model_and_baselines_runs_and_a_rerun_skips_until_the_model_changes(
    roles, model, tmp_path, capsys, small_config, make_tensors
):
    cells = {role: str(path) for role, path in roles.items()}
    tasks = tuple(
        Task(id=name, output=str(tmp_path / "out" / f"{name}.h5ad"), seed=seed, engine=engine, **cells)
        for name, engine, seed in (("treated", "stack", 1), ("again", "stack", 2), ("shift", "shift", 1))
    )
    manifest = Manifest(tasks=tasks, model=str(model[0]), genelist=str(model[1]), diffusion_steps=2, threads=1)
    path = tmp_path / "manifest.json"
    path.write_text(dump_manifest(manifest))
    assert _run(capsys, "--manifest", path)[1]["done"] == ["treated", "again", "shift"]
    found = ad.read_h5ad(tmp_path / "out" / "treated.h5ad")
    record = json.loads(found.uns["haystack_inference"])
    assert record["inputs"]["model"] == hashlib.sha256(model[0].read_bytes()).hexdigest()
    assert {"citation", "licence", "frac_model_genes_in_query"} <= set(record["model"])
    assert {"torch", "numpy"} <= set(record["versions"])
    assert found.var.index[found.var["padded"]].tolist() == ["GENE39"]
    assert "expected" not in ad.read_h5ad(tmp_path / "out" / "shift.h5ad").layers
    assert not np.array_equal(found.X.toarray(), ad.read_h5ad(tmp_path / "out" / "again.h5ad").X.toarray())
    assert _run(capsys, "--manifest", path)[1]["skipped"] == ["treated", "again", "shift"]
    save_safetensors(model[0], config=small_config, tensors=make_tensors(small_config, seed=5))
    assert _run(capsys, "--manifest", path)[1]["done"] == ["treated", "again"]


def test_same_command_gives_the_same_bytes_whatever_the_batch_size(roles, model, tmp_path, capsys):
    for name, size in (("one", 1), ("two", 32)):
        flags = _flags(roles["prompt"], roles["query"], tmp_path / f"{name}.h5ad", model)
        assert _run(capsys, *flags, "--batch-size", size, "--threads", 1)[0] == 0
    one, two = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("one", "two"))
    assert (one.X != two.X).nnz == 0
    assert one.obs.equals(two.obs)


def test_log_normalised_query_is_refused(roles, model, tmp_path, capsys, make_adata):
    adata = make_adata(3)
    adata.X.data = np.log1p(adata.X.data)
    adata.write_h5ad(roles["query"])
    code, summary = _run(capsys, *_flags(roles["prompt"], roles["query"], tmp_path / "o.h5ad", model))
    assert code == 2
    assert "looks log-normalised" in summary["failed"]["predictions"]["message"]


@pytest.mark.parametrize("which", [0, 1])
def test_model_that_cannot_be_read_is_bad_input_and_leaves_an_error_file(roles, model, tmp_path, capsys, which):
    model[which].write_bytes(model[which].read_bytes()[:50])
    code, summary = _run(capsys, *_flags(roles["prompt"], roles["query"], tmp_path / "o.h5ad", model))
    assert code == 2
    assert summary["failed"]["predictions"]["class"] == "ModelError"
    assert not (tmp_path / "o.h5ad").exists()
    assert str(model[which]) in json.loads((tmp_path / "o.h5ad.error.json").read_text())["message"]


def test_output_over_the_model_is_refused(roles, model, tmp_path, capsys):
    before = model[0].read_bytes()
    assert _run(capsys, *_flags(roles["prompt"], roles["query"], model[0], model))[0] == 2
    assert model[0].read_bytes() == before
