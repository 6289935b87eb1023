"""The STACK architecture with trainable parameters: the arithmetic of the runtime, with gradients.

In: sizes. Out: profiles (log shares of counts), dispersions and logits of windows of cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from torch import nn

from inference.stack.config import NORM_EPS, StackConfig, tensor_shapes

_POSITION_SD = 0.02


class Network(nn.Module):
    """Parameters by their checkpoint names, with ``/`` for dots because torch reserves the dot."""

    def __init__(self, config: StackConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        for name, shape in tensor_shapes(config).items():
            if name.endswith("_pos_embedding"):
                value = torch.randn(shape, generator=generator) * _POSITION_SD
            elif "norm" in name and name.endswith("weight"):
                value = torch.ones(shape)
            elif "norm" in name or len(shape) == 1:
                value = torch.zeros(shape)
            else:
                value = torch.randn(shape, generator=generator) / shape[1] ** 0.5
            self.register_parameter(name.replace(".", "/"), nn.Parameter(value))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.get_parameter(name.replace(".", "/"))

    def named(self, *prefixes: str) -> list[torch.Tensor]:
        """Parameters whose checkpoint name begins with one of ``prefixes``."""
        return [value for name, value in self.named_parameters() if name.replace("/", ".").startswith(prefixes)]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters by their checkpoint name, detached."""
        return {name.replace("/", "."): value.detach() for name, value in self.named_parameters()}

    def reduce(self, counts: torch.Tensor) -> torch.Tensor:
        """Tokens of single cells, flattened: (…, genes) raw counts -> (…, n_hidden x token_dim)."""
        return F.gelu(self._linear("gene_reduction.0", torch.log1p(counts)))

    def mix(self, tokens: torch.Tensor, *, n_ctx: int, n_keep: int) -> torch.Tensor:
        """Flattened tokens of windows (windows, cells, …), context rows first, through all layers."""
        shape = (*tokens.shape[:2], self.config.n_hidden, self.config.token_dim)
        tokens = tokens.view(shape)
        tokens = torch.cat([tokens[:, :n_ctx], tokens[:, n_ctx:] + self["query_pos_embedding"]], dim=1)
        for index in range(self.config.n_layers):
            name = f"layers.{index}"
            # attention among a cell's own tokens, then among the cells of a window, then each token by itself
            placed = (tokens + self["gene_pos_embedding"]).flatten(0, 1)
            mixed = self._attend(f"{name}.cell_attn", placed, n_heads=self.config.n_token_heads, n_keep=0)
            tokens = self._norm(f"{name}.cell_norm", tokens + mixed.view(shape))
            cells = tokens.flatten(2)
            mixed = self._attend(f"{name}.gene_attn", cells, n_heads=self.config.n_heads, n_keep=n_keep)
            tokens = self._norm(f"{name}.gene_norm", cells + mixed).view(shape)
            hidden = F.gelu(self._linear(f"{name}.mlp.0", tokens))
            tokens = self._norm(f"{name}.mlp_norm", tokens + self._linear(f"{name}.mlp.3", hidden))
        return tokens.flatten(2)

    def hidden(self, rows: torch.Tensor) -> torch.Tensor:
        """Input of the output layer."""
        return F.gelu(self._linear("output_mlp.0", rows))

    def logits(self, flat: torch.Tensor, *, n_ctx: int) -> torch.Tensor:
        """Logits of the rows from ``n_ctx`` on: high where a row is not in the state that the context shows."""
        rows, context = flat[:, n_ctx:], flat[:, :n_ctx].mean(dim=1, keepdim=True)
        joined = torch.cat([context.expand_as(rows), rows], dim=-1)
        return self._linear("cls.2", F.gelu(self._linear("cls.0", joined))).squeeze(-1)

    def head(self, hidden: torch.Tensor, *, part: int) -> torch.Tensor:
        """One of the two values per gene: 0 the logit of its share, 1 the raw dispersion."""
        return F.linear(hidden, self["output_mlp.3.weight"][part::2], self["output_mlp.3.bias"][part::2])

    def _attend(self, name: str, x: torch.Tensor, *, n_heads: int, n_keep: int) -> torch.Tensor:
        batch, length, size = x.shape
        qkv = F.linear(x, self[f"{name}.qkv.weight"])
        query, key, value = qkv.view(batch, length, 3, n_heads, size // n_heads).permute(2, 0, 3, 1, 4)
        mixed = _softmax_mean(query[:, :, n_keep:], key, value)
        if n_keep:
            kept = _softmax_mean(*(part[:, :, :n_keep] for part in (query, key, value)))
            mixed = torch.cat([kept, mixed], dim=2)
        return self._linear(f"{name}.proj", mixed.transpose(1, 2).reshape(batch, length, size))

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight = self[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self[f"{name}.bias"], NORM_EPS)


def _softmax_mean(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention by plain products, which at these sizes trains faster on a processor than the fused kernel."""
    return torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1) @ value
