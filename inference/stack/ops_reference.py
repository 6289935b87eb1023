"""The parts of the model in the reference's order of operations: slower, and equal bit for bit.

In: tokens and weights in float32. Out: tensors; the random stream of the exact mode follows every bit of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from inference.stack.config import NORM_EPS
from inference.stack.ops_torch import TorchOps

if TYPE_CHECKING:
    from torch import Tensor

_CELLS = 4  # cells whose attention fits a processor's cache; the number does not change the result


class ReferenceOps(TorchOps):
    """:class:`inference.stack.ops.Ops`, attention written out."""

    name = "reference"

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
        parts = F.linear(tokens + place, qkv).view(n_cells, length, 3, n_heads, size // n_heads).permute(2, 0, 3, 1, 4)
        mixed = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
        space = tokens.new_empty(_CELLS * n_heads, length, length)  # reused, because new memory is slow
        for start in range(0, n_cells, _CELLS):
            query, key, value = parts[:, start : start + _CELLS]
            # The memory layout is the reference's, also for a single cell: the product of a view rounds differently.
            query, key, value = (part.contiguous().flatten(0, 1) for part in (query, key.mT, value))
            scores = torch.bmm(query, key, out=space[: len(query)])
            shares = torch.softmax(scores.mul_(query.shape[-1] ** -0.5), dim=-1, out=scores)
            torch.bmm(shares, value, out=mixed[start : start + _CELLS].flatten(0, 1))
        mixed = F.linear(mixed.transpose(1, 2).reshape(tokens.shape), proj, proj_bias)
        return F.layer_norm(tokens + mixed, (size,), norm, norm_bias, NORM_EPS)


def reference_attention(query: Tensor, key: Tensor, value: Tensor, *, n_keep: int) -> Tensor:
    """Attention of (batch, heads, positions, head_dim); the first ``n_keep`` positions attend only to each other."""
    scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    if n_keep:
        scores[..., :n_keep, n_keep:] = -torch.inf
    return torch.softmax(scores, dim=-1) @ value


def reference_softplus(raw: Tensor) -> Tensor:
    """Softplus of every second value of an array, which torch rounds differently than that of a dense array."""
    pairs = torch.empty((*raw.shape, 2), dtype=raw.dtype)
    pairs[..., 1] = raw
    return F.softplus(pairs[..., 1])
