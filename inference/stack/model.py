"""The published STACK architecture as plain tensor arithmetic.

In: raw counts of cells, then windows of them. Out: per cell a mean profile and a logit, per window a dispersion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from inference.stack.config import NORM_EPS
from inference.stack.linear import choose_linear, onednn_linear, plain_linear
from inference.stack.ops import choose_ops
from inference.stack.ops_reference import ReferenceOps, reference_attention, reference_softplus

if TYPE_CHECKING:
    from inference.stack.config import StackConfig
    from inference.stack.linear import Linear
    from inference.stack.ops import Ops

MEAN, DISPERSION = 0, 1  # the output layer's two interleaved values per gene

_LARGE = ("gene_reduction.", ".gene_attn.", "output_mlp.", "cls.")  # layers that bf16 rounds
_LEAST_ROWS = 32  # BLAS sums fewer rows in another order
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
    """The model's output for rows ``first_row`` and later of each window."""

    mean: torch.Tensor  # (windows, rows, genes), expected counts: each row sums to its library size
    dispersion: torch.Tensor  # (windows, genes), inverse dispersion theta of the negative binomial
    logits: torch.Tensor  # (windows, rows); 0 for context rows


@dataclass
class KeptRows:
    """Rows that attend only to each other, computed once: keys and values of each layer, and the final state."""

    keys_values: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    final: torch.Tensor | None = None  # (1, rows, cell_dim)
    raw_dispersion: torch.Tensor | None = None  # (1, rows, genes)


