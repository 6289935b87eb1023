"""The runtime of STACK on a GPU: is it right, how fast, how far from what the card can do, and what else a job takes.

In: nothing. Out: a line of JSON after each section, and all of them in the file of ``--out``. Run from the root:
``python tests/benchmarks/gpu.py``. A section that fails leaves its error, and one that would begin after ``--seconds``
is left out and named, so that one call ends within four minutes. Times are medians; the ceilings that shares refer to
are measured in the same run. Where torch sees no GPU the script runs tiny sizes on the processor, to know that it runs:
``is_claim`` is false then and every time null.
"""

import argparse
import json
import math
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from copy import copy
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from scipy.sparse import csr_matrix
from stack_data import SPLIT, make_case

from inference.manifest import Manifest, Task, dump_manifest
from inference.stack.attention import attend_by_mask, attend_in_two
from inference.stack.config import GenerationSettings, StackConfig, tensor_shapes
from inference.stack.generate import choose_layout, iterate_steps
from inference.stack.model import StackModel
from inference.stack.moments import expect_log
from inference.stack.ops_torch import TorchOps
from inference.stack.trial import seconds_on_gpu

PUBLISHED = StackConfig(n_genes=15_012, n_hidden=100, token_dim=16, n_cells=256, n_layers=9, n_heads=8, mlp_ratio=4)
TINY = StackConfig(n_genes=30, n_hidden=4, token_dim=4, n_cells=8, n_layers=1, n_heads=4, mlp_ratio=2)
HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
ROOT = Path(__file__).resolve().parents[2]
N_TASKS = 16 if HAS_GPU else 2
FIXTURES = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "stack"


def seconds_of(work, *, repeats=20, warm_up=3):
    """Median seconds of one call, by the GPU's own clock where there is one; NaN on a processor."""
    if not HAS_GPU:
        work()
        return float("nan")
    return seconds_on_gpu(work, repeats=repeats, warm_up=warm_up)


def random_tensors(config):
    """Weights of the usual scale on the device."""
    generator, tensors = torch.Generator(DEVICE).manual_seed(0), {}
    for name, shape in tensor_shapes(config).items():
        values = torch.randn(shape, generator=generator, device=DEVICE) / shape[-1] ** 0.5
        tensors[name] = 1.0 + 0.1 * values if "norm.weight" in name else values
    return tensors


def random_counts(n_cells, n_genes, *, seed=0):
    """Dense counts with about the depth of a droplet experiment."""
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.3, 1.0, n_genes) * rng.gamma(4, 0.25, (n_cells, 1))).astype(np.float32)


def make_ops(name, precision):
    """A backend, or None where it is not here."""
    if name == "torch":
        return TorchOps()
    if not find_spec("triton"):
        return None
    import triton

    if not (HAS_GPU or triton.knobs.runtime.interpret):
        return None
    from inference.stack.ops_triton import TritonOps

    return TritonOps(precision)


def make_variants(config, tensors):
    """Name -> model: in each precision torch alone, our kernels alone, and what a job would choose."""
    variants = {}
    for precision in ("fp32", "bf16"):
        model = StackModel(config, tensors, ops=TorchOps()).to(DEVICE, precision=precision)
        model.replayed = None  # each kernel by itself; the graph is measured beside it
        variants[f"chosen_{precision}"] = model
        for name in ("torch", "triton"):
            ops = make_ops(name, precision if HAS_GPU else "fp32")  # the interpreter knows no bfloat16 products
            if ops is not None:
                variants[f"{name}_{precision}"] = copy(model)
                variants[f"{name}_{precision}"].ops = ops
    return variants


def judge_parts(config):
    """What a job on this card chooses for each part, and how torch's other ways of attention compare."""
    found = {}
    if HAS_GPU and find_spec("triton"):
        from inference.stack.ops_triton import choose_parts

        for precision in ("fp32", "bf16"):
            start, ops = time.perf_counter(), choose_parts(DEVICE, precision, config)
            verdicts = {part: vars(verdict) | {"is_ours": verdict.is_ours} for part, verdict in ops.verdicts.items()}
            found[precision] = verdicts | {"seconds_of_choice": time.perf_counter() - start}
    return found | {"between_cells": time_attention(config), "inside_cells": time_inside(config)}


