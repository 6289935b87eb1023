from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

torch = pytest.importorskip("torch")

from inference.baselines import Cells
from inference.engines import Engines
from inference.errors import EngineError, InputError, ModelError
from inference.manifest import Manifest
from inference.stack.checkpoint import save_safetensors
from inference.stack.config import CITATION, LICENCE, GenerationSettings
from inference.stack.engine import Source, load_engine, warn_of_faults
from inference.stack.genes import digest_genes
from inference.stack.model import StackModel
from inference.stack.ops import why_plain
from inference.stack.ops_native import load_native
from inference.stack.ops_torch import TorchOps

GENES = tuple(f"GENE{i}" for i in range(40))


def _cells(genes, n, seed):
    counts = sparse.csr_matrix(np.random.default_rng(seed).poisson(4.0, (n, len(genes))).astype(np.float32))
    return Cells(counts, tuple(genes), np.full(n, "a"), np.full(n, "d"))


@pytest.fixture
def files(tmp_path, small_config, make_tensors):
    save_safetensors(tmp_path / "m.safetensors", config=small_config, tensors=make_tensors(small_config))
    (tmp_path / "genes.json").write_text(json.dumps(GENES))
    return [Source(tmp_path / name, name, "ab") for name in ("m.safetensors", "genes.json")]


def _load(files, *, device="cpu", threads=None, **changes):
    return load_engine(*files, settings=replace(GenerationSettings(), **changes), device=device, threads=threads)


def test_prediction_is_over_the_querys_own_genes_in_their_order(files):
    """GENE7 is missing in the prompt, OTHER in the model, gene3 is spelled its own way, and the order is another."""
    prompt = _cells([gene for gene in GENES if gene != "GENE7"], 9, 1)
    names = ["OTHER", "GENE7", *(gene for gene in reversed(GENES[:30]) if gene not in {"GENE7", "GENE3"}), "gene3"]
    query = _cells(names, 11, 2)
    found = _load(files)(prompt=prompt, control=None, query=query, seed=3)
    whole = _load(files)
    model_query = np.zeros((11, 40), np.float32)
    for column, name in enumerate(names[1:], start=1):
        model_query[:, GENES.index(name.upper())] = query.counts[:, column].toarray()[:, 0]
    model_prompt = np.insert(prompt.counts.toarray(), 7, 0, axis=1)
    direct = whole(
        prompt=replace(prompt, counts=sparse.csr_matrix(model_prompt), genes=GENES),
        control=None,
        query=replace(query, counts=sparse.csr_matrix(model_query), genes=GENES),
        seed=3,
    )
    order = [GENES.index(name.upper()) for name in names[1:]]
    assert np.array_equal(found.counts.toarray()[:, 1:], direct.counts.toarray()[:, order])
    assert np.array_equal(found.expected[:, 1:], direct.expected[:, order])
    assert np.array_equal(found.counts.toarray()[:, 0], query.counts.toarray()[:, 0])
    assert np.array_equal(found.expected[:, 0], query.counts.toarray()[:, 0])
    assert found.changeable.tolist() == [False, False] + [True] * 29
    assert found.counts.dtype == np.float32
    assert "1 of the query's 31 genes are unknown to the model" in "; ".join(found.notes)
    assert "1 of the predicted genes are missing in the prompt" in "; ".join(found.notes)
    assert found.record["model"]["frac_model_genes_in_query"] == 30 / 40


@pytest.mark.parametrize("output_mode", ["sampled", "expected", "exact"])
def test_record_names_model_settings_and_what_to_cite(files, output_mode):
    engine = _load(files, output_mode=output_mode)
    found = engine(prompt=_cells(GENES, 5, 1), control=None, query=_cells(GENES, 4, 2), seed=0)
    record = json.loads(json.dumps(found.record))["model"]
    assert (record["citation"], record["licence"], record["sha256"]) == (CITATION, LICENCE, "ab")
    assert "10.64898/2026.01.09.698608" in CITATION
    assert record["settings"]["output_mode"] == output_mode
    slow = why_plain(torch.device("cpu"))
    kernels = "torch" if slow else load_native().name
    assert record["kernels"].split(";")[0] == ("reference" if output_mode == "exact" else kernels)
    assert slow is None or output_mode == "exact" or slow in record["kernels"]
    assert f"computed on cpu in fp32, kernels: {record['kernels']}" in found.notes
    assert found.logits.shape == (4,)
    assert found.expected.shape == (4, 40)
    is_whole = np.array_equal(found.counts.data, np.rint(found.counts.data))
    assert is_whole == (output_mode != "expected")
    library = found.expected.sum(1, dtype=float, keepdims=True)
    of_means = np.log1p(1e4 * found.expected / library).mean(0)
    if output_mode == "sampled":  # the mean of a concave function lies below the function of the mean
        assert (found.expected_log < of_means).all()
    else:
        np.testing.assert_allclose(found.expected_log, of_means, rtol=1e-6)


