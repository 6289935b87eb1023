"""What a STACK checkpoint contains: the sizes of the model, and from them the name and shape of every tensor.

In: the ``model_config`` of a checkpoint. Out: :class:`StackConfig`, checked; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from inference.errors import ModelError

CITATION = (
    'Dong et al. 2026, "Stack: In-Context Learning of Single-Cell Biology", bioRxiv, doi 10.64898/2026.01.09.698608'
)
LICENCE = "Arc Research Institute Stack Model Non-Commercial License"

NORM_EPS = 1e-5  # added to the variance by every layer normalisation
CELL_HEADS = 8  # attention heads over a cell's own tokens, where 8 divides token_dim
_MAX_SIZE = 1_000_000
_MAX_LAYERS = 1000


@dataclass(frozen=True)
class StackConfig:
    """Sizes of one model."""

    n_genes: int
    n_hidden: int  # tokens per cell
    token_dim: int
    n_cells: int  # cells per window
    n_layers: int
    n_heads: int
    mlp_ratio: int

    @property
    def cell_dim(self) -> int:
        """Length of one cell's flattened tokens."""
        return self.n_hidden * self.token_dim

    @property
    def n_token_heads(self) -> int:
        """Attention heads inside a cell: 8 where 8 divides ``token_dim``, otherwise its largest divisor that fits."""
        if self.token_dim % CELL_HEADS == 0:
            return CELL_HEADS
        return next(n for n in range(min(self.n_heads, self.token_dim), 0, -1) if self.token_dim % n == 0)


_SIZES = tuple(item.name for item in fields(StackConfig))


@dataclass(frozen=True)
class GenerationSettings:
    """How the query cells are rewritten; the defaults are those of the reference implementation."""

    diffusion_steps: int = 5
    batch_size: int = 32  # windows computed at once
    prompt_ratio: float = 0.25  # share of a window's rows that attend only to each other
    context_ratio: float = 0.4  # further share that is context, at the last step
    context_ratio_min: float = 0.2  # the further share at the first step
    mode: str = "mdm"  # "mdm" rewrites some cells in each step, "vanilla" all of them
    output_mode: str = "sampled"  # "sampled", "expected", or "exact": the reference's own random stream


def parse_config(raw: object, *, name: str) -> StackConfig:
    """Read the sizes from a checkpoint's ``model_config``; other entries are ignored.

    Parameters
    ----------
    raw
        The mapping found in the checkpoint.
    name
        Name of the checkpoint in messages: the address that the user gave.

    Raises
    ------
    ModelError
        The value is no mapping, a size is missing or no positive whole number, or sizes do not fit together.
    """
    if not isinstance(raw, dict):
        msg = f"{name}: model_config is {type(raw).__name__}, not a mapping of {', '.join(_SIZES)}; {_REMEDY}"
        raise ModelError(msg)
    if missing := [key for key in _SIZES if key not in raw]:
        has = ", ".join(map(str, raw)) or "nothing"
        msg = f"{name}: model_config lacks {', '.join(missing)} (it has {has}); {_REMEDY}"
        raise ModelError(msg)
    sizes: dict[str, Any] = {key: raw[key] for key in _SIZES}
    for key, value in sizes.items():
        if type(value) is not int or not 1 <= value <= _MAX_SIZE:  # True is no size
            msg = (
                f"{name}: model_config[{key!r}] must be a whole number from 1 to {_MAX_SIZE}, got {value!r}; {_REMEDY}"
            )
            raise ModelError(msg)
    config = StackConfig(**sizes)
    if fault := _misfit(config):
        msg = f"{name}: {fault}; {_REMEDY}"
        raise ModelError(msg)
    return config


def _misfit(config: StackConfig) -> str:
    """Why these sizes are no model; empty where they are one."""
    if config.n_layers > _MAX_LAYERS:
        return f"{config.n_layers} layers are more than {_MAX_LAYERS}"
    if config.cell_dim % config.n_heads:
        return f"n_heads {config.n_heads} does not divide n_hidden x token_dim = {config.cell_dim}"
    if config.n_cells < 2:
        return f"windows of {config.n_cells} cell leave no room for prompt and query"
    return ""


def tensor_shapes(config: StackConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the model, weights as (out, in)."""
    h, d, g, f = config.n_hidden, config.token_dim, config.n_genes, config.cell_dim
    shapes: dict[str, tuple[int, ...]] = {
        "gene_pos_embedding": (h, d),
        "query_pos_embedding": (h, d),
        **_linear("gene_reduction.0", f, g),
    }
    for index in range(config.n_layers):
        layer = f"layers.{index}"
        for attention, norm, size in (("cell_attn", "cell_norm", d), ("gene_attn", "gene_norm", f)):
            shapes[f"{layer}.{attention}.qkv.weight"] = (3 * size, size)
            shapes |= _linear(f"{layer}.{attention}.proj", size, size) | _norm(f"{layer}.{norm}", size)
        shapes |= _linear(f"{layer}.mlp.0", config.mlp_ratio * d, d) | _linear(
            f"{layer}.mlp.3", d, config.mlp_ratio * d
        )
        shapes |= _norm(f"{layer}.mlp_norm", d)
    shapes |= _linear("output_mlp.0", 2 * f, f) | _linear("output_mlp.3", 2 * g, 2 * f)
    return shapes | _linear("cls.0", h, 2 * f) | _linear("cls.2", 1, h)


_REMEDY = "give a checkpoint of the STACK architecture"


def _linear(name: str, n_out: int, n_in: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
