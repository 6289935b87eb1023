"""The benchmark: every row ours beside its reference, in one run on this machine.

In: ids of rows (none: all), FULL=1 in the environment for the full sizes. Out: ``bench.json`` (one object per row) and
a Markdown table on stdout. Absolute times hold for one machine; the ratio is the claim. Nothing here is asserted by the
test suite.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import psutil
from scipy.sparse import csr_matrix

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
import atlas_fetch
import explorer
import infer
import jobs
import workers
from atlas_index import atlas_build, atlas_question, atlas_search
from labels import resolve_labels

FULL = os.environ.get("FULL") == "1"
BIN = Path(sys.executable).parent


def seconds_of(work, *, repeats=3):
    """Shortest wall time of ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_of(*words):
    """Wall seconds of a command, and the most memory (GiB, resident) that it and its children held at once."""
    start, peak = time.perf_counter(), 0
    process = psutil.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(one.memory_info().rss for one in family))
        time.sleep(0.05)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return time.perf_counter() - start, peak / 2**30


def command(*words, cwd=None):
    """A call that runs a command quietly and fails loudly."""
    return lambda: subprocess.run([str(word) for word in words], check=True, capture_output=True, cwd=cwd)


def counts(n_cells, n_genes, *, rng, rate=0.06):
    """Sparse counts with about Kang's density."""
    dense = rng.poisson(rng.gamma(0.4, rate / 0.4, size=n_genes), size=(n_cells, n_genes))
    return csr_matrix(dense.astype(np.float32))


def run_import(folder):
    """Importing the package and --help, against papermill --help."""
    ours = seconds_of(command(sys.executable, "-c", "import haystack_kernel"))
    shown = seconds_of(command(BIN / "haystack", "--help"))
    reference = seconds_of(command(BIN / "papermill", "--help"))
    worst = max(ours, shown)
    return {
        "work": "import haystack_kernel; haystack --help",
        "ours": {"import_s": ours, "help_s": shown},
        "reference": {"papermill_help_s": reference},
        "ratio": reference / worst,
        "goal": "<= 0.5 s each",
        "met": worst <= 0.5,
    }


def run_demo(folder):
    """The demonstration question, whole process, demo atlas made before (as after set-up) and not."""
    cold, first_peak = peak_of(BIN / "haystack", "demo", "--storage", folder / "cold")
    warm, second_peak = peak_of(BIN / "haystack", "demo", "--storage", folder / "warm")
    peak = max(first_peak, second_peak)
    return {
        "work": "haystack demo, first run (makes the demo atlas) and second run",
        "ours": {"first_s": cold, "second_s": warm, "peak_gib": peak},
        "reference": None,
        "ratio": None,
        "goal": "<= 60 s, peak <= 3 GB",
        "met": max(cold, warm) <= 60 and peak <= 3,
    }


def run_report(folder):
    """Rendering the report of the demonstration run, against nbconvert's default page of the same notebook."""
    run_folder = next((folder / "warm" / "runs").iterdir())
    os.environ["HAYSTACK_STORAGE"] = str(folder / "warm")
    ours = seconds_of(command(BIN / "haystack", "report", run_folder.name), repeats=1)
    page = [BIN / "jupyter", "nbconvert", "--to", "html", "--output", folder / "plain.html", run_folder / "run.ipynb"]
    reference = seconds_of(command(*page), repeats=1)
    size = (run_folder / "report.html").stat().st_size / 1e6
    return {
        "work": "report.html of the demonstration run, whole process",
        "ours": {"render_s": ours, "size_mb": size},
        "reference": {"nbconvert_html_s": reference, "size_mb": (folder / "plain.html").stat().st_size / 1e6},
        "ratio": reference / ours,
        "goal": "<= 15 s, <= 5 MB",
        "met": ours <= 15 and size <= 5,
    }


