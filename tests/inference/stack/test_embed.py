from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

torch = pytest.importorskip("torch")

from inference.errors import ModelError
from inference.run_inference import main
from inference.stack.batches import Batches
from inference.stack.checkpoint import save_safetensors
from inference.stack.embed import embed_cells
from inference.stack.model import StackModel


def _counts(n, seed=0):
    return sparse.csr_matrix(np.random.default_rng(seed).poisson(3.0, (n, 40)).astype(np.float32))


def test_embedding_equals_the_references(tiny_model, aligned, fixtures):
    found = embed_cells(tiny_model, sparse.csr_matrix(aligned["query"]), batches=Batches(32, unit="windows"))
    with np.load(fixtures / "embedding_query.npz") as want:
        np.testing.assert_allclose(found, want["Z"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 32, 50])
def test_whole_windows_stand_alone_and_the_last_one_is_filled_from_itself(small_model, n):
    counts = _counts(n)
    found = embed_cells(small_model, counts, batches=Batches(1, unit="windows"))
    assert found.shape == (n, 24)
    for start in range(0, n, 16):
        own = np.arange(start, min(start + 16, n))
        fill = np.random.RandomState(42).choice(own.size, 16 - own.size, replace=True) if own.size < 16 else []
        rows = np.concatenate([own, own[np.array(fill, dtype=int)]])
        window = torch.from_numpy(counts[rows].toarray())[None]
        alone = small_model.embed(window, n_ctx=16, n_keep=0).flatten(2)[0, : own.size].numpy()
        np.testing.assert_allclose(found[own], alone, rtol=1e-6)


def test_batch_size_changes_nothing(small_model):
    one, many = (embed_cells(small_model, _counts(50), batches=Batches(size, unit="windows")) for size in (1, 7))
    assert np.array_equal(one, many)


def test_damaged_weights_are_said_to_be(small_config, make_tensors):
    tensors = make_tensors(small_config)
    tensors["gene_reduction.0.bias"][0] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        embed_cells(StackModel(small_config, tensors), _counts(3), batches=Batches(1, unit="windows"))


@pytest.fixture
def flags(roles, tmp_path, small_config, make_tensors):
    save_safetensors(tmp_path / "m.safetensors", config=small_config, tensors=make_tensors(small_config))
    (tmp_path / "genes.json").write_text(json.dumps([*(f"GENE{i}" for i in range(1, 40)), "MORE"]))
    named = {"query": roles["query"], "output": tmp_path / "out.h5ad"}
    named |= {"model": tmp_path / "m.safetensors", "genelist": tmp_path / "genes.json"}
    return ["--embed", *(str(item) for name, path in named.items() for item in (f"--{name}-gcs", path))]


def _run(capsys, *arguments):
    code = main(list(arguments))
    return code, json.loads(capsys.readouterr().out)


def test_program_writes_vectors_beside_the_querys_own_counts(flags, roles, tmp_path, capsys):
    assert _run(capsys, *flags)[1]["done"] == ["predictions"]
    assert _run(capsys, *flags, "--batch-size", "3", "--output-mode", "exact")[1]["skipped"] == ["predictions"]
    found, query = ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_h5ad(roles["query"])
    assert found.obsm["X_stack"].shape == (20, 24)
    assert found.obsm["X_stack"].dtype == np.float32
    assert np.array_equal(found.X.toarray(), query.X.toarray())
    assert found.obs.equals(query.obs)
    assert found.var.index[~found.var["model_gene"]].tolist() == ["GENE0"]
    record = json.loads(found.uns["haystack_inference"])
    assert record["kind"] == "embed"
    assert record["model"]["frac_model_genes_in_query"] == 39 / 40
    assert f"computed on cpu in fp32, kernels: {record['model']['kernels']}" in record["notes"]
    assert {"citation", "licence", "sha256", "genelist_sha256"} <= set(record["model"])
    result = json.loads((tmp_path / "out.h5ad.result.json").read_text())
    assert (result["kind"], result["n_cells"], result["frac_genes_found"]) == ("embed", 20, 39 / 40)


def test_prompt_or_another_engine_beside_embed_is_a_usage_error(flags, roles, capsys):
    code, summary = _run(capsys, *flags, "--prompt-gcs", str(roles["prompt"]))
    assert code == 2
    assert "reads the query cells alone" in summary["failed"]["start"]["message"]
    code, summary = _run(capsys, *flags, "--engine", "weighted")
    assert code == 2
    assert "has no embedding" in summary["failed"]["start"]["message"]
