"""The interchangeable parts of the model as fused Triton kernels, for a GPU.

In: tensors on the GPU. Out: tensors there; nothing waits for the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from inference.stack import triton_sampling, triton_tokens
from inference.stack.attention import attend_by_mask
from inference.stack.ops_torch import TorchOps
from inference.stack.trial import Trial, Verdict, judge, seconds_on_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from inference.stack.config import StackConfig
    from inference.stack.ops import Ops

_OPERANDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SAME = {"fp32": 1e-4, "bf16": 3e-2}  # relative errors between two orders of the same operations
_SAME_DRAWS = 1e-3  # a mean that differs in its last bit moves a draw in some 10 million
_DRAWN_ROWS = 8


class TritonOps(TorchOps):
    """:class:`inference.stack.ops.Ops` by one kernel each, for tokens of up to 32 numbers.

    Wider tokens go to torch: there the products outweigh the traffic that fusing saves.

    Parameters
    ----------
    precision
        ``fp32`` or ``bf16``: what factors of matrix products are rounded to; sums are float32 either way. The draws are
        float64 always.
    """

    name = "triton"

    def __init__(self, precision: str = "fp32") -> None:
        self._operand = _OPERANDS[precision]

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
        weights = {
            "place": place,
            "qkv": qkv,
            "proj": proj,
            "proj_bias": proj_bias,
            "norm": norm,
            "norm_bias": norm_bias,
        }
        if tokens.shape[-1] > triton_tokens.MAX_TOKEN_DIM:
            return super().mix_tokens(tokens, **weights, n_heads=n_heads)
        return triton_tokens.mix_tokens(tokens, **weights, n_heads=n_heads, operand=self._operand)

    def transform_tokens(
        self, tokens: Tensor, *, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, norm: Tensor, norm_bias: Tensor
    ) -> Tensor:
        """Two linear layers on each token, added and normalised."""
        weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2, "norm": norm, "norm_bias": norm_bias}
        if tokens.shape[-1] > triton_tokens.MAX_TOKEN_DIM:
            return super().transform_tokens(tokens, **weights)
        return triton_tokens.transform_tokens(tokens, **weights, operand=self._operand)

    def add_and_normalise(self, rows: Tensor, changed: Tensor, *, norm: Tensor, norm_bias: Tensor) -> Tensor:
        """Sum, normalised; rows of any length that a program holds."""
        if rows.shape[-1] > triton_tokens.MAX_ROW:
            return super().add_and_normalise(rows, changed, norm=norm, norm_bias=norm_bias)
        return triton_tokens.add_and_normalise(rows, changed, norm=norm, norm_bias=norm_bias)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, n_keep: int) -> Tensor:
        """Attention over the cells of a window, in one call of torch's with a mask."""
        return attend_by_mask(query, key, value, n_keep=n_keep)

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
        """Means and counts in one go."""
        places: dict[str, Any] = {"seed": seed, "step": step, "cells": cells, "window": window}
        return triton_sampling.expect_and_draw(logits, library, dispersion, **places)

    def draw_counts(
        self, mean: Tensor, dispersion: Tensor, *, seed: int, step: int, cells: Tensor, window: Tensor
    ) -> Tensor:
        """Counts of the processor's sampler, drawn on the device."""
        return triton_sampling.draw_counts(mean, dispersion, seed=seed, step=step, cells=cells, window=window)


class ChosenOps:
    """:class:`inference.stack.ops.Ops` of which each part is ours or torch's, as the trials on the device said.

    Parameters
    ----------
    ours, plain
        The two backends.
    verdicts
        By the name of the method; a method without one is torch's.
    """

    def __init__(self, ours: Ops, plain: Ops, verdicts: Mapping[str, Verdict]) -> None:
        self.verdicts = dict(verdicts)
        # a kernel that is merely not faster is no fault
        self.faults: Sequence[str] = [str(verdict) for verdict in self.verdicts.values() if verdict.fault]
        names = {verdict.is_ours for verdict in self.verdicts.values()}
        kinds = [own.name for own, is_used in ((ours, True in names), (plain, names != {True})) if is_used]
        self.name = " and ".join(kinds) + f" ({', '.join(map(str, self.verdicts.values()))})"

        def chosen(part: str) -> Ops:
            return ours if part in self.verdicts and self.verdicts[part].is_ours else plain

        self.mix_tokens = chosen("mix_tokens").mix_tokens
        self.transform_tokens = chosen("transform_tokens").transform_tokens
        self.add_and_normalise = chosen("add_and_normalise").add_and_normalise
        self.attend = chosen("attend").attend
        self.expect_and_draw = chosen("expect_and_draw").expect_and_draw
        self.draw_counts = chosen("draw_counts").draw_counts
        self.lower_median = plain.lower_median


