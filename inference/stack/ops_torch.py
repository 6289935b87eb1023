"""The interchangeable parts of the model in plain torch, for machines without a faster backend.

In: tokens and weights on any device. Out: tensors there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from inference.stack.attention import attend_in_two
from inference.stack.config import NORM_EPS
from inference.stack.sampling import draw_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class TorchOps:
    """:class:`inference.stack.ops.Ops` by torch's own functions."""

    name = "torch"
    faults: Sequence[str] = ()

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
        place, qkv, proj, proj_bias, norm, norm_bias = _as(tokens, place, qkv, proj, proj_bias, norm, norm_bias)
        parts = F.linear(tokens + place, qkv).view(n_cells, length, 3, n_heads, size // n_heads)
        mixed = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4))
        mixed = F.linear(mixed.transpose(1, 2).reshape(tokens.shape), proj, proj_bias)
        return F.layer_norm(tokens + mixed, (size,), norm, norm_bias, NORM_EPS)

    def transform_tokens(
        self, tokens: Tensor, *, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, norm: Tensor, norm_bias: Tensor
    ) -> Tensor:
        """Two linear layers on each token, added and normalised."""
        w1, b1, w2, b2, norm, norm_bias = _as(tokens, w1, b1, w2, b2, norm, norm_bias)
        changed = F.linear(F.gelu(F.linear(tokens, w1, b1)), w2, b2)
        return F.layer_norm(tokens + changed, norm.shape, norm, norm_bias, NORM_EPS)

    def add_and_normalise(self, rows: Tensor, changed: Tensor, *, norm: Tensor, norm_bias: Tensor) -> Tensor:
        """Sum, normalised."""
        norm, norm_bias = _as(rows, norm, norm_bias)
        return F.layer_norm(changed.add_(rows), norm.shape, norm, norm_bias, NORM_EPS)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, n_keep: int) -> Tensor:
        """Attention over the cells of a window, in two calls: a mask costs a processor a sixth more."""
        return attend_in_two(query, key, value, n_keep=n_keep)

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
        """Means by softmax, then counts."""
        mean = expect(logits, library)
        return mean, self.draw_counts(mean, dispersion, seed=seed, step=step, cells=cells, window=window)

    def draw_counts(
        self, mean: Tensor, dispersion: Tensor, *, seed: int, step: int, cells: Tensor, window: Tensor
    ) -> Tensor:
        """Counts by numpy and scipy on the processor."""
        theta = dispersion[window].cpu().numpy()
        drawn = draw_counts(mean.cpu().numpy(), theta, seed=seed, step=step, cells=cells.tolist())
        return torch.from_numpy(drawn).to(mean.device)

    def lower_median(self, raw: Tensor) -> Tensor:
        """Lower median over the rows of each window, by torch."""
        return raw.float().median(dim=1).values


def expect(logits: Tensor, library: Tensor) -> Tensor:
    """Expected counts (..., genes), float32, from logits and library sizes (...)."""
    return torch.softmax(logits.float(), dim=-1).mul_(library.unsqueeze(-1))


def _as(like: Tensor, *weights: Tensor) -> list[Tensor]:
    return [weight.to(like.dtype) for weight in weights]
