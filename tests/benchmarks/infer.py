"""Rows infer.*: our runtime of the model beside the reference's command line, whole processes, in one run.

In: a folder for the model of random weights and its cells; STACK_REFERENCE in the environment, where the reference's
own virtual environment lies or is to be made (default: a folder beside the user's other caches). Out: rows.
The ratio is that of wall seconds; processor seconds and the machine's load when the process began stand beside them.
Run as a program (FULL=1 for the published size) it prints the table of docs/performance.md: `haystack model generate`
against `stack-generation`, two runs each in turn; with the word `growth`, how `sampled` grows with the number of cells,
without the reference.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
from stack_data import PUBLISHED, SMALL, SPLIT, find_reference, make_case, make_cells

FULL = os.environ.get("FULL") == "1"
ROOT = Path(__file__).resolve().parents[2]
STEPS = 5
SEED = 0
N_TASKS = 8
CACHE = Path(os.environ.get("STACK_REFERENCE", Path.home() / ".cache" / "haystack-bench" / "arc-stack"))
TFLOP = 1.0  # of the full case, multiplications and additions of its large products
MODES = {
    "sampled": ("--precision", "fp32"),
    "expected": ("--precision", "fp32", "--output-mode", "expected"),
    "exact": ("--output-mode", "exact"),
    "bf16": ("--precision", "bf16"),
}
GFLOPS = {"bf16": 390.0}  # that one core can do in a second, seen with AMX
GFLOPS_FP32 = 97.0
GROWTH = ((256, 256), (512, 256), (1024, 256), (2048, 256), (4096, 256), (512, 2048))  # prompt and query cells
NATIVE_BF16 = ("avx512_bf16", "amx_bf16")  # flags of processors that multiply bfloat16 themselves


def measure(*words, log):
    """Wall and processor seconds, peak memory (GiB) of one process; raises with its last words if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    load, start = os.getloadavg()[0], time.perf_counter()
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(
            [str(word) for word in words], stdout=sink, stderr=sink, env=environment, cwd=log.parent
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(log.read_text(encoding="utf-8")[-2000:])
    return {
        "wall_s": time.perf_counter() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_gib": usage.ru_maxrss / 2**20,
        "load_before": load,
    }


@cache
def case_of(folder):
    """The model and cells of this run's size."""
    n_prompt, n_query = (512, 256) if FULL else (96, 64)
    return make_case(folder / "stack", sizes=PUBLISHED if FULL else SMALL, n_prompt=n_prompt, n_query=n_query)


@cache
def run_ours(folder, name, *flags):
    """One prediction by our program; measured once for all rows."""
    case = case_of(folder)
    output = folder / f"{name}.h5ad"
    output.unlink(missing_ok=True)
    files = ("--prompt-gcs", case.prompt, "--query-gcs", case.query, "--model-gcs", case.checkpoint)
    files += ("--genelist-gcs", case.genelist, "--output-gcs", output, "--seed", SEED, "--diffusion-steps", STEPS)
    command = (sys.executable, "-m", "inference.run_inference", *files, "--threads", 2, "--device", "cpu", *flags)
    found = measure(*command, log=folder / f"{name}.log")
    result = json.loads(output.with_name(f"{output.name}.result.json").read_text(encoding="utf-8"))
    return found | {"peak_gib": result["peak_memory_gib"]}, output


@cache
def run_reference(folder):
    """One prediction by the reference's program; measured once for all rows."""
    case, output = case_of(folder), folder / "reference"
    genes = folder / "genes.pkl"
    genes.write_bytes(pickle.dumps(json.loads(case.genelist.read_text(encoding="utf-8"))))
    files = ("--checkpoint", case.checkpoint, "--base-adata", case.prompt, "--test-adata", case.query)
    files += ("--genelist", genes, "--output-dir", output, "--split-column", SPLIT)
    settings = ("--num-steps", STEPS, "--mode", "mdm", "--prompt-ratio", 0.25, "--context-ratio", 0.4)
    settings += ("--context-ratio-min", 0.2, "--batch-size", 32, "--num-workers", 0, "--random-seed", SEED)
    program = find_reference(CACHE)
    found = measure(program, *files, *settings, "--device", "cpu", log=folder / "reference.log")
    return found, output / "treated.h5ad"


def run_generate(folder, name, case):
    """One prediction by `haystack model generate`, with the flags of the reference's program."""
    files = ("--checkpoint", case.checkpoint, "--base-adata", case.prompt, "--test-adata", case.query)
    files += ("--genelist", case.genelist, "--output-dir", folder / f"generate-{name}", "--split-column", SPLIT)
    shutil.rmtree(folder / f"generate-{name}", ignore_errors=True)
    flags = ("--num-steps", STEPS, "--threads", 2, "--device", "cpu", *MODES[name])
    log = folder / f"{name}.log"
    found = measure(sys.executable, "-m", "inference.model", "generate", *files, *flags, log=log)
    facts = next(line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{"))
    return found | {"peak_gib": json.loads(facts)["peak_memory_gib"]}  # of both processes


def print_table(folder, *, n_runs=2):
    """Every mode beside the reference, in turn."""
    has_bf16 = any(flag in Path("/proc/cpuinfo").read_text(encoding="utf-8") for flag in NATIVE_BF16)
    modes = [mode for mode in MODES if mode != "bf16" or has_bf16]
    print("| run | work | wall s | processor s | peak GiB | ratio of wall | share of the roofline | load before |")
    print("|---|---|---|---|---|---|---|---|")
    for number in range(1, n_runs + 1):
        reference = run_reference.__wrapped__(folder)[0]
        for name in ("reference", *modes):
            found = reference if name == "reference" else run_generate(folder, name, case_of(folder))
            share = f"{1000 * TFLOP / GFLOPS.get(name, GFLOPS_FP32) / found['cpu_s']:.0%}" if FULL else ""
            ratio = reference["wall_s"] / found["wall_s"]
            numbers = f"{found['wall_s']:.1f} | {found['cpu_s']:.1f} | {found['peak_gib']:.2f} | {ratio:.1f}x"
            print(f"| {number} | {name} | {numbers} | {share} | {found['load_before']:.1f} |", flush=True)
    if not has_bf16:
        print("bf16: not measured, this processor does not multiply it")


def print_growth(folder):
    """`sampled` with more prompt or query cells, one run each."""
    print("| prompt cells | query cells | wall s | processor s | peak GiB | load before |")
    print("|---|---|---|---|---|---|")
    model = case_of(folder).checkpoint
    for n_prompt, n_query in GROWTH if FULL else ((48, 32), (96, 64)):
        place = folder / f"{n_prompt}-{n_query}"
        case = make_cells(place, sizes=PUBLISHED if FULL else SMALL, n_prompt=n_prompt, n_query=n_query, model=model)
        found = run_generate(place, "sampled", case)
        numbers = f"{found['wall_s']:.1f} | {found['cpu_s']:.1f} | {found['peak_gib']:.2f} | {found['load_before']:.1f}"
        print(f"| {n_prompt} | {n_query} | {numbers} |", flush=True)


def row_of(work, ours, reference, *, goal, met):
    """A row of the table; the ratio is that of wall seconds."""
    ratio = None if ours is None else reference["wall_s"] / ours["wall_s"]
    return {"work": work, "ours": ours, "reference": reference, "ratio": ratio, "goal": goal, "met": met}


def infer_exact(folder):
    """The reference's own random stream: as many equal counts as there are, and how fast."""
    ours, path = run_ours(folder, "exact", "--output-mode", "exact", "--batch-size", 32)
    reference, other = run_reference(folder)
    found, want = (ad.read_h5ad(name).X for name in (path, other))
    is_equal = np.array_equal(_dense(found), _dense(want))
    ours = ours | {"frac_equal": float((_dense(found) == _dense(want)).mean())}
    met = is_equal and reference["wall_s"] >= 3 * ours["wall_s"]
    return row_of(_work("exact"), ours, reference, goal=">= 3x, equal counts", met=met)


def infer_fp32(folder):
    """Our own sampler, and the expected output."""
    reference, _ = run_reference(folder)
    sampled, _ = run_ours(folder, "sampled", "--precision", "fp32")
    expected, _ = run_ours(folder, "expected", "--precision", "fp32", "--output-mode", "expected")
    ours = sampled | {f"expected_{name}": value for name, value in expected.items()}
    slowest = max(sampled["wall_s"], expected["wall_s"])
    return row_of(_work("sampled"), ours, reference, goal=">= 5x", met=reference["wall_s"] >= 5 * slowest)


def infer_bf16(folder):
    """Rounded weights: the error against fp32, and the time where the processor computes in bfloat16."""
    rounded, one = run_ours(folder, "bf16", "--precision", "bf16", "--output-mode", "expected")
    _, two = run_ours(folder, "expected", "--precision", "fp32", "--output-mode", "expected")
    found, want = (_dense(ad.read_h5ad(name).X) for name in (one, two))
    scaled = np.abs(found - want)[want > 1e-3] / want[want > 1e-3]
    rounded = rounded | {
        "median_relative_error": float(np.median(scaled)),
        "p99_relative_error": float(np.quantile(scaled, 0.99)),
    }
    reference, _ = run_reference(folder)
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    is_native = any(flag in flags for flag in NATIVE_BF16)
    goal = ">= 8x where the processor has bf16" + ("" if is_native else " (this one has not: its error alone counts)")
    return row_of(
        _work("expected, bf16"), rounded, reference, goal=goal, met=reference["wall_s"] >= 8 * rounded["wall_s"]
    )


def infer_memory(folder):
    """Peak memory of a whole prediction, and the time to import the runtime and open the model."""
    ours, _ = run_ours(folder, "sampled", "--precision", "fp32")
    reference, _ = run_reference(folder)
    code = (
        "import sys, time; from pathlib import Path; from inference.stack.checkpoint import load_checkpoint; "
        "load_checkpoint(Path(sys.argv[1]), name='model')"
    )
    loads = [measure(sys.executable, "-c", code, case_of(folder).checkpoint, log=folder / "load.log") for _ in range(3)]
    ours = ours | {f"import_and_load_{name}": min(one[name] for one in loads) for name in ("cpu_s", "wall_s")}
    met = ours["peak_gib"] <= 1.7 and ours["import_and_load_wall_s"] <= 2
    found = row_of("peak memory; import and load", ours, reference, goal="<= 1.7 GiB; <= 2 s", met=met)
    return found | {"ratio": reference["peak_gib"] / ours["peak_gib"]}


def infer_many(folder):
    """Eight predictions in one process, against eight runs of the reference's program (one is run, eight counted)."""
    from inference.manifest import Manifest, Task, dump_manifest

    case = case_of(folder)
    tasks = tuple(
        Task(
            id=f"task{number}",
            prompt=str(case.prompt),
            query=str(case.query),
            output=str(folder / "many" / f"{number}.h5ad"),
            seed=number,
            engine="stack",
        )
        for number in range(N_TASKS)
    )
    files = {"model": str(case.checkpoint), "genelist": str(case.genelist)}
    manifest = Manifest(tasks=tasks, **files, device="cpu", threads=2, diffusion_steps=STEPS)
    path = folder / "manifest.json"
    path.write_text(dump_manifest(manifest), encoding="utf-8")
    ours = measure(sys.executable, "-m", "inference.run_inference", "--manifest", path, log=folder / "many.log")
    one, _ = run_reference(folder)
    reference = {name: N_TASKS * one[name] for name in ("wall_s", "cpu_s")}
    reference |= {f"one_run_{name}": one[name] for name in ("wall_s", "cpu_s")}
    met = reference["wall_s"] >= 10 * ours["wall_s"]
    return row_of(f"{N_TASKS} predictions in one manifest", ours, reference, goal=">= 10x", met=met)


def infer_gpu(folder):
    """The same on a GPU, where there is one."""
    import torch

    if not torch.cuda.is_available():
        return row_of("not measured: no GPU here", None, None, goal=">= 20x", met=False)
    ours, _ = run_ours(folder, "gpu", "--device", "cuda")
    reference, _ = run_reference(folder)
    found = row_of(_work("sampled, GPU"), ours, reference, goal=">= 20x", met=False)
    ratio = reference["wall_s"] / ours["wall_s"]
    return found | {"ratio": ratio, "met": ratio >= 20}


def _work(mode):
    case = "217 M parameters, 512 prompt, 256 query cells" if FULL else "small model, 96 prompt, 64 query cells"
    return f"{case}, {STEPS} steps, {mode}, whole process, 2 threads"


def _dense(matrix):
    return matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)


ROWS = {
    "infer.cpu.exact": infer_exact,
    "infer.cpu.fp32": infer_fp32,
    "infer.cpu.bf16": infer_bf16,
    "infer.cpu.memory": infer_memory,
    "infer.many": infer_many,
    "infer.gpu": infer_gpu,
}

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        (print_growth if "growth" in sys.argv[1:] else print_table)(Path(name))