class StackModel:
    """Weights and the forward pass; the tensors are used as they were read.

    Parameters
    ----------
    config, tensors
        Sizes and weights.
    ops
        Backend for the parts that differ between machines; None chooses the fastest available one.
    is_exact
        Compute in the reference's order of operations, so that results agree bit for bit.
    """

    def __init__(
        self,
        config: StackConfig,
        tensors: dict[str, torch.Tensor],
        *,
        ops: Ops | None = None,
        is_exact: bool = False,
    ) -> None:
        self.config = config
        self._tensors = tensors
        self._is_exact = is_exact
        dtype = tensors["output_mlp.3.weight"].dtype
        self.precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        self.ops: Ops = ReferenceOps() if is_exact else ops or choose_ops(self.device, self.precision)
        self._multiply: Linear = plain_linear if is_exact else choose_linear(self.device, dtype)
        self._mean_weight: torch.Tensor | None = None  # every second row of the output layer, without gaps

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._tensors["gene_pos_embedding"].device

    def to(self, device: torch.device, *, precision: str = "fp32") -> StackModel:
        """Return the model with its weights on ``device``, those of the large layers in ``precision``."""
        moved = {}
        for name, tensor in self._tensors.items():
            is_rounded = precision == "bf16" and any(part in name for part in _LARGE)
            moved[name] = tensor.to(device=device, dtype=torch.bfloat16 if is_rounded else torch.float32)
        return StackModel(self.config, moved)

    def exactly(self) -> StackModel:
        """Return a model with the same weights that computes bit for bit as the reference does."""
        return StackModel(self.config, self._tensors, is_exact=True)

    @torch.inference_mode()
    def forward(self, counts: torch.Tensor, *, n_ctx: int, n_keep: int, first_row: int) -> WindowOutput:
        """Predict the rows from ``first_row`` on.

        Parameters
        ----------
        counts
            (windows, cells, genes) raw counts, float32: prompt rows first, then query rows.
        n_ctx
            Rows that are context: dispersion and mean token vector come from them. The other rows are marked as query
            rows by an embedding.
        n_keep
            Rows that attend only to each other.
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
        mean = self.predict_mean(flat[:, first_row:], counts[:, first_row:].sum(-1))
        dispersion = self.predict_dispersion(flat[:, :n_ctx])
        return WindowOutput(mean, dispersion, self.predict_logits(flat, n_ctx=n_ctx, first_row=first_row))

    @torch.inference_mode()
    def embed(self, counts: torch.Tensor, *, n_ctx: int, n_keep: int) -> torch.Tensor:
        """Final tokens (windows, cells, n_hidden, token_dim) of windows of raw counts; see :meth:`forward`."""
        rows = self.embed_cells(counts.flatten(0, 1)).view(*counts.shape[:2], -1)
        config = self.config
        return self.run_layers(rows, n_ctx=n_ctx, n_keep=n_keep).unflatten(2, (config.n_hidden, config.token_dim))

    @torch.inference_mode()
    def embed_cells(self, counts: torch.Tensor) -> torch.Tensor:
        """First tokens (cells, cell_dim) of raw counts (cells, genes); they depend on each cell alone."""
        n_cells = len(counts)
        if n_cells < _LEAST_ROWS:
            counts = F.pad(counts, (0, 0, 0, _LEAST_ROWS - n_cells))
        return F.gelu(self._linear("gene_reduction.0", torch.log1p(counts)))[:n_cells]

    @torch.inference_mode()
    def run_layers(self, rows: torch.Tensor, *, n_ctx: int, n_keep: int, kept: KeptRows | None = None) -> torch.Tensor:
        """Run all layers, in which the cells of each window attend to each other.

        Parameters
        ----------
        rows
            (windows, cells, cell_dim) first tokens; changed in place.
        n_ctx, n_keep
            See :meth:`forward`.
        kept
            The first ``n_keep`` rows, from :meth:`keep_rows`; they are then missing in ``rows``, not in the result.

        Returns
        -------
        Final tokens, (windows, cells, cell_dim).
        """
        n_before = 0 if kept is None else n_keep
        rows[:, n_ctx - n_before :] += self._tensors["query_pos_embedding"].flatten()
        for index in range(self.config.n_layers):
            rows = self._layer(index, rows, n_keep=n_keep - n_before, kept=kept)
        if kept is None or kept.final is None:
            return rows
        return torch.cat([kept.final.expand(len(rows), -1, -1), rows], dim=1)

    @torch.inference_mode()
    def keep_rows(self, rows: torch.Tensor) -> KeptRows:
        """Compute rows (1, rows, cell_dim) of first tokens that attend only to each other, once for many windows."""
        kept = KeptRows()
        for index in range(self.config.n_layers):
            rows = self._layer(index, rows, n_keep=0, record=kept)
        kept.final, kept.raw_dispersion = rows, self._head(rows, part=DISPERSION)
        return kept

    @torch.inference_mode()
    def predict_logits(self, flat: torch.Tensor, *, n_ctx: int, first_row: int) -> torch.Tensor:
        """Logits (windows, rows) of the rows from ``first_row`` on, from final tokens; 0 for context rows."""
        rows, context = flat[:, first_row:], flat[:, :n_ctx].mean(dim=1, keepdim=True)
        logits = self._linear("cls.2", F.gelu(self._linear("cls.0", torch.cat([context.expand_as(rows), rows], -1))))
        logits = logits.squeeze(-1)
        logits[:, : max(0, n_ctx - first_row)] = 0.0
        return logits

    @torch.inference_mode()
    def predict_mean(self, rows: torch.Tensor, library: torch.Tensor) -> torch.Tensor:
        """Expected counts (..., genes) from final tokens (..., cell_dim) and library sizes (...)."""
        return torch.softmax(self._head(rows, part=MEAN).float(), dim=-1).mul_(library.unsqueeze(-1))

    @torch.inference_mode()
    def predict_dispersion(self, context: torch.Tensor, kept: KeptRows | None = None) -> torch.Tensor:
        """Inverse dispersions (windows, genes): the lower median over context rows (windows, rows, cell_dim)."""
        if kept is not None and kept.raw_dispersion is not None:
            n_kept = min(kept.raw_dispersion.shape[1], context.shape[1])
            parts = [kept.raw_dispersion[:, :n_kept].expand(len(context), -1, -1)]
            if n_kept < context.shape[1]:
                parts.append(self._head(context[:, n_kept:], part=DISPERSION))
            raw = torch.cat(parts, dim=1)
        else:
            raw = self._head(context, part=DISPERSION)
        if self._is_exact:
            return reference_softplus(raw).median(dim=1).values
        return F.softplus(raw.float().median(dim=1).values)  # a monotone function does not change the median row

    def _layer(
        self,
        index: int,
        rows: torch.Tensor,
        *,
        n_keep: int,
        kept: KeptRows | None = None,
        record: KeptRows | None = None,
    ) -> torch.Tensor:
        name, config = f"layers.{index}", self.config
        tensors = {key: self._tensors[f"{name}.{key}"] for key in _LAYER}
        tokens = self.ops.mix_tokens(
            rows.reshape(-1, config.n_hidden, config.token_dim),
            place=self._tensors["gene_pos_embedding"],
            qkv=tensors["cell_attn.qkv.weight"],
            proj=tensors["cell_attn.proj.weight"],
            proj_bias=tensors["cell_attn.proj.bias"],
            norm=tensors["cell_norm.weight"],
            norm_bias=tensors["cell_norm.bias"],
            n_heads=config.n_token_heads,
        )
        rows = tokens.view(rows.shape)
        before = kept.keys_values[index] if kept is not None else None
        mixed, keys_values = self._attend(f"{name}.gene_attn", rows, n_keep=n_keep, before=before)
        if record is not None:
            record.keys_values.append(keys_values)
        norm, norm_bias = (self._tensors[f"{name}.gene_norm.{part}"].to(rows.dtype) for part in ("weight", "bias"))
        rows = F.layer_norm(mixed.add_(rows), norm.shape, norm, norm_bias, NORM_EPS)
        return self.ops.transform_tokens(
            rows.view_as(tokens),
            w1=tensors["mlp.0.weight"],
            b1=tensors["mlp.0.bias"],
            w2=tensors["mlp.3.weight"],
            b2=tensors["mlp.3.bias"],
            norm=tensors["mlp_norm.weight"],
            norm_bias=tensors["mlp_norm.bias"],
        ).view(rows.shape)

    def _attend(
        self, name: str, x: torch.Tensor, *, n_keep: int, before: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Attention over the cells of a window, with its keys and values; ``before`` are those of preceding cells."""
        n_windows, length, size = x.shape
        n_heads = self.config.n_heads
        weight = self._tensors[f"{name}.qkv.weight"]
        # On a GPU, attention has the precision of the weights.
        qkv = self._multiply(x.to(weight.dtype) if x.is_cuda else x, weight)
        query, key, value = qkv.view(n_windows, length, 3, n_heads, size // n_heads).permute(2, 0, 3, 1, 4)
        if before is not None:
            key, value = (
                torch.cat([first.expand(n_windows, -1, -1, -1), part], dim=2)
                for first, part in zip(before, (key, value), strict=True)
            )
        if self._is_exact:
            mixed = reference_attention(query, key, value, n_keep=n_keep)
        else:
            mixed = F.scaled_dot_product_attention(query[:, :, n_keep:], key, value)
            if n_keep:
                alone = (part[:, :, :n_keep] for part in (query, key, value))
                mixed = torch.cat([F.scaled_dot_product_attention(*alone), mixed], dim=2)
        mixed = mixed.transpose(1, 2).reshape(n_windows, length, size)
        return self._linear(f"{name}.proj", mixed).to(x.dtype), (key, value)

    def _head(self, rows: torch.Tensor, *, part: int) -> torch.Tensor:
        """One of the output layer's two values per gene: the mean's logit or the raw dispersion."""
        hidden = F.gelu(self._linear("output_mlp.0", rows))
        weight = self._tensors["output_mlp.3.weight"][part::2]
        if part == MEAN and self._multiply is onednn_linear:  # a copy of the other half would not be worth its memory
            if self._mean_weight is None:
                self._mean_weight = weight.contiguous()
            weight = self._mean_weight
        return self._multiply(hidden, weight, self._tensors["output_mlp.3.bias"][part::2])

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self._multiply(x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])
