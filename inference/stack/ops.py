"""The parts of the model that differ between machines: one interface, and the choice of its backend.

In: a device and a precision. Out: an :class:`Ops`: compiled code for a processor, Triton for a GPU, or plain torch.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Ops(Protocol):
    """What a backend computes; tensors are on the model's device, and all results are new tensors."""

    name: str  # as in the record of a prediction

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
        """Attention among each cell's own tokens: LN(x + MHA(x + place)); tokens (cells, H, D), contiguous."""

    def transform_tokens(
        self, tokens: Tensor, *, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, norm: Tensor, norm_bias: Tensor
    ) -> Tensor:
        """Each token by itself: LN(x + W2 GELU(W1 x + b1) + b2); tokens (cells, H, D), contiguous."""

    def draw_counts(
        self, mean: Tensor, dispersion: Tensor, *, seed: int, step: int, cells: Tensor, window: Tensor
    ) -> Tensor:
        """Negative-binomial counts at a hash of (seed, step, cell, gene).

        ``mean`` is (rows, genes), ``dispersion`` (windows, genes); ``cells`` (rows,) is each row's identity in the
        hash, ``window`` (rows,) its row of ``dispersion``; both int64.
        """

    def lower_median(self, raw: Tensor) -> Tensor:
        """Lower median (windows, genes) of finite values (windows, rows, genes) over the rows, float32."""


def choose_ops(device: torch.device, precision: str) -> Ops:
    """Choose the fastest available backend; plain torch works everywhere.

    Parameters
    ----------
    device
        Device of the model.
    precision
        ``fp32`` or ``bf16``. The processor's kernels always compute in fp32.
    """
    if why_plain(device) is not None:
        from inference.stack.ops_torch import TorchOps

        return TorchOps()
    if device.type == "cuda":
        from inference.stack.ops_triton import TritonOps

        return TritonOps(precision)
    from inference.stack.ops_native import load_native

    return load_native()


def why_plain(device: torch.device) -> str | None:
    """Why a model on this device runs in plain torch, several times slower; None where it need not."""
    if device.type == "cuda":
        if not find_spec("triton"):
            return "the package triton is not installed"
        from inference.stack.ops_triton import why_not

        return why_not(device)
    if device.type == "cpu":
        from inference.stack.ops_native import why_not as why_not_native

        return why_not_native()
    return f"there are no kernels for {device.type}"
