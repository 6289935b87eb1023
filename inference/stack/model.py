"""The published STACK architecture as plain tensor arithmetic.

In: raw counts of cells, then windows of them. Out: per cell a mean profile and a logit, per window a dispersion.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from inference.stack.graphs import CudaRecorder, Replayed
from inference.stack.linear import choose_exact_linear, choose_linear, plain_linear, takes_gaps
from inference.stack.mapped import release_pages
from inference.stack.ops import choose_ops
from inference.stack.ops_reference import ReferenceOps, reference_attention, reference_dispersion
from inference.stack.ops_torch import expect

if TYPE_CHECKING:
    from inference.stack.config import StackConfig
    from inference.stack.linear import Linear
    from inference.stack.ops import Ops

LEAST_ROWS = 32  # BLAS sums fewer rows in another order
MEAN, DISPERSION = 0, 1  # the output layer's two interleaved values per gene

_OUTPUT = "output_mlp.3."
_ROWS = 1024  # of the output layer that are copied at once
_LARGE = ("gene_reduction.", ".gene_attn.", "output_mlp.3.", "cls.0.")  # layers that bf16 rounds


@dataclass(frozen=True)
class WindowOutput:
    """The model's output for rows ``first_row`` and later of each window."""

    mean: torch.Tensor  # (windows, rows, genes), expected counts: each row sums to its library size
    dispersion: torch.Tensor  # (windows, genes), inverse dispersion theta of the negative binomial
    logits: torch.Tensor  # (windows, rows); 0 for context rows


def place_tensors(tensors: dict[str, torch.Tensor], *, device: torch.device, precision: str) -> dict[str, torch.Tensor]:
    """Weights on ``device``, those of the large layers in ``precision``, the others in float32."""
    placed = {}
    for name, tensor in tensors.items():
        is_rounded = precision == "bf16" and any(part in name for part in _LARGE)
        placed[name] = tensor
        if not name.startswith(_OUTPUT):  # copied half by half where it is needed
            placed[name] = tensor.to(device=device, dtype=torch.bfloat16 if is_rounded else torch.float32)
        if placed[name] is not tensor:
            release_pages(tensor)
    return placed


@dataclass(frozen=True)
class _Half:
    """One of the output layer's two values: ``weight (hidden - centre) + offset``."""

    weight: torch.Tensor
    offset: torch.Tensor  # float32
    centre: torch.Tensor | None  # None: 0


