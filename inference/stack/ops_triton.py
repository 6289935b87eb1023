"""The interchangeable parts of the model as fused Triton kernels, for a GPU.

In: tensors on the GPU. Out: tensors there; nothing waits for the host.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import torch
from triton.errors import TritonError

from inference.stack import triton_sampling, triton_tokens
from inference.stack.ops_torch import TorchOps

if TYPE_CHECKING:
    from torch import Tensor

_OPERANDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TritonOps:
    """:class:`inference.stack.ops.Ops` by one kernel each, for tokens of up to 32 numbers.

    Wider tokens go to torch: there the products outweigh the traffic that fusing saves.

    Parameters
    ----------
    precision
        ``fp32`` or ``bf16``: what factors of matrix products are rounded to; sums are float32 either way. The draws are
        float64 always.
    """

    name = "triton"

    def __init__(self, precision: str = "fp32") -> None:
        self._operand = _OPERANDS[precision]
        self._wide = TorchOps()

    def mix_tokens(  # noqa: PLR0913 - one argument per tensor
        self,
        tokens: Tensor,
        *,
        place: Tensor,
        qkv: Tensor,
        proj: Tensor,
        proj_bias: Tensor,
        norm: Tensor,
        norm_bias: Tensor,
        n_heads: int,
    ) -> Tensor:
        """Attention among each cell's own tokens, added and normalised."""
        weights = {
            "place": place,
            "qkv": qkv,
            "proj": proj,
            "proj_bias": proj_bias,
            "norm": norm,
            "norm_bias": norm_bias,
        }
        if tokens.shape[-1] > triton_tokens.MAX_TOKEN_DIM:
            return self._wide.mix_tokens(tokens, **weights, n_heads=n_heads)
        return triton_tokens.mix_tokens(tokens, **weights, n_heads=n_heads, operand=self._operand)

    def transform_tokens(
        self, tokens: Tensor, *, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, norm: Tensor, norm_bias: Tensor
    ) -> Tensor:
        """Two linear layers on each token, added and normalised."""
        weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2, "norm": norm, "norm_bias": norm_bias}
        if tokens.shape[-1] > triton_tokens.MAX_TOKEN_DIM:
            return self._wide.transform_tokens(tokens, **weights)
        return triton_tokens.transform_tokens(tokens, **weights, operand=self._operand)

    def draw_counts(
        self, mean: Tensor, dispersion: Tensor, *, seed: int, step: int, cells: Tensor, window: Tensor
    ) -> Tensor:
        """Counts of the processor's sampler, drawn on the device."""
        return triton_sampling.draw_counts(mean, dispersion, seed=seed, step=step, cells=cells, window=window)

    def lower_median(self, raw: Tensor) -> Tensor:
        """Lower median over the rows of each window, by torch."""
        return self._wide.lower_median(raw)


def why_not(device: torch.device) -> str | None:
    """Say why the kernels cannot run on ``device``; None if they can.

    Triton builds its driver with the machine's C compiler at first use, so one small kernel is run to know.
    """
    one = torch.ones(1, 1, device=device)
    place = torch.zeros(1, dtype=torch.int64, device=device)
    try:
        TritonOps().draw_counts(one, one, seed=0, step=0, cells=place, window=place)
    except (TritonError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return f"{type(error).__name__}: {error}"
    return None
