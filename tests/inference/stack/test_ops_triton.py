"""The kernels against torch in float64 and against the processor's sampler.

Where torch sees a GPU they run compiled, elsewhere by Triton's interpreter, chosen before Triton is loaded.
The interpreter multiplies the bit patterns of bfloat16: there float16 stands for narrow types.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from scipy import special, stats

torch = pytest.importorskip("torch")

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU and "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"
triton = pytest.importorskip("triton", reason="the kernels need Triton: pip install triton==3.7.1")
if not (HAS_GPU or triton.knobs.runtime.interpret):
    pytest.skip("Triton was loaded before its interpreter could be chosen", allow_module_level=True)

from triton import language as tl

from inference.stack import triton_sampling, triton_tokens
from inference.stack.model import StackModel
from inference.stack.ops_torch import TorchOps
from inference.stack.ops_triton import ChosenOps, TritonOps, choose_parts, trials
from inference.stack.sampling import draw_counts

DEVICE = "cuda" if HAS_GPU else "cpu"
NARROW = torch.bfloat16 if HAS_GPU else torch.float16
SHAPES = [(2, 100, 16, 8), (3, 6, 4, 4), (1, 130, 6, 3), (4, 1, 1, 1), (2, 17, 20, 5)]  # cells, H, D, heads


def randn(*shape, generator):
    return torch.randn(shape, generator=generator).to(DEVICE)


def mixing(n_tokens, size, *, generator):
    """Weights of the attention; queries and keys large enough that it is far from uniform."""
    square = size**0.5
    return {
        "place": randn(n_tokens, size, generator=generator),
        "qkv": 2 * randn(3 * size, size, generator=generator) / square,
        "proj": randn(size, size, generator=generator) / square,
        "proj_bias": randn(size, generator=generator),
        "norm": randn(size, generator=generator),
        "norm_bias": randn(size, generator=generator),
    }


def transforming(size, n_hidden, *, generator):
    return {
        "w1": randn(n_hidden, size, generator=generator) / size**0.5,
        "b1": randn(n_hidden, generator=generator),
        "w2": randn(size, n_hidden, generator=generator) / n_hidden**0.5,
        "b2": randn(size, generator=generator),
        "norm": randn(size, generator=generator),
        "norm_bias": randn(size, generator=generator),
    }


def in_double(tensors):
    return {name: tensor.double() for name, tensor in tensors.items()}


def error(found, exact):
    """Relative error of the whole."""
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("n_cells", "n_tokens", "size", "n_heads"), SHAPES)
def test_attention_inside_cells_equals_torch_in_float64(n_cells, n_tokens, size, n_heads):
    generator = torch.Generator().manual_seed(n_tokens)
    tokens = randn(n_cells, n_tokens, size, generator=generator)
    weights = mixing(n_tokens, size, generator=generator)
    exact = TorchOps().mix_tokens(tokens.double(), **in_double(weights), n_heads=n_heads)
    found = TritonOps("fp32").mix_tokens(tokens, **weights, n_heads=n_heads)
    assert found.dtype == torch.float32
    assert error(found, exact) < 2e-6
    narrow = triton_tokens.mix_tokens(tokens, **weights, n_heads=n_heads, operand=NARROW)
    assert error(narrow, exact) < 2e-2


@pytest.mark.parametrize(("n_cells", "n_tokens", "size", "n_hidden"), [(2, 100, 16, 64), (3, 7, 4, 10), (1, 2, 30, 99)])
def test_transformation_of_tokens_equals_torch_in_float64(n_cells, n_tokens, size, n_hidden):
    generator = torch.Generator().manual_seed(n_hidden)
    tokens = randn(n_cells, n_tokens, size, generator=generator)
    weights = transforming(size, n_hidden, generator=generator)
    exact = TorchOps().transform_tokens(tokens.double(), **in_double(weights))
    assert error(TritonOps("fp32").transform_tokens(tokens, **weights), exact) < 2e-6
    assert error(triton_tokens.transform_tokens(tokens, **weights, operand=NARROW), exact) < 2e-2


def test_narrow_tokens_stay_narrow():
    generator = torch.Generator().manual_seed(2)
    tokens = randn(2, 9, 8, generator=generator).to(NARROW)
    mix, transform = mixing(9, 8, generator=generator), transforming(8, 16, generator=generator)
    found = triton_tokens.mix_tokens(tokens, **mix, n_heads=8, operand=NARROW)
    assert found.dtype == NARROW
    assert error(found, TorchOps().mix_tokens(tokens.double(), **in_double(mix), n_heads=8)) < 2e-2
    found = triton_tokens.transform_tokens(tokens, **transform, operand=NARROW)
    assert found.dtype == NARROW
    assert error(found, TorchOps().transform_tokens(tokens.double(), **in_double(transform))) < 2e-2


def test_cells_do_not_see_each_other():
    generator = torch.Generator().manual_seed(3)
    tokens, weights = randn(3, 5, 8, generator=generator), mixing(5, 8, generator=generator)
    ops = TritonOps("fp32")
    whole = ops.mix_tokens(tokens, **weights, n_heads=8)
    turned = ops.mix_tokens(tokens[[2, 0, 1]], **weights, n_heads=8)
    assert torch.equal(turned, whole[[2, 0, 1]])


def test_large_scores_do_not_overflow():
    """Weights so large that one token takes all: its value comes through, and nothing is infinite."""
    tokens = torch.eye(4, device=DEVICE)[None]
    weights = {
        "place": torch.zeros(4, 4, device=DEVICE),
        "qkv": torch.cat([1e4 * torch.eye(4), 1e4 * torch.eye(4), torch.eye(4)]).to(DEVICE),
        "proj": torch.eye(4, device=DEVICE),
        "proj_bias": torch.zeros(4, device=DEVICE),
        "norm": torch.ones(4, device=DEVICE),
        "norm_bias": torch.zeros(4, device=DEVICE),
    }
    found = TritonOps("fp32").mix_tokens(tokens, **weights, n_heads=1)
    expected = torch.nn.functional.layer_norm(2 * tokens, (4,))
    torch.testing.assert_close(found, expected)


def test_wide_tokens_go_to_torch():
    generator = torch.Generator().manual_seed(4)
    size = triton_tokens.MAX_TOKEN_DIM + 1
    tokens, weights = randn(2, 3, size, generator=generator), mixing(3, size, generator=generator)
    found = TritonOps("fp32").mix_tokens(tokens, **weights, n_heads=1)
    assert torch.equal(found, TorchOps().mix_tokens(tokens, **weights, n_heads=1))
    weights = transforming(size, 7, generator=generator)
    found = TritonOps("fp32").transform_tokens(tokens, **weights)
    assert torch.equal(found, TorchOps().transform_tokens(tokens, **weights))


def test_forward_by_kernels_equals_forward_by_torch(small_config, make_tensors):
    tensors = {name: tensor.to(DEVICE) for name, tensor in make_tensors(small_config).items()}
    counts = torch.from_numpy(np.random.default_rng(0).poisson(2.0, (1, 16, 40)).astype(np.float32)).to(DEVICE)
    by_torch, by_kernels = (
        StackModel(small_config, tensors, ops=ops).forward(counts, n_ctx=8, n_keep=4, first_row=9)
        for ops in (TorchOps(), TritonOps("fp32"))
    )
    torch.testing.assert_close(by_kernels.mean, by_torch.mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(by_kernels.dispersion, by_torch.dispersion, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(by_kernels.logits, by_torch.logits, rtol=1e-4, atol=1e-4)


def test_draws_equal_the_processors():
    rng = np.random.default_rng(5)
    mean = np.exp(rng.normal(1, 2, (3, 40))).astype(np.float32)
    mean[:, :8] = [0.0, 1e-30, 39.9, 40.1, 0.5, 900.0, 20.0, 5.0]
    theta = np.exp(rng.normal(0, 1.5, (2, 40))).astype(np.float32)
    theta[:, 3:8] = [50.0, 1e-3, 2.0, 1e-2, 0.0]
    window, cells = [1, 0, 1], [7, 10**12, 0]
    want = draw_counts(mean, theta[window], seed=-3, step=4, cells=cells)
    assert ((mean > 40) | (want > 48)).sum() > 10
    assert ((want > 48) & (mean < 40)).any()
    tensors = [torch.from_numpy(part).to(DEVICE) for part in (mean, theta)]
    places = {"cells": torch.tensor(cells, device=DEVICE), "window": torch.tensor(window, device=DEVICE)}
    found = TritonOps("fp32").draw_counts(*tensors, seed=-3, step=4, **places)
    assert found.dtype == torch.float32
    assert np.array_equal(found.cpu(), want)
    few = triton_sampling.draw_counts(*tensors, seed=-3, step=4, **places, at_once=40)
    assert torch.equal(few, found)


def test_means_and_draws_in_one_equal_those_one_after_the_other():
    """The means are softmax times library; the counts are exactly those drawn from the means that were written."""
    generator = torch.Generator().manual_seed(8)
    logits, library = 3 * randn(3, 1100, generator=generator), torch.tensor([5e3, 1.0, 2e5], device=DEVICE)
    logits[0, 5], logits[1, :] = 60.0, logits[1, :] - 500.0
    theta = torch.exp(randn(2, 1100, generator=generator))
    places = {"seed": 3, "step": 2, "cells": torch.tensor([4, 0, 9], device=DEVICE)}
    places["window"] = torch.tensor([1, 0, 0], device=DEVICE)
    for kind in (torch.float32, NARROW):
        mean, counts = TritonOps("fp32").expect_and_draw(logits.to(kind), library, theta, **places)
        want = torch.softmax(logits.to(kind).double(), -1) * library.double()[:, None]
        torch.testing.assert_close(mean.double(), want, rtol=2e-5, atol=1e-12)
        assert torch.equal(counts, TritonOps("fp32").draw_counts(mean, theta, **places))
        assert np.array_equal(counts.cpu(), TorchOps().draw_counts(mean, theta, **places).cpu())
    few = triton_sampling.expect_and_draw(logits.to(kind), library, theta, **places, at_once=1100)
    assert torch.equal(few[0], mean)
    assert torch.equal(few[1], counts)


@pytest.mark.parametrize("size", [1, 24, 1600])
def test_sum_and_norm_equal_torch_in_float64(size):
    generator = torch.Generator().manual_seed(size)
    rows, changed = randn(2, 3, size, generator=generator), randn(2, 3, size, generator=generator)
    weights = {"norm": randn(size, generator=generator), "norm_bias": randn(size, generator=generator)}
    exact = TorchOps().add_and_normalise(rows.double(), changed.double(), **weights)
    found = TritonOps("fp32").add_and_normalise(rows, changed.clone(), **weights)
    assert found.shape == rows.shape
    assert error(found, exact) < 2e-6
    narrow = TritonOps("fp32").add_and_normalise(rows.to(NARROW), changed.to(NARROW), **weights)
    assert narrow.dtype == NARROW
    assert error(narrow, exact) < 2e-2


class Broken(TritonOps):
    """Kernels of which one does not compile and one is wrong."""

    def mix_tokens(self, tokens, **weights):
        raise RuntimeError("PassManager::run failed\nand more")

    def transform_tokens(self, tokens, **weights):
        return 1.1 * super().transform_tokens(tokens, **weights)


def test_parts_are_chosen_by_what_the_device_shows(small_config):
    """The clock of the test says that ours takes 1 where torch takes 2, but for the sum and norm, where 1.9."""
    called = iter([2.0, 1.9, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0])  # torch, then ours, of each part that is right
    ops = choose_parts(
        torch.device(DEVICE), "fp32", small_config, ours=Broken("fp32"), seconds_of=lambda _work: next(called)
    )
    assert {name: verdict.is_ours for name, verdict in ops.verdicts.items()} == {
        "mix_tokens": False,
        "transform_tokens": False,
        "add_and_normalise": False,
        "attend": True,
        "draw_counts": True,
        "expect_and_draw": True,
    }
    assert ops.name.startswith("triton and torch (attention inside cells: torch, because our kernel failed: Runtime")
    assert "PassManager::run failed, " in ops.name  # the first line alone
    assert "token network: torch, because our kernel differs from torch by 1.0e-01, more than 1e-04" in ops.name
    assert "sum and norm: torch, ours only at 1.1 times the speed" in ops.name
    assert "draws: ours at 2.0 times the speed of torch's" in ops.name
    assert len(ops.faults) == 2
    tokens = randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    mix = mixing(6, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ops.mix_tokens(tokens, **mix, n_heads=4), TorchOps().mix_tokens(tokens, **mix, n_heads=4))


def test_ours_alone_and_torch_alone_are_named_so(small_config):
    times = iter([2.0, 1.0] * 6)
    fast = choose_parts(torch.device(DEVICE), "fp32", small_config, seconds_of=lambda _work: next(times))
    assert fast.name.startswith("triton (")
    assert ChosenOps(TritonOps(), TorchOps(), {}).name == "torch ()"


def test_every_part_is_tried_and_equal_here(small_config):
    for name, trial in trials(
        torch.device(DEVICE), "fp32", small_config, ours=TritonOps("fp32"), plain=TorchOps(), n_windows=1
    ).items():
        found, want = trial.ours().double(), trial.plain().double()
        assert float((found - want).norm() / want.norm()) < trial.tolerance, name


@triton.jit
def _cumulative_of(count, mean, theta, cumulative, own, N: tl.constexpr):  # noqa: N803
    lanes = tl.arange(0, N)
    k, mu, shape = tl.load(count + lanes), tl.load(mean + lanes), tl.load(theta + lanes)
    total, probability = triton_sampling._cumulative(k, mu, shape, k >= 0)
    tl.store(cumulative + lanes, total)
    tl.store(own + lanes, probability)


def test_cumulative_probability_equals_scipys():
    """Errors here are chances that a draw differs from the processor's, so they must be far below one in all values."""
    rng = np.random.default_rng(6)
    mean, theta = np.exp(rng.uniform(-3, 8, 64)), np.exp(rng.uniform(-5, 5, 64))
    count = np.floor(mean * np.exp(rng.normal(0, 1, 64)))
    tensors = [torch.from_numpy(part).to(DEVICE) for part in (count, mean, theta)]
    cumulative, own = torch.empty(2, 64, dtype=torch.float64, device=DEVICE)
    _cumulative_of[(1,)](*tensors, cumulative, own, N=64)
    p = theta / (theta + mean)
    np.testing.assert_allclose(cumulative.cpu(), special.betainc(theta, count + 1, p), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(own.cpu(), stats.nbinom.pmf(count, theta, p), rtol=1e-9, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="torch sees no GPU")
def test_published_size_on_a_gpu():
    """Many cells at once: every output is written, bfloat16 stays near float32."""
    generator = torch.Generator().manual_seed(7)
    tokens, weights = randn(1000, 100, 16, generator=generator), mixing(100, 16, generator=generator)
    exact = TorchOps().mix_tokens(tokens.double(), **in_double(weights), n_heads=8)
    assert error(TritonOps("fp32").mix_tokens(tokens, **weights, n_heads=8), exact) < 2e-6
    assert error(TritonOps("bf16").mix_tokens(tokens.bfloat16(), **weights, n_heads=8), exact) < 2e-2
    mean = torch.exp(2 * randn(300, 15_012, generator=generator))
    theta = torch.exp(randn(2, 15_012, generator=generator))
    window = torch.arange(300, device=DEVICE) // 150
    found = TritonOps("bf16").draw_counts(
        mean, theta, seed=1, step=1, cells=torch.arange(300, device=DEVICE), window=window
    )
    want = draw_counts(mean.cpu().numpy(), theta[window].cpu().numpy(), seed=1, step=1, cells=range(300))
    assert np.array_equal(found.cpu(), want)
