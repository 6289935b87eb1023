"""A worked example of an image's program that is no package: it reads the manifest of a job and leaves its predictions.

Nothing of HAYSTACK is imported. Its own engine, `half_shift`, is half of the change that the prompt shows; HAYSTACK's
simple engines, which every report compares with, it leaves to the inference program of the image it was made from.
Tasks that another attempt of the job has finished are skipped. Addresses may be local paths or gs://.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import fsspec
import numpy as np
from scipy import sparse

ENGINE = "half_shift"


def read(address):
    """Bytes of a file."""
    with fsspec.open(address, "rb") as file:
        return file.read()


def write(address, data):
    """Put a file where others see it whole: a local path is renamed, an object of a bucket appears at the end."""
    if "://" in address:
        with fsspec.open(address, "wb") as file:
            file.write(data)
        return
    Path(address).parent.mkdir(parents=True, exist_ok=True)
    Path(f"{address}.part").write_bytes(data)
    Path(f"{address}.part").replace(address)


def is_done(task):
    """Whether the output is there with the digest that its result file states."""
    try:
        stated = json.loads(read(task["output"] + ".result.json"))["sha256"]
        return hashlib.sha256(read(task["output"])).hexdigest() == stated
    except FileNotFoundError:
        return False


def draw(counts, seed):
    """Draw cells with replacement, as a task with ``resample`` asks for, to tell how sure the prediction is."""
    return counts[np.random.default_rng(seed).integers(counts.shape[0], size=counts.shape[0])]


def predict(task):
    """The query cells with each gene's counts scaled by the root of its change between control and prompt."""
    roles = {name: ad.read_h5ad(io.BytesIO(read(task[name]))) for name in ("prompt", "control", "query") if task[name]}
    query, share = roles["query"], {}
    for name in ("prompt", "control"):
        cells = roles.get(name, query)
        counts = cells[:, query.var_names].X.tocsr()
        counts = draw(counts, task["seed"]) if task["resample"] and name == "prompt" else counts
        share[name] = np.asarray(counts.mean(axis=0)).ravel() / counts.sum() * counts.shape[0] + 1e-6
    factor = np.sqrt(share["prompt"] / share["control"])
    rates = sparse.csr_matrix(query.X.multiply(factor))
    rates.data = np.floor(rates.data + np.random.default_rng(task["seed"]).random(rates.nnz))
    rates.eliminate_zeros()
    return ad.AnnData(sparse.csr_matrix(rates, dtype=np.float32), obs=query.obs, var=query.var[[]])


def leave(task, answer, began):
    """The output, and after it the result file, which says that the output is whole."""
    with tempfile.TemporaryDirectory() as folder:
        answer.write_h5ad(path := Path(folder) / "answer.h5ad")
        data = path.read_bytes()
    write(task["output"], data)
    result = {
        "id": task["id"],
        "engine": task["engine"],
        "output": task["output"],
        "sha256": hashlib.sha256(data).hexdigest(),
        "n_cells": answer.n_obs,
        "n_genes": answer.n_vars,
        "seconds": time.monotonic() - began,
        "frac_genes_found": 1.0,
        "peak_memory_gib": 0.0,
        "seed": task["seed"],
    }
    write(task["output"] + ".result.json", json.dumps(result).encode())


def main(address):
    """All tasks of this machine; returns the exit code: 0 done, 1 a task failed."""
    manifest = json.loads(read(address))
    index, count = (int(os.environ.get(name, own)) for name, own in (("BATCH_TASK_INDEX", 0), ("BATCH_TASK_COUNT", 1)))
    tasks = manifest["tasks"][index::count]
    for task in tasks:
        if task["engine"] == ENGINE and not is_done(task):
            began = time.monotonic()
            leave(task, predict(task), began)
            print(f"task {task['id']}: done", flush=True)
    others = [task for task in tasks if task["engine"] != ENGINE]
    if not others:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "manifest.json"
        part.write_text(json.dumps({**manifest, "tasks": others}))
        alone = {**os.environ, "BATCH_TASK_INDEX": "0", "BATCH_TASK_COUNT": "1"}
        command = [sys.executable, "-m", "inference.run_inference", "--manifest", str(part)]
        return subprocess.run(command, env=alone, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[sys.argv.index("--manifest") + 1]))