def time_attention(config):
    """Milliseconds of the ways to let the cells of 8 windows attend to each other, the first quarter to itself."""
    kind, n_windows = (torch.bfloat16, 8) if HAS_GPU else (torch.float32, 1)
    size, n_keep = config.cell_dim // config.n_heads, config.n_cells // 4
    heads = torch.randn(3, n_windows, config.n_heads, config.n_cells, size, device=DEVICE).to(kind)
    ways = {
        "masked": partial(attend_by_mask, *heads, n_keep=n_keep),
        "two": partial(attend_in_two, *heads, n_keep=n_keep),
    }
    if HAS_GPU:
        ways["flex"] = flex(heads, n_keep=n_keep)
    return attempt_each({name: lambda work=work: 1e3 * seconds_of(work) for name, work in ways.items()})


def time_inside(config):
    """Milliseconds of the attention inside the cells of 32 windows: SDPA alone, without the products around it."""
    kind, n_cells = (torch.bfloat16, 32 * config.n_cells) if HAS_GPU else (torch.float32, 2)
    n_heads, n_tokens = config.n_token_heads, config.n_hidden
    size = config.token_dim // n_heads
    narrow = torch.randn(3, n_cells, n_heads, n_tokens, size, device=DEVICE).to(kind)
    ways = {"sdpa": partial(F.scaled_dot_product_attention, *narrow)}
    if HAS_GPU:  # FlexAttention takes heads of 16 numbers or more: these are filled with zeros
        ways["flex"] = flex(F.pad(narrow, (0, max(0, 16 - size))), n_keep=0)
    return attempt_each({name: lambda work=work: 1e3 * seconds_of(work) for name, work in ways.items()})


def flex(heads, *, n_keep):
    """FlexAttention, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled, n_rows = torch.compile(flex_attention), heads.shape[3]

    def sees(_window, _head, row, column):
        return (row >= n_keep) | (column < n_keep)

    mask = create_block_mask(sees, None, None, n_rows, n_rows, device=DEVICE) if n_keep else None
    return lambda: compiled(*heads, block_mask=mask)


def attempt_each(works):
    """Results by name; the error in the place of what failed."""
    found = {}
    for name, work in works.items():
        try:
            found[name] = work()
        except Exception as error:  # noqa: BLE001 - the others are measured all the same
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return found


def measure_ceilings():
    """Bytes a second of a large copy, operations a second of a large product of bfloat16, on random data."""
    if not HAS_GPU:
        return {"bytes_per_s": float("nan"), "flop_per_s": float("nan")}
    source = torch.randn(2**29, device=DEVICE)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / seconds_of(lambda: target.copy_(source))
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return {"bytes_per_s": copied, "flop_per_s": 2 * 8192**3 / seconds_of(lambda: a @ b)}


def rate(seconds, *, n_bytes, n_flop, ceilings, **more):
    """What a time amounts to: rates, and the share of the floor that bytes and operations set."""
    floor = max(n_bytes / ceilings["bytes_per_s"], n_flop / ceilings["flop_per_s"])
    rates = {"bytes_per_s": n_bytes / seconds, "flop_per_s": n_flop / seconds, "share_of_roofline": floor / seconds}
    return {"ms": seconds * 1e3, **rates, **{f"{name}_per_s": value / seconds for name, value in more.items()}}


def window_flop(config, layout):
    """Operations that one window needs: test rows to the mean, context rows to the dispersion."""
    rows, size, genes = config.n_cells, config.cell_dim, config.n_genes
    inside = config.n_hidden * (4 * config.token_dim**2 * (2 + config.mlp_ratio) + 4 * size)
    layer = rows * (8 * size**2 + 4 * rows * size + inside)
    head = 2 * rows * size * 2 * size + 2 * (layout.n_test + layout.n_ctx) * 2 * size * genes
    return 2 * rows * genes * size + config.n_layers * layer + head


def check_parity(variants, config, layout):
    """Largest relative errors of every variant: against the processor in float32."""
    counts = torch.from_numpy(random_counts(2 * config.n_cells, config.n_genes)).view(2, config.n_cells, -1)
    places = {"n_ctx": layout.n_ctx, "n_keep": layout.n_keep, "first_row": layout.n_base}
    base = StackModel(config, variants["torch_fp32"]._tensors, ops=TorchOps()).to(torch.device("cpu"))
    base.ops = TorchOps()
    exact, errors = base.forward(counts, **places), {}
    for name, model in variants.items():
        out = model.forward(counts.to(DEVICE), **places)
        pairs = {part: (getattr(out, part).cpu(), getattr(exact, part)) for part in ("mean", "dispersion", "logits")}
        errors[name] = {part: float((a.float() - b).norm() / b.norm()) for part, (a, b) in pairs.items()}
    return errors


def check_fixtures():
    """Largest errors of the reference's own mean and logits, of each backend in float32; None without the files."""
    if not (FIXTURES / "forward.npz").exists():
        return None
    from inference.stack.checkpoint import load_checkpoint

    loaded, errors = load_checkpoint(FIXTURES / "tiny.ckpt", name="tiny.ckpt").model, {}
    with np.load(FIXTURES / "forward.npz") as want:
        for name in ("torch", "triton"):
            if (ops := make_ops(name, "fp32")) is None:
                continue
            model = loaded.to(DEVICE)
            model.ops = ops
            counts = torch.from_numpy(want["features"])[None].to(DEVICE)
            out = model.forward(counts, n_ctx=20, n_keep=8, first_row=0)
            mean, logits = out.mean[0].cpu().numpy(), out.logits[0, 20:].cpu().numpy()
            errors[name] = {
                "mean_relative": float(np.max(np.abs(mean / want["nb_mean"] - 1))),
                "logits_absolute": float(np.max(np.abs(logits - want["logits_tail"]))),
            }
    return errors