class _OutputLayer:
    """The layer that gives two values per gene, as one product for each of them.

    Their rows alternate in the weights as they were read. Where a product with every second row of a matrix takes up to
    twice as long, each half is copied when it is first needed. Rounded products are taken of what lies beyond
    a typical cell, whose own values are float32: bfloat16 has no room for the large values that a trained layer adds to
    its biases, and both may be hundreds that cancel.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], config: StackConfig) -> None:
        self._whole, self._bias = (tensors[f"{_OUTPUT}{name}"] for name in ("weight", "bias"))
        self._before = [tensors[f"output_mlp.0.{name}"] for name in ("weight", "bias")]
        self._like = tensors["gene_reduction.0.weight"]
        self._typical = tensors[f"layers.{config.n_layers - 1}.mlp_norm.bias"].repeat(config.n_hidden)
        self._halves: dict[int, _Half] = {}
        self._lock = Lock()

    def half(self, part: int, *, has_gaps: bool) -> _Half:
        """One of the two values, of the device and type of the first layer; its rows may have gaps where it says so."""
        if has_gaps and self._whole.dtype == self._like.dtype and self._whole.device == self._like.device:
            return _Half(self._whole[part::2], self._bias[part::2].float(), None)
        with self._lock:
            if part not in self._halves:
                self._halves[part] = self._copy(part)
            return self._halves[part]

    def _copy(self, part: int) -> _Half:
        """Copy every second row; few rows of a mapped file are in memory at once."""
        like, centre = self._like, None
        if like.dtype != torch.float32:
            centre = F.gelu(plain_linear(self._typical.expand(LEAST_ROWS, -1), *self._before))[0]
        weight = like.new_empty(len(self._whole) // 2, self._whole.shape[1])
        offset = self._bias[part::2].to(like.device, torch.float32).contiguous()
        for start in range(0, len(weight), _ROWS):
            own, rows = slice(start, start + _ROWS), self._whole[2 * start : 2 * (start + _ROWS)]
            weight[own] = rows[part::2]
            if centre is not None:
                offset[own] += rows[part::2].to(like.device, torch.float32) @ centre
            release_pages(rows)
        return _Half(weight, offset, centre)


class StackModel:
    """Weights and the forward pass; the tensors are used as they were read.

    Parameters
    ----------
    config, tensors
        Sizes and weights.
    ops
        Backend for the parts that differ between machines; None chooses the fastest available one.
    """

    def __init__(
        self,
        config: StackConfig,
        tensors: dict[str, torch.Tensor],
        *,
        ops: Ops | None = None,
    ) -> None:
        self.config = config
        self._tensors = tensors
        self._is_exact = False
        dtype = tensors["gene_reduction.0.weight"].dtype
        self.precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        self.ops: Ops = ops or choose_ops(self.device, self.precision, config)
        self._multiply: Linear = choose_linear(self.device, dtype)
        self._output = _OutputLayer(tensors, config)
        # Tokens between the layers: on a GPU of the weights' type, which halves what every kernel reads and writes.
        self.token_dtype = dtype if self.device.type == "cuda" else torch.float32
        self.replayed: Replayed | None = None  # the layers as graphs, where the device has such
        if self.device.type == "cuda":
            self.replayed = Replayed(self._layers, CudaRecorder())

    @property
    def _enters_layers(self) -> bool:
        """Whether :meth:`enter` computes more than tokens; where sums depend on the number of rows, exact must not."""
        return self.device.type == "cpu" and (self.sums_alike or not self._is_exact)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._tensors["gene_pos_embedding"].device

    def to(self, device: torch.device, *, precision: str = "fp32") -> StackModel:
        """Return the model with its weights on ``device``, those of the large layers in ``precision``."""
        return StackModel(self.config, place_tensors(self._tensors, device=device, precision=precision))

    def exactly(self) -> StackModel:
        """Return a model with the same weights that computes bit for bit as the reference does."""
        model = copy(self)
        model.replayed = None
        model._is_exact, model.ops, model._multiply = True, ReferenceOps(), choose_exact_linear()
        return model

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
        config, tokens = self.config, self.embed_cells(counts.flatten(0, 1)).view(*counts.shape[:2], -1)
        entered = []
        for part, is_query in ((tokens[:, :n_ctx], False), (tokens[:, n_ctx:], True)):
            rows = self.enter(part.flatten(0, 1), is_query=is_query)
            entered.append(rows.view(*part.shape[:2], self.row_size))
        rows = torch.cat(entered, dim=1)
        return self.run_layers(rows, n_keep=n_keep).unflatten(2, (config.n_hidden, config.token_dim))

    @torch.inference_mode()
    def embed_cells(self, counts: torch.Tensor) -> torch.Tensor:
        """First tokens (cells, cell_dim) of raw counts (cells, genes); they depend on each cell alone."""
        n_cells = len(counts)
        if n_cells < LEAST_ROWS:
            counts = F.pad(counts, (0, 0, 0, LEAST_ROWS - n_cells))
        return F.gelu(self._linear("gene_reduction.0", torch.log1p(counts)))[:n_cells]

    @property
    def row_size(self) -> int:
        """Numbers that :meth:`enter` gives for one cell."""
        return (4 if self._enters_layers else 1) * self.config.cell_dim

    @torch.inference_mode()
    def enter(self, tokens: torch.Tensor, *, is_query: bool) -> torch.Tensor:
        """Compute what a cell brings into every window.

        Parameters
        ----------
        tokens
            (cells, cell_dim) first tokens.
        is_query
            Whether the cells are marked as query rows.

        Returns
        -------
        (cells, row_size). On a processor it is the first layer up to the attention between cells: tokens mixed inside
        the cell, then their queries, keys and values. On a GPU, where memory is slower than arithmetic, tokens.
        """
        if is_query:
            tokens = tokens + self._tensors["query_pos_embedding"].flatten()
        n_cells = len(tokens)
        if not self._enters_layers:
            return tokens
        if n_cells < LEAST_ROWS:
            tokens = F.pad(tokens, (0, 0, 0, LEAST_ROWS - n_cells))
        mixed = self._mix_tokens(0, tokens)
        return torch.cat([mixed, self._project(0, mixed)], dim=-1)[:n_cells]

    @torch.inference_mode()
    def run_layers(self, rows: torch.Tensor, *, n_keep: int) -> torch.Tensor:
        """Run all layers, in which the cells of each window attend to each other.

        Parameters
        ----------
        rows
            (windows, cells, row_size): what the cells bring, see :meth:`enter`.
        n_keep
            See :meth:`forward`.

        Returns
        -------
        Final tokens, (windows, cells, cell_dim); on a GPU they hold until the next call.
        """
        rows = rows.to(self.token_dtype)
        return (self.replayed or self._layers)(rows, n_keep=n_keep)

    def _layers(self, rows: torch.Tensor, *, n_keep: int) -> torch.Tensor:
        for index in range(self.config.n_layers):
            if self._enters_layers and index == 0:
                # contiguous, as the reference's attention takes them
                rows, qkv = (part.contiguous() for part in rows.tensor_split([self.config.cell_dim], dim=-1))
            else:
                rows = self._mix_tokens(index, rows)
                qkv = self._project(index, rows)
            rows = self._finish_layer(index, rows, qkv, n_keep=n_keep)
        return rows

    @torch.inference_mode()
    def predict_logits(self, flat: torch.Tensor, *, n_ctx: int, first_row: int) -> torch.Tensor:
        """Logits (windows, rows) of the rows from ``first_row`` on, from final tokens; 0 for context rows."""
        rows, context = flat[:, first_row:].float(), flat[:, :n_ctx].float().mean(dim=1, keepdim=True)
        logits = self._linear("cls.2", F.gelu(self._linear("cls.0", torch.cat([context.expand_as(rows), rows], -1))))
        logits = logits.squeeze(-1)
        logits[:, : max(0, n_ctx - first_row)] = 0.0
        return logits

    @property
    def sums_alike(self) -> bool:
        """Whether products of some rows equal to the bit those of the same rows among others."""
        return takes_gaps(self._multiply)

    @torch.inference_mode()
    def predict_mean(self, rows: torch.Tensor, library: torch.Tensor) -> torch.Tensor:
        """Expected counts (..., genes) from final tokens (..., cell_dim) and library sizes (...)."""
        return expect(self.predict_mean_logits(rows), library)

    @torch.inference_mode()
    def predict_mean_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (..., genes) whose softmax is a cell's share of each gene, from final tokens (..., cell_dim)."""
        return self._head(rows, part=MEAN)

    @torch.inference_mode()
    def predict_dispersion(self, context: torch.Tensor) -> torch.Tensor:
        """Inverse dispersions (windows, genes): the lower median over context rows (windows, rows, cell_dim)."""
        raw = self._head(context, part=DISPERSION)
        if self._is_exact:
            return reference_dispersion(raw, self.ops.lower_median(raw))
        return F.softplus(self.ops.lower_median(raw))  # a monotone function does not change the median row

    def _mix_tokens(self, index: int, rows: torch.Tensor) -> torch.Tensor:
        """Attention inside each cell of rows (..., cell_dim)."""
        config, name = self.config, f"layers.{index}"
        mixed = self.ops.mix_tokens(
            rows.reshape(-1, config.n_hidden, config.token_dim),
            place=self._tensors["gene_pos_embedding"],
            qkv=self._tensors[f"{name}.cell_attn.qkv.weight"],
            proj=self._tensors[f"{name}.cell_attn.proj.weight"],
            proj_bias=self._tensors[f"{name}.cell_attn.proj.bias"],
            norm=self._tensors[f"{name}.cell_norm.weight"],
            norm_bias=self._tensors[f"{name}.cell_norm.bias"],
            n_heads=config.n_token_heads,
        )
        return mixed.view(rows.shape)

    def _project(self, index: int, rows: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values (..., 3 cell_dim) of the attention between cells."""
        return self._multiply(rows, self._tensors[f"layers.{index}.gene_attn.qkv.weight"])

    def _finish_layer(self, index: int, rows: torch.Tensor, qkv: torch.Tensor, *, n_keep: int) -> torch.Tensor:
        """Attention between the cells of each window, then the network on each token."""
        config, name = self.config, f"layers.{index}"
        mixed = self._linear(f"{name}.gene_attn.proj", self._attend(qkv, n_keep=n_keep)).to(rows.dtype)
        norm, norm_bias = (self._tensors[f"{name}.gene_norm.{part}"] for part in ("weight", "bias"))
        rows = self.ops.add_and_normalise(rows, mixed, norm=norm, norm_bias=norm_bias)
        return self.ops.transform_tokens(
            rows.view(-1, config.n_hidden, config.token_dim),
            w1=self._tensors[f"{name}.mlp.0.weight"],
            b1=self._tensors[f"{name}.mlp.0.bias"],
            w2=self._tensors[f"{name}.mlp.3.weight"],
            b2=self._tensors[f"{name}.mlp.3.bias"],
            norm=self._tensors[f"{name}.mlp_norm.weight"],
            norm_bias=self._tensors[f"{name}.mlp_norm.bias"],
        ).view(rows.shape)

    def _attend(self, qkv: torch.Tensor, *, n_keep: int) -> torch.Tensor:
        """Attention over the cells of a window, (windows, cells, cell_dim), from their queries, keys and values."""
        n_windows, length, size = qkv.shape
        n_heads = self.config.n_heads
        query, key, value = qkv.view(n_windows, length, 3, n_heads, size // 3 // n_heads).permute(2, 0, 3, 1, 4)
        if self._is_exact:
            return reference_attention(query, key, value, n_keep=n_keep).transpose(1, 2).flatten(2)
        return self.ops.attend(query, key, value, n_keep=n_keep)

    def _head(self, rows: torch.Tensor, *, part: int) -> torch.Tensor:
        """One of the output layer's two values per gene: the mean's logit or the raw dispersion."""
        hidden = F.gelu(self._linear("output_mlp.0", rows.float()))
        half = self._output.half(part, has_gaps=takes_gaps(self._multiply))
        if half.centre is None:
            return self._multiply(hidden, half.weight, half.offset)
        return self._multiply(hidden - half.centre, half.weight).add_(half.offset)

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self._multiply(x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])
