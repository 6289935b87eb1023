"""What reading the next task's inputs ahead saves when the source is slow.

In: number of tasks, seconds by which every download is late, query cells. Out: one JSON line: seconds of one process
over all tasks, with and without reading ahead (the least of some repeats), and of the same tasks from local files.

    python tests/benchmarks/read_ahead.py --tasks 6 --delay 2
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from scipy import sparse

from inference.manifest import Manifest, Task, dump_manifest
from inference.stack.checkpoint import save_safetensors
from inference.stack.config import StackConfig, tensor_shapes

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "read-ahead-bench"
CONFIG = StackConfig(n_genes=500, n_hidden=32, token_dim=8, n_cells=64, n_layers=3, n_heads=8, mlp_ratio=4)
WITHOUT = """
import sys, inference.ahead, inference.run_inference
inference.ahead.Ahead.begin = lambda *_: None
sys.exit(inference.run_inference.main())
"""
UPLOAD = """
import pathlib, sys, inference.files
for path in map(pathlib.Path, sys.argv[2:]):
    inference.files.publish(path, sys.argv[1] + path.name)
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make(folder, asked)
        rounds = range(asked.repeats)  # in turn: what else the machine does hits both ways alike
        local = run(folder, manifest, os.environ, ["-m", "inference.run_inference"])
        with load_server().storage_server(BUCKET, delay_s=asked.delay) as address:
            environment = {**os.environ, "STORAGE_EMULATOR_HOST": address}
            away = upload(folder, manifest, environment)
            ways = {"read_ahead_s": ["-m", "inference.run_inference"], "one_after_the_other_s": ["-c", WITHOUT]}
            found = [{way: run(folder, away, environment, program) for way, program in ways.items()} for _ in rounds]
    facts = {"tasks": asked.tasks, "files_per_task": 2, "delay_s": asked.delay, "cells": asked.cells}
    least = {way: min(one[way] for one in found) for way in ways}
    print(json.dumps(facts | {"local_s": local, "repeats": asked.repeats, **least}))


def make(folder, asked):
    """Model and inputs as local files."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for key, shape in tensor_shapes(CONFIG).items()
    }
    save_safetensors(folder / "m.safetensors", config=CONFIG, tensors=tensors)
    genes = [f"GENE{i}" for i in range(CONFIG.n_genes)]
    (folder / "genes.json").write_text(json.dumps(genes))
    tasks = []
    for number in range(asked.tasks):
        for role in ("prompt", "query"):
            counts = np.random.default_rng([number, len(role)]).poisson(1.0, (asked.cells, CONFIG.n_genes))
            cells = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
            cells.var_names = genes
            cells.write_h5ad(folder / f"{role}{number}.h5ad")
        task = Task(
            str(number), str(folder / f"prompt{number}.h5ad"), str(folder / f"query{number}.h5ad"), "", 0, "stack"
        )
        tasks.append(task)
    model, genelist = str(folder / "m.safetensors"), str(folder / "genes.json")
    return Manifest(tasks=tuple(tasks), model=model, genelist=genelist, threads=1)


def upload(folder, manifest, environment):
    """The same inputs in the bucket."""
    paths = sorted(str(path) for path in folder.glob("[pq]*.h5ad"))
    subprocess.run([sys.executable, "-c", UPLOAD, f"gs://{BUCKET}/", *paths], cwd=ROOT, env=environment, check=True)
    at = {path: f"gs://{BUCKET}/{Path(path).name}" for path in paths}
    return replace(manifest, tasks=tuple(replace(t, prompt=at[t.prompt], query=at[t.query]) for t in manifest.tasks))


def run(folder, manifest, environment, program):
    """Seconds that the program itself reports."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        tasks = tuple(replace(task, output=f"{out}/{task.id}.h5ad") for task in manifest.tasks)
        path = Path(out) / "manifest.json"
        path.write_text(dump_manifest(replace(manifest, tasks=tasks)))
        command = [sys.executable, *program, "--manifest", str(path)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout)["seconds"]


def load_server():
    """The test suite's local storage service."""
    spec = importlib.util.spec_from_file_location("storage_server", ROOT / "tests" / "servers" / "storage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
