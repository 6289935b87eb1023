"""The interchangeable parts of the model in compiled code for the processor.

In: tokens and weights in float32 on the processor. Out: tensors; no backend where the extension was not built.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inference.stack.ops_torch import TorchOps
from inference.stack.sampling import finish_counts, row_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float32]

EXTENSION = "inference.stack._native"
VERSION = 5  # of the extension's functions


def load_native() -> NativeOps:
    """Return the compiled backend; raises ImportError where :func:`why_not` gives a reason."""
    return NativeOps(import_module(EXTENSION))  # it shares the OpenMP threads of torch, loaded above


def why_not(version: int = VERSION) -> str | None:
    """Why there is no compiled backend here; None where there is one."""
    if not find_spec(EXTENSION):
        return f"the extension {EXTENSION} was not built: install with a C compiler"
    if getattr(import_module(EXTENSION), "VERSION", 1) != version:
        return f"the extension {EXTENSION} was built from other sources: install again"
    return None


class NativeOps(TorchOps):
    """:class:`inference.stack.ops.Ops` by the extension, on as many threads as torch uses; what it lacks by torch."""

    def __init__(self, kernels: Any) -> None:  # noqa: ANN401 - the extension module
        self._kernels = kernels
        self.name = f"native ({kernels.variants()[-1]})"

    def variants(self) -> list[str]:
        """Kernels that this processor can run, the best one last."""
        return list(self._kernels.variants())

    def use(self, variant: str) -> None:
        """Use these kernels from now on; raises ValueError where the processor cannot run them."""
        self._kernels.use(variant)
        self.name = f"native ({variant})"

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
        n_cells, length, size = tokens.shape
        parts = [_floats(part) for part in (tokens, place, qkv, proj, proj_bias, norm, norm_bias)]
        result = torch.empty_like(parts[0])
        addresses = [part.data_ptr() for part in (parts[0], result, *parts[1:])]
        self._kernels.mix_tokens(*addresses, n_cells, length, size, n_heads, torch.get_num_threads())
        return result.to(tokens.dtype)

    def transform_tokens(
        self, tokens: Tensor, *, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, norm: Tensor, norm_bias: Tensor
    ) -> Tensor:
        """Two linear layers on each token, added and normalised."""
        parts = [_floats(part) for part in (tokens, w1, b1, w2, b2, norm, norm_bias)]
        result = torch.empty_like(parts[0])
        addresses = [part.data_ptr() for part in (parts[0], result, *parts[1:])]
        hidden, size = w1.shape
        self._kernels.transform_tokens(*addresses, tokens.numel() // size, size, hidden, torch.get_num_threads())
        return result.to(tokens.dtype)

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Rows times transposed weights, plus bias, float32; the rows of ``weight`` may have gaps between them."""
        x, bias = x.contiguous(), None if bias is None else bias.contiguous()
        result = x.new_empty(*x.shape[:-1], len(weight))
        addresses = (x.data_ptr(), weight.data_ptr(), 0 if bias is None else bias.data_ptr(), result.data_ptr())
        n_in = x.shape[-1]
        sizes = (x.numel() // max(n_in, 1), len(weight), n_in, weight.stride(0))
        self._kernels.multiply(*addresses, *sizes, torch.get_num_threads())
        return result

    def attend_exactly(self, qkv: Tensor, *, n_heads: int, space: Tensor) -> Tensor:
        """Attention among tokens with the reference's roundings, as far as the processor's own library has them, too.

        ``qkv`` is (cells, length, 3 size); ``space`` (cells * heads, length, length) is overwritten. Returns (cells,
        length, size).
        """
        n_cells, length, size = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        result = qkv.new_empty(n_cells, length, size)
        sizes = (n_cells, length, size, n_heads, torch.get_num_threads())
        self._kernels.score_exactly(qkv.data_ptr(), space.data_ptr(), 0, *sizes)
        torch.softmax(space, dim=-1, out=space)
        self._kernels.weigh_exactly(qkv.data_ptr(), space.data_ptr(), result.data_ptr(), *sizes)
        return result

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, n_keep: int) -> Tensor:
        """Attention over the cells of a window; what is not a part of one tensor of float32 rows, by torch."""
        n_windows, n_heads, n_rows, dim = query.shape
        stride = query.stride(2)
        kinds = {(part.dtype, *part.stride()) for part in (query, key, value)}
        if kinds != {(torch.float32, n_rows * stride, dim, stride, 1)}:
            return super().attend(query, key, value, n_keep=n_keep)
        result = query.new_empty(n_windows, n_rows, n_heads * dim)
        addresses = [part.data_ptr() for part in (query, key, value, result)]
        sizes = (n_windows, n_rows, n_heads, dim, stride, n_keep, torch.get_num_threads())
        self._kernels.attend_rows(*addresses, *sizes)
        return result

    def draw_counts(
        self, mean: Tensor, dispersion: Tensor, *, seed: int, step: int, cells: Tensor, window: Tensor
    ) -> Tensor:
        """Counts by summing probabilities in the extension; the few large ones by scipy."""
        mean, dispersion = _floats(mean), _floats(dispersion)
        counts = torch.empty_like(mean)
        keys = row_keys(seed, step=step, cells=cells.tolist())
        rows = np.ascontiguousarray(window.numpy())
        addresses = (mean.data_ptr(), dispersion.data_ptr(), counts.data_ptr(), keys.ctypes.data, rows.ctypes.data)
        if self._kernels.draw_counts(*addresses, *mean.shape, torch.get_num_threads()):
            finish_counts(counts.numpy(), mean=mean.numpy(), dispersion=dispersion.numpy(), keys=keys, window=rows)
        return counts

    def lower_median(self, raw: Tensor) -> Tensor:
        """Lower median over the rows of each window."""
        raw = _floats(raw)
        n_windows, n_rows, n_genes = raw.shape
        result = raw.new_empty(n_windows, n_genes)
        self._kernels.lower_median(
            raw.data_ptr(), result.data_ptr(), n_windows, n_rows, n_genes, torch.get_num_threads()
        )
        return result

    def expect_log(self, mean: Floats, dispersion: Floats, *, scale: Floats) -> Floats:
        """See :func:`inference.stack.moments.expect_log`."""
        parts = [np.ascontiguousarray(part, dtype=np.float32) for part in (mean, dispersion, scale[:, 0])]
        result = np.empty(mean.shape, dtype=np.float32)
        addresses = [part.ctypes.data for part in (*parts, result)]
        self._kernels.expect_log(*addresses, *mean.shape, torch.get_num_threads())
        return result


def _floats(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32).contiguous()
