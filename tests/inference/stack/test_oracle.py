"""Parity with an installed reference, only where STACK_ORACLE names the Python of its environment."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from dataclasses import asdict
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

torch = pytest.importorskip("torch")

from inference.model import main
from inference.stack.config import GenerationSettings, StackConfig
from inference.stack.layout import choose_layout, context_schedule

ORACLE = os.environ.get("STACK_ORACLE")
pytestmark = pytest.mark.skipif(not ORACLE, reason="STACK_ORACLE names no Python with the reference installed")

N_PROMPT, N_QUERY = 90, 150
DEFAULTS = {"window": 64, "prompt-ratio": 0.25, "context-ratio": 0.4, "context-ratio-min": 0.2, "num-steps": 5}
DEFAULTS |= {"mode": "mdm", "batch-size": 2, "random-seed": 3}
GRID = (
    {},
    {"prompt-ratio": 0.1, "context-ratio": 0.6, "context-ratio-min": 0.3},
    {"prompt-ratio": 0.1, "context-ratio": 0.6, "context-ratio-min": 0.3, "window": 128, "num-steps": 10},
    {"prompt-ratio": 0.0, "context-ratio": 0.6, "context-ratio-min": 0.1, "num-steps": 6},
    {"prompt-ratio": 0.35, "context-ratio": 0.4, "context-ratio-min": 0.4, "num-steps": 4},
    {"prompt-ratio": 0.05, "context-ratio": 0.5, "context-ratio-min": 0.1, "num-steps": 1, "window": 100},
    {"prompt-ratio": 0.15, "context-ratio": 0.2, "context-ratio-min": 0.1, "num-steps": 6, "window": 100},
    {"prompt-ratio": 0.3, "context-ratio": 0.6, "mode": "vanilla", "window": 100, "num-steps": 2},
    {"prompt-ratio": 0.5, "context-ratio": 0.3, "context-ratio-min": 0.05, "num-steps": 3, "window": 32},
    {"window": 32, "num-steps": 2, "batch-size": 7},
    {"window": 16, "num-steps": 3, "batch-size": 32, "random-seed": 11},
)


@pytest.fixture
def case(make_tensors, tmp_path):
    """Writes a random architecture with gene list, prompt and query cells; returns the counts."""

    def make(seed, window):
        rng = np.random.default_rng(seed)
        n_heads = int(rng.choice([2, 4, 8]))
        config = StackConfig(
            n_genes=int(rng.integers(50, 300)),
            n_hidden=n_heads * int(rng.integers(2, 5)),
            token_dim=int(rng.choice([4, 8, 16])),
            n_cells=window,
            n_layers=int(rng.integers(1, 4)),
            n_heads=n_heads,
            mlp_ratio=4,
        )
        state = {f"model.{name}": tensor for name, tensor in make_tensors(config, seed=seed).items()}
        sizes = {"model_config": {**asdict(config), "dropout": 0.1}}
        torch.save({"hyper_parameters": sizes, "state_dict": state}, tmp_path / "m.ckpt")
        genes = [f"GENE{i}" for i in range(config.n_genes)]
        (tmp_path / "genes.pkl").write_bytes(pickle.dumps([np.str_(gene) for gene in genes]))
        for name, n_cells in (("prompt", N_PROMPT), ("query", N_QUERY)):
            counts = sparse.csr_matrix(rng.poisson(1.0, (n_cells, config.n_genes)).astype(np.float32))
            obs = pd.DataFrame({"cond": "a"}, index=pd.Index(map(str, range(n_cells)), name="barcode"))
            var = pd.DataFrame({"symbol": genes}, index=pd.Index([f"ID{i}" for i in range(len(genes))], name="id"))
            ad.AnnData(counts, obs=obs, var=var).write_h5ad(tmp_path / f"{name}.h5ad")

    return make


def _compare(folder, asked, *more):
    """Run both programs; counts and names must be equal, logits nearly so."""
    flags = {name: value for name, value in (DEFAULTS | asked).items() if name != "window"}
    files = {"checkpoint": "m.ckpt", "base-adata": "prompt.h5ad", "test-adata": "query.h5ad", "genelist": "genes.pkl"}
    words = [word for name, file in files.items() for word in (f"--{name}", str(folder / file))]
    words += [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    words += ["--split-column", "cond", "--gene-name-col", "symbol", "--device", "cpu", *more]
    theirs = [Path(ORACLE).parent / "stack-generation", *words, "--num-workers", "0", "--output-dir", folder / "theirs"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    subprocess.run(theirs, env=environment, check=True, capture_output=True)
    ours = ["generate", *words, "--output-mode", "exact", "--threads", "1", "--output-dir", str(folder / "ours")]
    assert main(ours) == 0
    found, want = (ad.read_h5ad(folder / which / "a.h5ad") for which in ("ours", "theirs"))
    assert np.array_equal(_dense(found.X), _dense(want.X))
    logits = found.obs.pop("gen_logit")
    if "gen_logit" in want.obs:  # not in mode vanilla
        np.testing.assert_allclose(logits, want.obs.pop("gen_logit"), atol=1e-4)
    pd.testing.assert_frame_equal(found.obs, want.obs)
    pd.testing.assert_frame_equal(found.var[["symbol"]].astype(str), want.var[["symbol"]].astype(str))


def _dense(matrix):
    return matrix.toarray() if sparse.issparse(matrix) else matrix


@pytest.mark.parametrize(("seed", "asked"), list(enumerate(GRID)), ids=[str(number) for number in range(len(GRID))])
def test_any_setting_and_architecture_gives_the_references_output(case, tmp_path, seed, asked):
    case(seed, (DEFAULTS | asked)["window"])
    _compare(tmp_path, asked)


def test_counts_in_raw_are_taken_as_the_reference_takes_them(case, tmp_path):
    """X holds every second gene of the prompt, and other whole numbers than raw in the query."""
    case(0, 64)
    for name, change in (("prompt", lambda cells: cells[:, ::2].copy()), ("query", lambda cells: cells.copy())):
        whole = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        cells = change(whole)
        if name == "query":
            cells.X = sparse.csr_matrix(np.maximum(whole.X.toarray() - 1, 0))
        cells.raw = whole
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    _compare(tmp_path, {})


def test_windows_are_divided_as_the_reference_divides_them(make_tensors, tmp_path):
    """Settings drawn anew, beside those of ``reference_layouts.json``."""
    rng = np.random.default_rng(0)
    genes = [f"GENE{i}" for i in range(6)]
    (tmp_path / "genes.pkl").write_bytes(pickle.dumps(genes))
    settings = []
    for window in (16, 100, 256):
        config = StackConfig(6, 2, 2, window, 1, 2, 2)
        state = {f"model.{name}": tensor for name, tensor in make_tensors(config).items()}
        sizes = {"model_config": {**asdict(config), "dropout": 0.1}}
        torch.save({"hyper_parameters": sizes, "state_dict": state}, tmp_path / f"{window}.ckpt")
        _write(tmp_path / f"{window}.h5ad", rng.poisson(2.0, (window, 6)), genes)
        for mode in ("mdm", "mdm", "mdm", "vanilla"):
            prompt, least = (round(float(rng.uniform(0.05, 0.4)), 2) for _ in range(2))
            context = round(float(rng.uniform(least, 0.59)), 2)
            settings.append([window, prompt, context, least, int(rng.integers(1, 8)), mode])
    _write(tmp_path / "prompt.h5ad", 1000 + rng.poisson(2.0, (40, 6)), genes)
    recorder, program = Path(__file__).with_name("record_layouts.py"), Path(ORACLE).parent / "stack-generation"
    command = [ORACLE, recorder, program, json.dumps(settings), tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    recorded = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [row[:-1] for row in recorded] == settings
    for window, prompt, context, least, steps, mode, want in recorded:
        asked = GenerationSettings(diffusion_steps=steps, context_ratio=context, context_ratio_min=least, mode=mode)
        found = [choose_layout(window, prompt_ratio=prompt, context_ratio=share) for share in context_schedule(asked)]
        assert want
        assert [[one.n_base, one.n_ctx, one.n_keep] for one in found[: len(want)]] == want


def _write(path, counts, genes):
    obs = pd.DataFrame({"cond": "a"}, index=[str(i) for i in range(len(counts))])
    ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
