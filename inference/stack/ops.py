"""The parts of the model that differ between machines: one interface, and the choice of its backend.

In: a device and a precision. Out: an :class:`Ops`: compiled code for a processor, Triton for a GPU, or plain torch.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from inference.stack.config import StackConfig


class Ops(Protocol):
    """What a backend computes; tensors are on the model's device, and all results are new tensors."""

    name: str  # as in the record of a prediction
    faults: Sequence[str]  # why parts that were made for this device cannot be used; each says what computes instead

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

    def add_and_normalise(self, rows: Tensor, changed: Tensor, *, norm: Tensor, norm_bias: Tensor) -> Tensor:
        """LN(rows + changed) of rows (..., size); ``changed`` may be overwritten."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, n_keep: int) -> Tensor:
        """Attention over the cells of a window, of which the first ``n_keep`` attend only to each other.

        ``query``, ``key`` and ``value`` are (windows, heads, cells, head_dim), the result (windows, cells, size).
        """

    def expect_and_draw(
        self,
        logits: Tensor,
        library: Tensor,
        dispersion: Tensor,
        *,
        seed: int,
        step: int,
        cells: Tensor,
        window: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Expected counts, float32, from logits (rows, genes) and library sizes (rows,); and counts drawn from them.

        The other arguments are those of :meth:`draw_counts`.
        """

    def draw_counts(
        self, mean: Tensor, dispersion: Tensor, *, seed: int, step: int, cells: Tensor, window: Tensor
    ) -> Tensor:
        """Negative-binomial counts at a hash of (seed, step, cell, gene).

        ``mean`` is (rows, genes), ``dispersion`` (windows, genes); ``cells`` (rows,) is each row's identity in the
        hash, ``window`` (rows,) its row of ``dispersion``; both int64.
        """

    def lower_median(self, raw: Tensor) -> Tensor:
        """Lower median (windows, genes) of finite values (windows, rows, genes) over the rows, float32."""


def choose_ops(device: torch.device, precision: str, config: StackConfig) -> Ops:
    """Choose the fastest available backend; plain torch works everywhere.

    On a GPU each part is tried at the model's sizes, and is torch's where ours is wrong or not clearly faster.

    Parameters
    ----------
    device
        Device of the model.
    precision
        ``fp32`` or ``bf16``. The processor's kernels always compute in fp32.
    config
        Sizes of the model.
    """
    if why_plain(device) is not None:
        from inference.stack.ops_torch import TorchOps

        return TorchOps()
    if device.type == "cuda":
        from inference.stack.ops_triton import choose_parts

        return choose_parts(device, precision, config)
    from inference.stack.ops_native import load_native

    return load_native()


def why_plain(device: torch.device) -> str | None:
    """Why a model on this device runs in plain torch, several times slower; None where it need not."""
    if device.type == "cuda":
        return None if find_spec("triton") else "the package triton is not installed"
    if device.type == "cpu":
        from inference.stack.ops_native import why_not as why_not_native

        return why_not_native()
    return f"there are no kernels for {device.type}"
