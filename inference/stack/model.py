"""The published STACK architecture as plain tensor arithmetic.

In: raw counts of windows of cells. Out: per test row a mean profile and a logit, per window a dispersion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from inference.stack.ops import NORM_EPS, choose_ops

if TYPE_CHECKING:
    from inference.stack.config import StackConfig
    from inference.stack.ops import Ops

_LAYER = (  # what ``Ops`` needs of each layer
    "cell_attn.qkv.weight",
    "cell_attn.proj.weight",
    "cell_attn.proj.bias",
    "cell_norm.weight",
    "cell_norm.bias",
    "mlp.0.weight",
    "mlp.0.bias",
    "mlp.3.weight",
    "mlp.3.bias",
    "mlp_norm.weight",
    "mlp_norm.bias",
)


@dataclass(frozen=True)
class WindowOutput:
    """What the model says about rows ``first_row`` and later of each window."""

    mean: torch.Tensor  # (windows, rows, genes), counts expected: each row sums to its library size
    dispersion: torch.Tensor  # (windows, genes), inverse dispersion theta of the negative binomial
    logits: torch.Tensor  # (windows, rows); 0 for context rows


class StackModel:
    """Weights and the forward pass; nothing is initialised, the tensors are used as they were read."""

    def __init__(self, config: StackConfig, tensors: dict[str, torch.Tensor], *, ops: Ops | None = None) -> None:
        self.config = config
        self._tensors = tensors
        self.ops = ops or choose_ops(self.device, "fp32")

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._tensors["gene_pos_embedding"].device

    def to(self, device: torch.device) -> StackModel:
        """Return the model with its weights on ``device``."""
        return StackModel(self.config, {name: tensor.to(device) for name, tensor in self._tensors.items()})

    @torch.inference_mode()
    def forward(self, counts: torch.Tensor, *, n_ctx: int, n_keep: int, first_row: int) -> WindowOutput:
        """Predict the rows from ``first_row`` on.

        Parameters
        ----------
        counts
            (windows, cells, genes) raw counts, float32: prompt rows first, then query rows.
        n_ctx
            Rows that are context: the dispersion and the mean token vector come from them; the others are marked as
            query by an embedding.
        n_keep
            Rows that see only each other.
        first_row
            First row to predict.

        Returns
        -------
        Mean, dispersion and logits.

        References
        ----------
        Dong et al. 2026, doi 10.64898/2026.01.09.698608.
        """
        flat = self.embed(counts, n_ctx=n_ctx, n_keep=n_keep).flatten(2)
        rows = flat[:, first_row:]
        library = counts[:, first_row:].sum(-1, keepdim=True)
        mean = torch.softmax(self._head(rows, part=0), dim=-1).mul_(library)
        dispersion = F.softplus(self._head(flat[:, :n_ctx], part=1)).median(dim=1).values
        context = flat[:, :n_ctx].mean(dim=1, keepdim=True)
        logits = self._linear("cls.2", F.gelu(self._linear("cls.0", torch.cat([context.expand_as(rows), rows], -1))))
        logits = logits.squeeze(-1)
        logits[:, : max(0, n_ctx - first_row)] = 0.0
        return WindowOutput(mean, dispersion, logits)

    @torch.inference_mode()
    def embed(self, counts: torch.Tensor, *, n_ctx: int, n_keep: int) -> torch.Tensor:
        """Final tokens (windows, cells, n_hidden, token_dim) of windows of raw counts; see :meth:`forward`."""
        config, tensors = self.config, self._tensors
        tokens = F.gelu(self._linear("gene_reduction.0", torch.log1p(counts)))
        tokens = tokens.view(*counts.shape[:2], config.n_hidden, config.token_dim)
        tokens[:, n_ctx:] += tensors["query_pos_embedding"]
        for index in range(config.n_layers):
            tokens = self._layer(f"layers.{index}", tokens, n_keep=n_keep)
        return tokens

    def _layer(self, name: str, tokens: torch.Tensor, *, n_keep: int) -> torch.Tensor:
        tensors = {key: self._tensors[f"{name}.{key}"] for key in _LAYER}
        shape = tokens.shape
        tokens = self.ops.mix_tokens(
            tokens.flatten(0, 1),
            place=self._tensors["gene_pos_embedding"],
            qkv=tensors["cell_attn.qkv.weight"],
            proj=tensors["cell_attn.proj.weight"],
            proj_bias=tensors["cell_attn.proj.bias"],
            norm=tensors["cell_norm.weight"],
            norm_bias=tensors["cell_norm.bias"],
            n_heads=self.config.n_token_heads,
        )
        cells = tokens.view(*shape[:2], -1)
        mixed = self._attend(f"{name}.gene_attn", cells, n_heads=self.config.n_heads, n_keep=n_keep)
        tokens = self._norm(f"{name}.gene_norm", cells + mixed).view_as(tokens)
        return self.ops.transform_tokens(
            tokens,
            w1=tensors["mlp.0.weight"],
            b1=tensors["mlp.0.bias"],
            w2=tensors["mlp.3.weight"],
            b2=tensors["mlp.3.bias"],
            norm=tensors["mlp_norm.weight"],
            norm_bias=tensors["mlp_norm.bias"],
        ).view(shape)

    def _attend(self, name: str, x: torch.Tensor, *, n_heads: int, n_keep: int) -> torch.Tensor:
        """Attention over the middle axis of ``x``; the first ``n_keep`` positions see only each other."""
        batch, length, size = x.shape
        qkv = F.linear(x, self._tensors[f"{name}.qkv.weight"])
        query, key, value = qkv.view(batch, length, 3, n_heads, size // n_heads).permute(2, 0, 3, 1, 4)
        rest = F.scaled_dot_product_attention(query[:, :, n_keep:], key, value)
        if n_keep:
            kept = [part[:, :, :n_keep] for part in (query, key, value)]
            rest = torch.cat([F.scaled_dot_product_attention(*kept), rest], dim=2)
        return self._linear(f"{name}.proj", rest.transpose(1, 2).reshape(batch, length, size))

    def _head(self, rows: torch.Tensor, *, part: int) -> torch.Tensor:
        """One of the output layer's two interleaved values per gene: 0 the mean's logit, 1 the raw dispersion."""
        hidden = F.gelu(self._linear("output_mlp.0", rows))
        weight, bias = self._tensors["output_mlp.3.weight"], self._tensors["output_mlp.3.bias"]
        return F.linear(hidden, weight[part::2], bias[part::2])

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, NORM_EPS)
