"""The parts of the model in the reference's order of operations: slower, and equal bit for bit.

In: tokens and weights in float32. Out: tensors; the random stream of the exact mode follows every bit of them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from inference.stack.config import NORM_EPS
from inference.stack.ops_native import load_native, why_not
from inference.stack.ops_torch import TorchOps

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from inference.stack.ops_native import NativeOps

_CELLS = 4  # cells whose attention fits a processor's cache; the number does not change the result
_NEAR = 1e-6  # of a value, or of 1: softplus of values further apart differs by more than its roundings
_COMPILED_CELLS = 8  # the same for compiled attention, where threads share the cells


class ReferenceOps(TorchOps):
    """:class:`inference.stack.ops.Ops`, attention written out; compiled where that gives every bit of torch's."""

    name = "reference"

    def __init__(self) -> None:
        self._native = None if why_not() else load_native()
        self._is_equal: dict[tuple[int, ...], bool] = {}  # by the sizes of tokens and heads

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
        given = F.linear(tokens + place, qkv)
        attend = self._find_attention(given, n_heads)
        mixed = F.linear(attend(given, n_heads), proj, proj_bias)
        return F.layer_norm(tokens + mixed, (tokens.shape[-1],), norm, norm_bias, NORM_EPS)

    def lower_median(self, raw: Tensor) -> Tensor:
        """Lower median over the rows of each window; it is one of the values, whoever finds it."""
        return super().lower_median(raw) if self._native is None else self._native.lower_median(raw)

    def _find_attention(self, qkv: Tensor, n_heads: int) -> Callable[[Tensor, int], Tensor]:
        """Compiled attention where that of the first cells of these sizes is torch's to the bit, else torch's."""
        if self._native is None:
            return _attend_by_torch
        compiled, sizes = partial(_attend_compiled, self._native), (*qkv.shape[1:], n_heads)
        if sizes not in self._is_equal:
            some = qkv[:_CELLS]
            found, want = (attend(some, n_heads) for attend in (compiled, _attend_by_torch))
            # The layout matters, too: with one dimension a head torch's is a view; the next product rounds otherwise.
            self._is_equal[sizes] = torch.equal(found, want) and found.stride() == want.stride()
        return compiled if self._is_equal[sizes] else _attend_by_torch


def _attend_compiled(native: NativeOps, qkv: Tensor, n_heads: int) -> Tensor:
    length = qkv.shape[1]
    space = qkv.new_empty(_COMPILED_CELLS * n_heads, length, length)
    parts = qkv.split(_COMPILED_CELLS)
    return torch.cat(
        [native.attend_exactly(part, n_heads=n_heads, space=space[: len(part) * n_heads]) for part in parts]
    )


def _attend_by_torch(qkv: Tensor, n_heads: int) -> Tensor:
    n_cells, length, size = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    parts = qkv.view(n_cells, length, 3, n_heads, size // n_heads).permute(2, 0, 3, 1, 4)
    mixed = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
    space = qkv.new_empty(_CELLS * n_heads, length, length)  # reused, because new memory is slow
    for start in range(0, n_cells, _CELLS):
        query, key, value = parts[:, start : start + _CELLS]
        # The memory layout is the reference's, also for a single cell: the product of a view rounds differently.
        query, key, value = (part.contiguous().flatten(0, 1) for part in (query, key.mT, value))
        scores = torch.bmm(query, key, out=space[: len(query)])
        shares = torch.softmax(scores.mul_(query.shape[-1] ** -0.5), dim=-1, out=scores)
        torch.bmm(shares, value, out=mixed[start : start + _CELLS].flatten(0, 1))
    return mixed.transpose(1, 2).reshape(n_cells, length, size)


def reference_attention(query: Tensor, key: Tensor, value: Tensor, *, n_keep: int) -> Tensor:
    """Attention of (batch, heads, positions, head_dim); the first ``n_keep`` positions attend only to each other."""
    scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    if n_keep:
        scores[..., :n_keep, n_keep:] = -torch.inf
    return torch.softmax(scores, dim=-1) @ value


def reference_dispersion(raw: Tensor, median: Tensor) -> Tensor:
    """Lower median (windows, genes) of the softplus of (windows, rows, genes), given that of the values themselves.

    It is the softplus of the median, unless another value lies so close that roundings may exchange the two.
    """
    result = reference_softplus(median)
    nearest = _NEAR * median.abs().clamp_min(1.0).unsqueeze(1)
    is_close = (raw - median.unsqueeze(1)).abs_().le(nearest).sum(dim=1) > 1
    for window, genes in enumerate(is_close):
        if genes.any():
            result[window, genes] = reference_softplus(raw[window][:, genes]).median(dim=0).values
    return result


def reference_softplus(raw: Tensor) -> Tensor:
    """Softplus of every second value of an array, which torch rounds differently than that of a dense array."""
    pairs = torch.empty((*raw.shape, 2), dtype=raw.dtype)
    pairs[..., 1] = raw
    return F.softplus(pairs[..., 1])
