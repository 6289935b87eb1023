"""Records how the reference divides its windows, by watching the shapes of the tensors that its program computes with.

In: the program, a JSON list of settings [window, prompt_ratio, context_ratio, context_ratio_min, steps, mode], and a
folder with ``<window>.ckpt``, ``<window>.h5ad`` (query cells), ``prompt.h5ad`` (over 500 counts of every gene) and
``genes.pkl``. Out: a JSON line per setting, the same with [n_base, n_ctx, n_keep] of each step appended.
Runs in the reference's environment.
"""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

LEAST_PROMPT_COUNT = 500


class Watch(TorchDispatchMode):
    """Keeps, for each step, the first number of rows of each kind that is seen."""

    def __init__(self, window):
        super().__init__()
        self.window, self.steps = window, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        now = self.steps[-1] if self.steps else {}
        if func is torch.ops.aten.log1p.default and args[0].shape[1:2] == (self.window,) and args[0].dim() == 3:
            now.setdefault("n_base", int((args[0][0].amin(-1) > LEAST_PROMPT_COUNT).sum()))
        elif func is torch.ops.aten.median.dim:  # the dispersion is a median over the context rows
            now.setdefault("n_ctx", args[0].shape[1])
        elif func is torch.ops.aten.slice.Tensor and tuple(args[0].shape) == (self.window, self.window):  # the mask
            now.setdefault("n_keep", args[3])
        return func(*args, **(kwargs or {}))


def record(program, folder, setting):
    """Run one setting; returns [n_base, n_ctx, n_keep] of each step, up to one where the reference itself fails."""
    window, prompt, context, least, steps, mode = setting
    flags = {"checkpoint": folder / f"{window}.ckpt", "base-adata": folder / "prompt.h5ad"}
    flags |= {"test-adata": folder / f"{window}.h5ad", "genelist": folder / "genes.pkl", "output-dir": folder / "o"}
    flags |= {"split-column": "cond", "num-steps": steps, "mode": mode, "batch-size": 64, "num-workers": 0}
    flags |= {"random-seed": 3, "device": "cpu", "prompt-ratio": prompt, "context-ratio": context}
    flags |= {"context-ratio-min": least}
    sys.argv = [program, *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]
    watch, permute = Watch(window), np.random.permutation

    def begin_step(n):  # every step begins with a new order of the prompt cells
        watch.steps.append({})
        return permute(n)

    np.random.permutation = begin_step
    try:
        with watch, contextlib.suppress(SystemExit, Exception), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(program, run_name="__main__")
    finally:
        np.random.permutation = permute
    return [[step["n_base"], step["n_ctx"], step.get("n_keep", 0)] for step in watch.steps if step]


if __name__ == "__main__":
    program, settings, folder = sys.argv[1:]
    for asked in json.loads(settings):
        found = record(program, Path(folder), asked)
        sys.stdout.write(json.dumps([*asked, found]) + "\n")
