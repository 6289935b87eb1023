"""Seconds and peak memory of jobs of many tasks or many cells: ``inference.run_inference`` as a process of its own.

In: flags. Out: JSON lines on stdout. ``python tests/benchmarks/big_jobs.py --tasks 20 294 --engine weighted`` shows
whether memory grows with the number of tasks, ``--tasks 2 --query-cells 5000 --genes 15000`` what many cells take. Half
of the tasks have the prompt of the treated cells, half that of control cells, as a job of the kernel has. Processor
seconds are those to compare where other work shares the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from inference.manifest import DEMO_MODEL, DEMO_STEPS, Manifest, Task, dump_manifest

ROOT = Path(__file__).resolve().parents[2]
N_PROMPTS = 4  # different prompts; the tasks take them in turn


def write_cells(path, *, n_cells, genes, seed):
    """Cells of one type and three donors with the depth of a droplet experiment."""
    rng = np.random.default_rng(seed)
    rates = np.random.default_rng(0).gamma(0.3, 1.0, len(genes))
    blocks = [
        sparse.csr_matrix(rng.poisson(rates * rng.gamma(4, 0.25, (n, 1))).astype(np.float32))
        for n in [min(500, n_cells - start) for start in range(0, n_cells, 500)]
    ]
    obs = {"cell_type": ["T cell"] * n_cells, "donor_id": [f"d{i % 3}" for i in range(n_cells)]}
    obs = pd.DataFrame(obs, index=[f"c{i}" for i in range(n_cells)])
    ad.AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)


def gene_names(engine, n_genes):
    """Names; those of the packaged model come first, where the engine is one."""
    own = []
    if engine == "stack":
        from inference.models import packaged

        own = json.loads(packaged(DEMO_MODEL)[1].read_text())[:n_genes]
    return [*own, *(f"GENE{i}" for i in range(n_genes - len(own)))]


def write_job(folder, *, n_tasks, engine, n_query, n_prompt, n_genes, n_steps):
    """Files and a manifest."""
    genes, paths = gene_names(engine, n_genes), {}
    for seed, name in enumerate(["query", "control", *(f"prompt{i}" for i in range(N_PROMPTS))]):
        paths[name] = str(folder / f"{name}.h5ad")
        write_cells(paths[name], n_cells=n_query if name == "query" else n_prompt, genes=genes, seed=seed)
    tasks = []
    for number in range(n_tasks):
        prompt = paths["control"] if number % 2 else paths[f"prompt{number // 2 % N_PROMPTS}"]
        output = str(folder / "out" / f"{number}.h5ad")
        tasks.append(Task(f"t{number}", prompt, paths["query"], output, number, engine, control=paths["control"]))
    manifest = Manifest(tasks=tuple(tasks), model=DEMO_MODEL if engine == "stack" else None, diffusion_steps=n_steps)
    (folder / "manifest.json").write_text(dump_manifest(manifest))


def measure(folder, *, code):
    """Run the job; ``code`` is the checkout whose program runs."""
    start = time.perf_counter()
    words = [sys.executable, "-m", "inference.run_inference", "--manifest", str(folder / "manifest.json")]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    with subprocess.Popen(
        words, cwd=code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    done = json.loads(said)
    return {
        "code": process.returncode,
        "n_done": len(done["done"]),
        "wall_s": round(wall, 2),
        "processor_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gib": round(usage.ru_maxrss / 2**20, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--tasks", type=int, nargs="+", default=[20, 294])
    add("--engine", default="weighted")
    add("--query-cells", type=int, default=200)
    add("--prompt-cells", type=int, default=200)
    add("--genes", type=int, default=2000)
    add("--steps", type=int, default=DEMO_STEPS)
    add("--code", type=Path, nargs="+", default=[ROOT], help="checkouts to compare, in turn")
    add("--repeats", type=int, default=1)
    given = parser.parse_args()
    for n_tasks in given.tasks:
        for _ in range(given.repeats):
            for code in given.code:
                with tempfile.TemporaryDirectory() as name:
                    sizes = {"n_query": given.query_cells, "n_prompt": given.prompt_cells, "n_genes": given.genes}
                    write_job(Path(name), n_tasks=n_tasks, engine=given.engine, n_steps=given.steps, **sizes)
                    found = measure(Path(name), code=code.resolve())
                what = {"tasks": n_tasks, "engine": given.engine, **sizes}
                print(json.dumps({"checkout": code.name, **what, **found}), flush=True)


if __name__ == "__main__":
    main()
