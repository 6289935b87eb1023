"""The kernels compiled for a Hopper GPU, which need not be here: Triton brings assembler and disassembler.

Run as a program, this file compiles each kernel at the published sizes and prints what it takes of a processor.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOPPER = ("cuda", 90, 32)


def published():
    """Name -> (kernel, types of its arguments, constants, warps) as the launchers choose them."""
    from triton import language as tl

    from inference.stack import triton_sampling, triton_tokens

    cell = {"N_TOKENS": 100, "SIZE": 16, "N_HEADS": 8, "BLOCK": 128, "BLOCK_SIZE": 16, "IS_WHOLE": True}
    token = {"SIZE": 16, "N_HIDDEN": 64, "BLOCK": 64, "BLOCK_SIZE": 16, "BLOCK_HIDDEN": 64}
    kernels = {}
    for name, kind in (("bf16", tl.bfloat16), ("fp32", tl.float32)):
        types = {"scale": "fp32", "n_tokens": "i32"}
        kernels[f"mix_{name}"] = (triton_tokens._mix, f"*{name}", types, {**cell, "KIND": kind}, 8)
        kernels[f"transform_{name}"] = (triton_tokens._transform, f"*{name}", types, {**token, "KIND": kind}, 4)
    types = dict.fromkeys(("cells", "window"), "*i64") | dict.fromkeys(("n_rest", "rest"), "*i32")
    types |= {"n_genes": "i32", "key": "i64"}
    for name, is_logit in (("draw_small", False), ("expect_and_draw", True)):
        constants = {"BLOCK": 128, "IS_LOGIT": is_logit}
        kernels[name] = (triton_sampling._draw_small, "*fp32", types | {"logits": "*bf16"}, constants, 1)
    kernels["scale_rows"] = (triton_sampling._scale_rows, "*fp32", types | {"logits": "*bf16"}, {"BLOCK": 1024}, 4)
    wide = {"SIZE": 1600, "BLOCK": 2048}
    kernels["add_and_normalise"] = (triton_tokens._add_and_normalise, "*bf16", {}, wide, 8)
    kernels["draw_rest"] = (triton_sampling._draw_rest, "*fp32", types, {"BLOCK": 32}, 1)
    return kernels


def usage(kernel, pointer, types, constants, warps):
    """Registers, bytes of local memory, and matrix instructions of one kernel."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, pointer) for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, constexprs=places, attrs=aligned)
    built = triton.compile(source, target=GPUTarget(*HOPPER), options={"num_warps": warps})
    binary = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    binary.write_bytes(built.asm["cubin"])
    words = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", "--dump-sass", binary]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    return {"registers": int(found[1]), "local_bytes": int(found[2]), "matrix": len(re.findall(r"\bHGMMA\b", said))}


@pytest.mark.slow
def test_kernels_compile_for_hopper_and_stay_in_registers(tmp_path):
    pytest.importorskip("triton", reason="the kernels need Triton: pip install triton==3.7.1")
    pytest.importorskip("torch")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"mix_bf16", "mix_fp32", "transform_bf16", "transform_fp32", "draw_small", "draw_rest"} < set(found)
    assert {"expect_and_draw", "scale_rows", "add_and_normalise"} < set(found)
    assert {name: item["local_bytes"] for name, item in found.items()} == dict.fromkeys(found, 0)
    assert found["mix_bf16"]["matrix"] > 0
    assert found["transform_bf16"]["matrix"] > 0
    assert found["mix_bf16"]["registers"] <= 128  # two programs of 256 threads on a multiprocessor


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: usage(*kernel) for name, kernel in published().items()}))