def test_expected_log_is_what_drawn_counts_average_to(files):
    """1,200 copies of one cell are 1,200 draws; between them only the neighbours in a window differ."""
    prompt, one = _cells(GENES, 1, 1), _cells(GENES, 1, 2)
    query = Cells(sparse.vstack([one.counts] * 1200, format="csr"), GENES, np.full(1200, "a"), np.full(1200, "d"))
    found = _load(files, mode="vanilla", diffusion_steps=1)(prompt=prompt, control=None, query=query, seed=0)
    library = found.expected.sum(1, dtype=float, keepdims=True)
    logs = np.log1p(1e4 * found.counts.toarray() / library)
    error = logs.std(0) / np.sqrt(len(logs))
    assert (np.abs(logs.mean(0) - found.expected_log) < 4.5 * error + 1e-3).all()
    of_means = np.log1p(1e4 * found.expected / library).mean(0)
    assert (np.abs(logs.mean(0) - of_means) > 4.5 * error + 1e-3).any()  # the test can tell the two apart


def test_sampled_counts_scatter_about_their_expectation(files):
    found = _load(files, mode="vanilla", diffusion_steps=1)(
        prompt=_cells(GENES, 30, 1), control=None, query=_cells(GENES, 400, 2), seed=0
    )
    assert abs(found.counts.sum() / found.expected.sum() - 1) < 0.05
    np.testing.assert_allclose(found.expected.sum(1), _cells(GENES, 400, 2).counts.sum(1).A1, rtol=1e-4)


@pytest.mark.parametrize("role", ["prompt", "query"])
def test_cells_of_other_genes_are_refused(files, role):
    cells = {"prompt": _cells(GENES, 5, 1), "query": _cells(GENES, 5, 2)}
    cells[role] = _cells(["ENSG1", "ENSG2"], 5, 1)
    with pytest.raises(InputError, match=f"{role} cells' 2 genes.*0 % coverage"):
        _load(files)(**cells, control=None, seed=0)


def test_gene_list_of_another_model_is_refused(files):
    files[1].path.write_text(json.dumps(GENES[:39]))
    with pytest.raises(ModelError, match=r"genes.json names 39 genes, the model m.safetensors has 40"):
        _load(files)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_that_is_not_there_is_refused(files):
    with pytest.raises(EngineError, match=r"device 'cuda:1' is not available: torch sees 0 GPUs and was built for"):
        _load(files, device="cuda:1")
    assert _load(files, device="auto").checkpoint.model.device.type == "cpu"


def test_kernels_that_cannot_be_used_are_warned_of(small_config, make_tensors):
    ops = TorchOps()
    ops.faults = ["draws: torch, because our kernel failed: CompilationError: no ptxas"]
    with pytest.warns(RuntimeWarning, match=r"on cpu more slowly than it could: draws: torch, .*no ptxas"):
        warn_of_faults(StackModel(small_config, make_tensors(small_config), ops=ops))
    warn_of_faults(StackModel(small_config, make_tensors(small_config)))  # warnings are errors here


def test_threads_are_set(files):
    before = torch.get_num_threads()
    try:
        _load(files, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_model_is_read_once_for_all_tasks(files, tmp_path):
    manifest = Manifest(tasks=(), model=str(files[0].path), genelist=str(files[1].path))
    engines = Engines(manifest, folder=tmp_path)
    first = engines.find("stack")
    files[0].path.unlink()
    assert engines.find("stack") is first
    assert set(engines.digests("stack")) == {"model", "genelist", "settings"}
    assert set(engines.versions("stack")) == {"torch", "safetensors"}


def test_gene_list_other_than_the_one_noted_in_the_model_is_refused(files, small_config, make_tensors):
    noted = {"genes_sha256": digest_genes(GENES)}
    save_safetensors(files[0].path, config=small_config, tensors=make_tensors(small_config), metadata=noted)
    assert len(_load(files).genes) == 40
    files[1].path.write_text(json.dumps(GENES[::-1]))
    with pytest.raises(ModelError, match=r"genes.json names 40 genes as the model .* in another order"):
        _load(files)