def choose_parts(
    device: torch.device,
    precision: str,
    config: StackConfig,
    *,
    ours: Ops | None = None,
    seconds_of: Callable[[Callable[[], Tensor]], float] = seconds_on_gpu,
) -> ChosenOps:
    """Try each kernel of ours against torch at the model's sizes, and keep those that are right and clearly faster.

    Parameters
    ----------
    device, precision, config
        Of the model.
    ours
        The backend on trial; None is this module's.
    seconds_of
        Measures one call.
    """
    plain = TorchOps()
    parts = trials(device, precision, config, ours=ours or TritonOps(precision), plain=plain)
    with torch.inference_mode():
        verdicts = {part: judge(trial, seconds_of=seconds_of) for part, trial in parts.items()}
    return ChosenOps(ours or TritonOps(precision), plain, verdicts)


def trials(
    device: torch.device, precision: str, config: StackConfig, *, ours: Ops, plain: Ops, n_windows: int = 4
) -> dict[str, Trial]:
    """Both ways of each part of the model, on random numbers at its sizes, by the name of the method."""
    kind, exact = _OPERANDS[precision], torch.float32
    near = _SAME[precision]
    h, d, n_rows = config.n_hidden, config.token_dim, config.n_cells
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int, like: torch.dtype = exact) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(like)

    tokens = draw(n_windows * n_rows, h, d, like=kind)
    mix: dict[str, Tensor] = {
        "place": draw(h, d),
        "qkv": draw(3 * d, d) / d**0.5,
        "proj": draw(d, d) / d**0.5,
        "proj_bias": draw(d),
        "norm": draw(d),
        "norm_bias": draw(d),
    }
    n_hidden = config.mlp_ratio * d
    transform = {"w1": draw(n_hidden, d) / d**0.5, "b1": draw(n_hidden), "w2": draw(d, n_hidden) / n_hidden**0.5}
    transform |= {"b2": draw(d), "norm": draw(d), "norm_bias": draw(d)}
    rows, changed = draw(n_windows * n_rows, h * d, like=kind), draw(n_windows * n_rows, h * d, like=kind)
    wide = {"norm": draw(h * d), "norm_bias": draw(h * d)}
    heads = draw(3, n_windows, config.n_heads, n_rows, h * d // config.n_heads, like=kind)
    few = torch.arange(_DRAWN_ROWS, device=device)
    logits, library = 2 * draw(_DRAWN_ROWS, config.n_genes), torch.full((_DRAWN_ROWS,), 5e3, device=device)
    theta = draw(1, config.n_genes).exp()
    mean = torch.softmax(logits, -1) * library[:, None]
    places: dict[str, Any] = {"seed": 0, "step": 1, "cells": few, "window": torch.zeros_like(few)}

    def both(name: str, call: Callable[[Ops], Tensor], tolerance: float) -> Trial:
        return Trial(name, lambda: call(ours), lambda: call(plain), tolerance)

    return {
        "mix_tokens": both(
            "attention inside cells",
            lambda ops: ops.mix_tokens(tokens, **mix, n_heads=config.n_token_heads),
            near,
        ),
        "transform_tokens": both("token network", lambda ops: ops.transform_tokens(tokens, **transform), near),
        "add_and_normalise": both(
            "sum and norm", lambda ops: ops.add_and_normalise(rows, changed.clone(), **wide), near
        ),
        "attend": both(
            "attention between cells by one masked call",
            lambda ops: ops.attend(*heads, n_keep=n_rows // 4),
            near,
        ),
        "draw_counts": both("draws", lambda ops: ops.draw_counts(mean, theta, **places), _SAME_DRAWS),
        "expect_and_draw": both(
            "means and draws",
            lambda ops: torch.stack(ops.expect_and_draw(logits, library, theta, **places)),
            _SAME_DRAWS,
        ),
    }