def time_windows(variants, config, layout, ceilings):
    """Milliseconds per window of each variant, one and several windows at once, launched one by one and as a graph."""
    places = {"n_ctx": layout.n_ctx, "n_keep": layout.n_keep, "first_row": layout.n_base}
    n_flop, found = window_flop(config, layout), {}
    for name, model in variants.items():
        weights = sum(tensor.nbytes for tensor in model._tensors.values())
        for n_windows in (1, 8) if HAS_GPU else (1,):
            counts = torch.from_numpy(random_counts(n_windows * config.n_cells, config.n_genes)).to(DEVICE)
            counts = counts.view(n_windows, config.n_cells, -1)

            def forward(model=model, counts=counts):
                return model.forward(counts, **places)

            for way, work in (("launched", forward), ("graph", capture(forward))):
                if work is None:
                    continue
                seconds = seconds_of(work)
                size = {"n_bytes": weights + counts.nbytes, "n_flop": n_windows * n_flop}
                per_window = {"ms_per_window": seconds / n_windows * 1e3}
                found[f"{name} x{n_windows} {way}"] = per_window | rate(seconds, **size, ceilings=ceilings)
    return found


def capture(work):
    """The same work as one CUDA graph over fixed memory; None where it cannot be recorded."""
    if not HAS_GPU:
        return None
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with suppress(RuntimeError):  # something in it waits for the host
        with torch.cuda.graph(graph):
            work()
        return graph.replay
    return None


def time_token_kernels(config, ceilings):
    """The two kernels on tokens, on more data than the card's cache holds."""
    n_cells = 32 * config.n_cells if HAS_GPU else 2
    h, d = config.n_hidden, config.token_dim
    tensors, found = random_tensors(config), {}
    for precision, kind in (
        (("fp32", torch.float32), ("bf16", torch.bfloat16)) if HAS_GPU else (("fp32", torch.float32),)
    ):
        tokens = torch.randn(n_cells, h, d, device=DEVICE).to(kind)
        small = {
            name.removeprefix("layers.0."): tensor.to(kind)
            for name, tensor in tensors.items()
            if name.startswith("layers.0.") and ".gene_" not in name
        }
        mix = {
            "place": tensors["gene_pos_embedding"].to(kind),
            "qkv": small["cell_attn.qkv.weight"],
            "proj": small["cell_attn.proj.weight"],
            "proj_bias": small["cell_attn.proj.bias"],
            "norm": small["cell_norm.weight"],
            "norm_bias": small["cell_norm.bias"],
            "n_heads": config.n_token_heads,
        }
        transform = {
            "w1": small["mlp.0.weight"],
            "b1": small["mlp.0.bias"],
            "w2": small["mlp.3.weight"],
            "b2": small["mlp.3.bias"],
            "norm": small["mlp_norm.weight"],
            "norm_bias": small["mlp_norm.bias"],
        }
        work = {"n_bytes": 2 * tokens.nbytes, "ceilings": ceilings}
        for name in ("torch", "triton"):
            if (ops := make_ops(name, precision)) is None:
                continue
            seconds = seconds_of(partial(ops.mix_tokens, tokens, **mix))
            n_flop, n_exp = n_cells * (8 * h * d * d + 4 * h * h * d), n_cells * config.n_token_heads * h * h
            found[f"attention {name} {precision}"] = rate(seconds, **work, n_flop=n_flop, exponentials=n_exp)
            seconds = seconds_of(partial(ops.transform_tokens, tokens, **transform))
            n_flop = 4 * n_cells * h * d * d * config.mlp_ratio
            found[f"transform {name} {precision}"] = rate(seconds, **work, n_flop=n_flop)
    return found


