"""Matrix products of the large layers: our own compiled ones on a processor with AVX2, else oneDNN's or torch's.

In: rows and weights. Out: the product of each row, independent of the other rows and of the number of threads.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from inference.stack.ops_native import load_native, why_not

if TYPE_CHECKING:
    from torch import Tensor

    from inference.stack.ops_native import NativeOps

_MEASURED = "avx2"  # kernels whose products were measured to be the fastest
_TRIED = 512  # outputs by which a product is compared with torch's
_LIKELY = (64, 96, 448)  # rows, outputs and inputs of a first comparison, more inputs than are summed at once


class Linear(Protocol):
    """Rows times transposed weights, plus bias; the result has the rows' dtype."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply."""


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Product by torch's default; where the weights are bfloat16, the rows are rounded to bfloat16 as well."""
    if weight.dtype == x.dtype:
        return F.linear(x, weight, bias)
    return F.linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Product by oneDNN, measured up to 1.7 times as fast as torch's default for float32 on processors.

    For weights that are not contiguous it takes seconds where torch's default takes a fraction of a second.
    """
    if not weight.is_contiguous():
        return F.linear(x, weight, bias)
    bias = None if bias is None else bias.contiguous()  # the operator assumes contiguous memory
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class CompiledLinear:
    """Product by our compiled kernels, which take the weights as they lie in the file, also every second row of them.

    With AVX2 it reaches nine tenths of what the processor can do, oneDNN eight tenths and torch's default six.
    """

    def __init__(self, kernels: NativeOps) -> None:
        self._kernels = kernels

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply."""
        if weight.stride(-1) != 1 or weight.dtype != torch.float32:
            return plain_linear(x, weight, bias)
        return self._kernels.multiply(x, weight, bias)


class ExactLinear:
    """The compiled product where it gives every bit of torch's default, else that.

    Torch's library sums products in an order that depends on the processor and on the sizes: with AVX2 and more than a
    few rows it is that of our kernels. So each combination of sizes is tried on its first rows and weights.
    """

    def __init__(self, multiply: CompiledLinear) -> None:
        self._multiply = multiply
        self._is_equal: dict[tuple[int, ...], bool] = {}

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply."""
        sizes = (x.numel() // x.shape[-1], *weight.shape, bias is not None)
        if sizes not in self._is_equal:
            some = weight[:_TRIED], None if bias is None else bias[:_TRIED]
            self._is_equal[sizes] = torch.equal(self._multiply(x, *some), plain_linear(x, *some))
        return (self._multiply if self._is_equal[sizes] else plain_linear)(x, weight, bias)


def choose_linear(device: torch.device, dtype: torch.dtype) -> Linear:
    """Choose the fastest product for weights of ``dtype`` on ``device``."""
    if device.type != "cpu" or dtype != torch.float32:
        return plain_linear
    if compiled := _compiled():
        return compiled
    if torch.backends.mkldnn.is_available():
        with suppress(AttributeError, RuntimeError):  # the operator is internal to torch and may disappear
            one = torch.ones(2, 2)
            if torch.equal(onednn_linear(one, one, torch.ones(2)), torch.full((2, 2), 3.0)):
                return onednn_linear
    return plain_linear


def choose_exact_linear() -> Linear:
    """Choose the fastest product that gives every bit of torch's default on a processor."""
    compiled = _compiled()
    if compiled:
        n_rows, n_out, n_in = _LIKELY
        draw = torch.Generator().manual_seed(0)
        rows, weight = (torch.randn(n, n_in, generator=draw) for n in (n_rows, n_out))
        if torch.equal(compiled(rows, weight), F.linear(rows, weight)):
            return ExactLinear(compiled)
    return plain_linear


def takes_gaps(multiply: Linear) -> bool:
    """Whether weights whose rows do not follow one another in memory cost no time."""
    return isinstance(multiply, CompiledLinear | ExactLinear)


def _compiled() -> CompiledLinear | None:
    if why_not() is not None:
        return None
    kernels = load_native()
    return CompiledLinear(kernels) if kernels.variants()[-1] == _MEASURED else None
