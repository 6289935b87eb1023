"""A STACK model of random weights with cells to run it on, and the reference program in an environment of its own.

In: a folder. Out: paths of checkpoint, gene list, prompt and query; the reference's command.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

PUBLISHED = {
    "n_genes": 15_012,
    "n_hidden": 100,
    "token_dim": 16,
    "n_cells": 256,
    "n_layers": 9,
    "n_heads": 8,
    "mlp_ratio": 4,
}
SMALL = {**PUBLISHED, "n_genes": 2_000, "n_hidden": 24, "n_cells": 64, "n_layers": 3}
REFERENCE = ("torch==2.13.0", "arc-stack==0.1.3")
SPLIT = "cond"  # obs column of the prompt by which the reference's program tells prompts apart


@dataclass(frozen=True)
class Case:
    """Files of one prediction."""

    checkpoint: Path
    genelist: Path
    prompt: Path
    query: Path


def make_case(folder, *, sizes, n_prompt, n_query):
    """Write the files unless they are there."""
    model = folder / "model.ckpt"
    if not (folder / "query.h5ad").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_checkpoint(model, sizes)
    return make_cells(folder, sizes=sizes, n_prompt=n_prompt, n_query=n_query, model=model)


def make_cells(folder, *, sizes, n_prompt, n_query, model):
    """Write gene list, prompt and query unless they are there."""
    case = Case(model, *(folder / name for name in ("genes.json", "prompt.h5ad", "query.h5ad")))
    if case.query.exists():
        return case
    folder.mkdir(parents=True, exist_ok=True)
    genes = [f"GENE{i}" for i in range(sizes["n_genes"])]
    case.genelist.write_text(json.dumps(genes), encoding="utf-8")
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.3, 0.3 / 0.3, size=len(genes))
    for path, n_cells in ((case.prompt, n_prompt), (case.query, n_query)):
        counts = rng.poisson(rate * rng.gamma(4, 0.25, size=(n_cells, 1)))
        obs = pd.DataFrame({SPLIT: "treated", "cell_type": "B cell", "donor": "d"}, index=map(str, range(n_cells)))
        var = pd.DataFrame(index=genes)
        ad.AnnData(csr_matrix(counts.astype(np.float32)), obs=obs, var=var).write_h5ad(path)
    return case


def find_reference(cache):
    """Path of the reference's program; installs it into ``cache`` on first use."""
    program = cache / "bin" / "stack-generation"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", cache], check=True)
        for package in REFERENCE:
            subprocess.run([cache / "bin" / "pip", "install", "--quiet", package], check=True)
    return program


def _write_checkpoint(path, sizes):
    """Random weights of the usual scale, biases of 0, norms of 1; half of the cells get a logit above 0."""
    import torch

    from inference.stack.config import parse_config, tensor_shapes

    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, shape in tensor_shapes(parse_config(sizes, name="benchmark")).items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            tensors[name] = torch.ones(shape)
        elif name.endswith("bias"):
            tensors[name] = torch.zeros(shape)
        else:
            tensors[name] = values * (0.02 if "embedding" in name else shape[-1] ** -0.5)
    state = {f"model.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"hyper_parameters": {"model_config": {**sizes, "dropout": 0.1}}, "state_dict": state}, path)