def time_head(config, ceilings):
    """The output layer's half for the mean, and what turns its logits into counts expected."""
    n_rows, n_in = (32 * config.n_cells, 2 * config.cell_dim) if HAS_GPU else (2, 8)
    found = {}
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x, weight = (torch.randn(n, n_in, device=DEVICE).to(kind) for n in (n_rows, config.n_genes))
        seconds = seconds_of(partial(F.linear, x, weight))
        n_bytes = x.nbytes + weight.nbytes + n_rows * config.n_genes * x.element_size()
        n_flop = 2 * n_rows * n_in * config.n_genes
        found[f"head {precision}"] = rate(seconds, n_bytes=n_bytes, n_flop=n_flop, ceilings=ceilings)
    logits, library = torch.randn(n_rows, config.n_genes, device=DEVICE), torch.full((n_rows, 1), 5e3, device=DEVICE)
    seconds = seconds_of(lambda: torch.softmax(logits, -1).mul_(library))
    found["softmax and library"] = rate(seconds, n_bytes=2 * logits.nbytes, n_flop=0, ceilings=ceilings)
    return found


def time_sampler(config, ceilings):
    """The sampler on as many rows as 32 windows predict, and whether the first two equal the processor's."""
    if (ops := make_ops("triton", "fp32")) is None:
        return {}
    n_rows = 32 * 89 if HAS_GPU else 2
    logits = 2 * torch.randn(n_rows, config.n_genes, device=DEVICE)
    mean, theta = 5e3 * torch.softmax(logits, -1), F.softplus(torch.randn(32, config.n_genes, device=DEVICE))
    rows = torch.arange(n_rows, device=DEVICE)
    seconds = seconds_of(partial(ops.draw_counts, mean, theta, seed=0, step=1, cells=rows, window=rows % 32))
    found = rate(seconds, n_bytes=2 * mean.nbytes, n_flop=0, ceilings=ceilings, values=mean.numel())
    few = {"seed": 0, "step": 1, "cells": rows[:2], "window": rows[:2]}
    ours, theirs = (one.draw_counts(mean[:2], theta, **few) for one in (ops, TorchOps()))
    return {"sampler triton": {**found, "equals_processor": torch.equal(ours, theirs)}}


def time_job(variants, config):
    """Seconds of a whole generation by the host's clock, from and to the host's memory; the second of two runs."""
    n_prompt, n_query = (512, 256) if HAS_GPU else (20, 9)
    prompt = csr_matrix(random_counts(n_prompt, config.n_genes, seed=1))
    query, found = random_counts(n_query, config.n_genes, seed=2), {}
    for name, model in variants.items():
        for output in ("sampled", "expected"):
            settings = GenerationSettings(output_mode=output, diffusion_steps=5 if HAS_GPU else 1)
            for _ in range(2):
                start = time.perf_counter()
                *_, last = iterate_steps(model, prompt=prompt, query=query, settings=settings, seed=0)
                _ = last.counts, last.expected  # on the host
                seconds = time.perf_counter() - start
            found[f"{name} {output}"] = seconds if HAS_GPU else float("nan")
    return found


def time_host(config):
    """Milliseconds of what the writer's thread does for one task of 256 query cells."""
    from inference.checks import read_cells
    from inference.outputs import write_cells

    n_query, genes = (256 if HAS_GPU else 9), [f"G{i}" for i in range(config.n_genes)]
    mean = random_counts(n_query, config.n_genes, seed=3) + np.float32(0.1)
    theta, scale = np.ones_like(mean), np.full((n_query, 1), 2.0, np.float32)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "out.h5ad"
        import pandas as pd

        obs, var = pd.DataFrame(index=[f"c{i}" for i in range(n_query)]), pd.DataFrame(index=genes)
        works = {
            "expected_log": partial(expect_log, mean, theta, scale=scale),
            "sparse": partial(csr_matrix, mean),
            "write": lambda: write_cells(
                path, obs=obs, var=var, X=csr_matrix(np.floor(mean)), layers={"expected": mean}
            ),
            "read": lambda: read_cells(path, name="out"),
        }
        return {f"{what}_ms": 1e3 * host_seconds(work) for what, work in works.items()}


def host_seconds(work, *, repeats=3):
    """Median seconds by the host's clock; NaN where nothing is claimed."""
    times = []
    for _ in range(repeats if HAS_GPU else 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) if HAS_GPU else float("nan")


