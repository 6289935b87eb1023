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

from inference.run_inference import main
from inference.stack.config import StackConfig

ORACLE = os.environ.get("STACK_ORACLE")
pytestmark = pytest.mark.skipif(not ORACLE, reason="STACK_ORACLE names no Python with the reference installed")


@pytest.mark.parametrize("seed", range(3))
def test_random_architecture_gives_the_references_counts(make_tensors, tmp_path, capsys, seed):
    rng = np.random.default_rng(seed)
    n_heads = int(rng.choice([2, 4, 8]))
    config = StackConfig(
        n_genes=int(rng.integers(50, 300)),
        n_hidden=n_heads * int(rng.integers(2, 5)),
        token_dim=int(rng.choice([4, 8, 16])),
        n_cells=int(rng.choice([32, 64])),
        n_layers=int(rng.integers(1, 4)),
        n_heads=n_heads,
        mlp_ratio=4,
    )
    state = {f"model.{name}": tensor for name, tensor in make_tensors(config, seed=seed).items()}
    checkpoint = tmp_path / "m.ckpt"
    torch.save(
        {"hyper_parameters": {"model_config": {**asdict(config), "dropout": 0.1}}, "state_dict": state}, checkpoint
    )
    genes = [f"GENE{i}" for i in range(config.n_genes)]
    (tmp_path / "genes.json").write_text(json.dumps(genes))
    (tmp_path / "genes.pkl").write_bytes(pickle.dumps(genes))
    for name, n_cells in (("prompt", 70), ("query", 50)):
        counts = sparse.csr_matrix(rng.poisson(1.0, (n_cells, config.n_genes)).astype(np.float32))
        obs = pd.DataFrame({"cond": "a"}, index=[str(i) for i in range(n_cells)])
        ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(tmp_path / f"{name}.h5ad")
    program = Path(ORACLE).parent / "stack-generation"
    theirs = "--checkpoint m.ckpt --base-adata prompt.h5ad --test-adata query.h5ad --genelist genes.pkl --output-dir o "
    theirs += "--split-column cond --num-steps 2 --mode mdm --batch-size 2 --num-workers 0 --random-seed 3 "
    theirs += "--device cpu --prompt-ratio 0.25 --context-ratio 0.4 --context-ratio-min 0.2"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    subprocess.run([program, *theirs.split()], cwd=tmp_path, env=environment, check=True, capture_output=True)
    files = {"prompt": "prompt.h5ad", "query": "query.h5ad", "model": "m.ckpt", "genelist": "genes.json"}
    flags = [word for role, name in files.items() for word in (f"--{role}-gcs", str(tmp_path / name))]
    flags += ["--output-gcs", str(tmp_path / "ours.h5ad"), "--seed", "3", "--diffusion-steps", "2", "--batch-size", "2"]
    assert main([*flags, "--output-mode", "exact", "--threads", "1", "--device", "cpu"]) == 0
    capsys.readouterr()
    ours, reference = ad.read_h5ad(tmp_path / "ours.h5ad"), ad.read_h5ad(tmp_path / "o" / "a.h5ad")
    np.testing.assert_allclose(ours.obs["gen_logit"], reference.obs["gen_logit"], atol=1e-4)
    want = reference.X.toarray() if sparse.issparse(reference.X) else reference.X
    assert np.array_equal(ours.X.toarray(), want)