def ground_round(folder):
    """One round's grounding on 512 treated and 512 control cells, and its DE against scanpy's."""
    import scanpy as sc

    from haystack_kernel.grounding import GroundingCells, GroundingContext, score_prediction
    from haystack_kernel.grounding.de.table import compute_de
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.planners.offline import parse_question
    from haystack_kernel.schema import GroundingSettings

    rng, knowledge = np.random.default_rng(0), load_knowledge()
    query = parse_question("How would B cells respond to IFN-beta?", knowledge=knowledge)
    n, n_genes = (512, 15_000) if FULL else (128, 4_000)
    known = sorted({gene for pathway in knowledge.pathways.values() for gene in pathway.genes})[:n_genes]
    genes = [*known, *(f"GENE{i}" for i in range(n_genes - len(known)))]

    def cells(prefix, *, up):
        matrix = counts(n, n_genes, rng=rng)
        if up:
            rows = [i for i, gene in enumerate(genes) if query.expected_targets.get(gene) == 1]
            matrix = (
                matrix
                + csr_matrix(
                    (rng.poisson(0.8, size=n * len(rows)), (np.repeat(np.arange(n), len(rows)), np.tile(rows, n))),
                    shape=matrix.shape,
                )
            ).astype(np.float32)
        obs = pd.DataFrame({"cell_type_name": "B cell", "donor_id": np.array(["a", "b", "c", "d"])[np.arange(n) % 4]})
        obs.index = [f"{prefix}{i}" for i in range(n)]
        return ad.AnnData(matrix.tocsr(), obs=obs, var=pd.DataFrame(index=genes))

    control = cells("q", up=False)
    treated = cells("t", up=True)
    treated.obs_names = control.obs_names
    data = GroundingCells(
        treated=treated,
        control_pred=control,
        query=control,
        prompt=cells("p", up=True),
        prompt_control=cells("c", up=False),
    )
    settings = GroundingSettings()
    ours = seconds_of(
        lambda: score_prediction(
            data, query=query, knowledge=knowledge, settings=settings, context=GroundingContext(seed=0)
        )
    )
    de = seconds_of(
        lambda: compute_de(treated.X, control.X, genes=genes, padded=np.zeros(n_genes, bool), settings=settings)
    )
    both = ad.concat({"predicted": treated, "control": control}, label="role", index_unique="-")
    sc.pp.normalize_total(both, target_sum=1e4)
    sc.pp.log1p(both)
    both.obs["role"] = both.obs["role"].astype("category")
    reference = seconds_of(
        lambda: sc.tl.rank_genes_groups(
            both, "role", groups=["predicted"], reference="control", method="wilcoxon", tie_correct=True
        )
    )
    return {
        "work": f"DE, pathways, both nulls and scores, {n} v {n} cells x {n_genes} genes, warm",
        "ours": {"round_s": ours, "de_s": de},
        "reference": {"scanpy_rank_genes_groups_s": reference},
        "ratio": reference / de,
        "goal": "<= 5 s; DE not slower than scanpy",
        "met": ours <= 5 and de <= reference,
    }


ROWS = {
    "run.import": run_import,
    "run.demo": run_demo,
    "run.report": run_report,
    "ground.round": ground_round,
    "terms.resolve": resolve_labels,
    "atlas.build": atlas_build,
    "atlas.search": atlas_search,
    "atlas.build.hundred": partial(atlas_build, size="hundred"),
    "atlas.question.hundred": atlas_question,
    "atlas.fetch": partial(atlas_fetch.local_disk, full=FULL),
    "atlas.fetch.gcs": partial(atlas_fetch.bucket, full=FULL),
    "backtest": partial(workers.backtest, full=FULL),
    **explorer.ROWS,
    **infer.ROWS,
    **jobs.rows(full=FULL),
}


def describe_machine():
    """Processor, cores and the versions that numbers depend on."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    names = ("haystack-kernel", "numpy", "scipy", "anndata", "scanpy", "papermill", "duckdb")
    versions = {name: metadata.version(name) for name in names}
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def shown(value):
    """Numbers of one column in words."""
    if not value:
        return ""
    return ", ".join(f"{name} {number:.2f}" for name, number in value.items())


def main():
    """Run the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--output", default="bench.json")
    parser.add_argument("--folder", help="keep synthetic files and indexes here, and use those that are there")
    options = parser.parse_args()
    machine, results = describe_machine(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.folder or name)
        os.environ.update(HAYSTACK_ATLAS_ROOT=str(folder / "atlases"), HAYSTACK_CACHE=str(folder / "cache"))
        for row in options.ids or ROWS:
            sys.stderr.write(f"{row} …\n")
            made = {"id": row, **ROWS[row](folder), "full": FULL, "machine": machine}
            results.append({**made, "date": datetime.now(UTC).isoformat(timespec="seconds")})
            Path(options.output).write_text(json.dumps(results, indent=1), encoding="utf-8")
    print("| id | work | ours | reference | ratio | goal | met |\n|---|---|---|---|---|---|---|")
    for row in results:
        ratio = f"{row['ratio']:.1f}x" if row["ratio"] else ""
        cells = (row["id"], row["work"], shown(row["ours"]), shown(row["reference"]), ratio, row["goal"])
        print(f"| {' | '.join(cells)} | {'yes' if row['met'] else 'no'} |")


if __name__ == "__main__":
    main()