def run_manifest(config, *, seconds_left):
    """A whole job as a process: files, model, choice of kernels, outputs; and the reference's program beside it."""
    sizes = vars(config)
    n_prompt, n_query = (512, 256) if HAS_GPU else (20, 9)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = make_case(folder / "case", sizes=sizes, n_prompt=n_prompt, n_query=n_query)
        tasks = tuple(
            Task(f"t{i}", str(case.prompt), str(case.query), str(folder / "out" / f"{i}.h5ad"), i, "stack")
            for i in range(N_TASKS)
        )
        files = {"model": str(case.checkpoint), "genelist": str(case.genelist), "device": DEVICE.type}
        (folder / "manifest.json").write_text(dump_manifest(Manifest(tasks=tasks, **files)))
        words = [sys.executable, "-m", "inference.run_inference", "--manifest", str(folder / "manifest.json")]
        words += ["--device", DEVICE.type]
        said, seconds = timed(words, limit_s=seconds_left)
        done, lines = json.loads(said.stdout), said.stderr.splitlines()
        found = {"tasks": N_TASKS, "done": len(done["done"]), "seconds": seconds}
        found["notes"] = sorted(
            {line.partition(": ")[2] for line in lines if "computed on" in line or "slower" in line}
        )
        program = shutil.which("stack-generation")
        if program is None:
            return found | {"reference": "stack-generation is not installed here"}
        genes = folder / "genes.pkl"
        genes.write_bytes(pickle.dumps(json.loads(case.genelist.read_text())))
        words = [program, "--checkpoint", case.checkpoint, "--base-adata", case.prompt, "--test-adata", case.query]
        words += [
            "--genelist",
            genes,
            "--output-dir",
            folder / "reference",
            "--split-column",
            SPLIT,
            "--num-steps",
            "5",
        ]
        _, seconds = timed([*map(str, words), "--device", DEVICE.type], limit_s=seconds_left)
        return found | {"reference": {"tasks": 1, "seconds": seconds}}


def timed(words, *, limit_s):
    """The finished process and its seconds; NaN where nothing is claimed."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=max(30, limit_s)
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:] or f"exit code {done.returncode}")
    return done, time.perf_counter() - start if HAS_GPU else float("nan")


def without_nan(value):
    """The same with null for what was not measured: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


class Report:
    """Sections as they are measured, each at once on stdout and in the file."""

    def __init__(self, path, *, seconds):
        self.path, self.found, self._start, self._seconds = path, {}, time.perf_counter(), seconds

    @property
    def seconds_left(self):
        """Seconds until no further section begins."""
        return self._seconds - (time.perf_counter() - self._start)

    def add(self, name, work):
        """Measure a section; returns what came of it, or None where it failed or there is no time."""
        start, result = time.perf_counter(), None
        if self.seconds_left <= 0:
            entry = {"left_out": "no time was left"}
        else:
            try:
                result = work()
                entry = {"result": result if isinstance(result, dict) else None}
            except Exception as error:  # noqa: BLE001 - the other sections are measured all the same
                entry = {"error": f"{type(error).__name__}: {error}"[:1000]}
        entry["section_s"] = time.perf_counter() - start if HAS_GPU else float("nan")
        self.found[name] = without_nan(entry)
        print(json.dumps({name: self.found[name]}), flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1), encoding="utf-8")
        return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file that receives all sections")
    parser.add_argument("--seconds", type=float, default=200.0, help="no section begins later (default: %(default)s)")
    given = parser.parse_args()
    config = PUBLISHED if HAS_GPU else TINY
    layout = choose_layout(config.n_cells, prompt_ratio=0.25, context_ratio=0.4)
    report = Report(given.out, seconds=given.seconds)
    report.add(
        "machine",
        lambda: {
            "device": torch.cuda.get_device_name() if HAS_GPU else None,
            "is_claim": HAS_GPU,
            "torch": torch.__version__,
            "config": vars(config),
        },
    )
    nothing = {"bytes_per_s": float("nan"), "flop_per_s": float("nan")}
    ceilings = report.add("ceilings", measure_ceilings) or nothing
    made = {}
    report.add("variants", lambda: made.update(make_variants(config, random_tensors(config))) or dict.fromkeys(made, 1))
    # What decides most comes first: is it right, does a whole job run, which kernels are worth their code.
    report.add("relative_error", lambda: check_parity(made, config, layout))
    report.add("fixtures", check_fixtures)
    report.add("manifest", lambda: run_manifest(config, seconds_left=report.seconds_left))
    report.add("windows", lambda: time_windows(made, config, layout, ceilings))
    report.add("parts", lambda: judge_parts(config))
    report.add("tokens", lambda: time_token_kernels(config, ceilings))
    report.add("head", lambda: time_head(config, ceilings))
    report.add("sampler", lambda: time_sampler(config, ceilings))
    report.add("job_s", lambda: time_job(made, config))
    report.add("host", lambda: time_host(config))


if __name__ == "__main__":
    main()
