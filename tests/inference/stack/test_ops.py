from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.stack.attention import attend_by_mask, attend_in_two
from inference.stack.config import StackConfig
from inference.stack.linear import (
    CompiledLinear,
    ExactLinear,
    choose_exact_linear,
    choose_linear,
    onednn_linear,
    plain_linear,
)
from inference.stack.model import MEAN, StackModel
from inference.stack.ops import choose_ops, why_plain
from inference.stack.ops_native import VERSION, load_native, why_not
from inference.stack.ops_reference import (
    ReferenceOps,
    reference_attention,
    reference_dispersion,
    reference_softplus,
)
from inference.stack.ops_torch import TorchOps

SHAPES = [(100, 16, 8), (32, 8, 8), (6, 4, 4), (5, 3, 1), (17, 6, 3), (1, 1, 1), (9, 24, 2)]  # tokens, size, heads


@pytest.fixture(scope="module", params=["plain", "avx2", "avx512"])
def native(request):
    """The compiled backend with each of its kernels that this processor can run."""
    if slow := why_plain(torch.device("cpu")):
        pytest.skip(slow)
    ops = load_native()
    if request.param not in ops.variants():
        pytest.skip(f"this processor has no {request.param}")
    ops.use(request.param)
    yield ops
    ops.use(ops.variants()[-1])


def _weights(length, size, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    norm = {"norm": 1 + 0.1 * draw(size), "norm_bias": draw(size)}
    mix = {"place": draw(length, size), "qkv": draw(3 * size, size), "proj": draw(size, size), "proj_bias": draw(size)}
    transform = {"w1": draw(3 * size, size), "b1": draw(3 * size), "w2": draw(size, 3 * size), "b2": draw(size)}
    return mix | norm, transform | norm, 2 * torch.randn(37, length, size, generator=generator)


@pytest.mark.parametrize(("length", "size", "n_heads"), SHAPES)
@pytest.mark.parametrize("ops", [TorchOps(), ReferenceOps()], ids=["torch", "reference"])
def test_backends_in_torch_equal_float64(ops, length, size, n_heads):
    mix, transform, tokens = _weights(length, size)
    x, w = tokens.double(), {name: value.double() for name, value in (mix | transform).items()}
    parts = ((x + w["place"]) @ w["qkv"].T).unflatten(-1, (3, n_heads, size // n_heads)).permute(2, 0, 3, 1, 4)
    scores = (parts[0] @ parts[1].mT / (size // n_heads) ** 0.5).softmax(-1)
    mixed = (scores @ parts[2]).transpose(1, 2).reshape(x.shape) @ w["proj"].T + w["proj_bias"]
    want = torch.nn.functional.layer_norm(x + mixed, (size,), w["norm"], w["norm_bias"])
    torch.testing.assert_close(ops.mix_tokens(tokens, n_heads=n_heads, **mix).double(), want, atol=1e-4, rtol=1e-4)
    hidden = torch.nn.functional.gelu(x @ w["w1"].T + w["b1"]) @ w["w2"].T + w["b2"]
    want = torch.nn.functional.layer_norm(x + hidden, (size,), w["norm"], w["norm_bias"])
    torch.testing.assert_close(ops.transform_tokens(tokens, **transform).double(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("length", "size", "n_heads"), SHAPES)
def test_reference_keeps_every_bit_however_many_cells_it_takes_at_once(length, size, n_heads):
    mix, _, tokens = _weights(length, size)
    parts = torch.nn.functional.linear(tokens + mix["place"], mix["qkv"]).unflatten(-1, (3, n_heads, size // n_heads))
    mixed = reference_attention(*parts.permute(2, 0, 3, 1, 4), n_keep=0).transpose(1, 2).reshape(tokens.shape)
    mixed = torch.nn.functional.linear(mixed, mix["proj"], mix["proj_bias"])
    want = torch.nn.functional.layer_norm(tokens + mixed, (size,), mix["norm"], mix["norm_bias"], 1e-5)
    assert torch.equal(ReferenceOps().mix_tokens(tokens, n_heads=n_heads, **mix), want)


@pytest.mark.parametrize(("length", "size", "n_heads"), SHAPES)
def test_compiled_kernels_equal_torch(native, length, size, n_heads):
    near = {
        "rtol": 1e-5,
        "atol": 1e-5 if size > 4 else 1e-4,
    }  # few values may lie close: their norm magnifies roundings
    mix, transform, tokens = _weights(length, size, seed=1)
    found, want = (ops.mix_tokens(tokens, n_heads=n_heads, **mix) for ops in (native, TorchOps()))
    torch.testing.assert_close(found, want, **near)
    found, want = (ops.transform_tokens(tokens, **transform) for ops in (native, TorchOps()))
    torch.testing.assert_close(found, want, **near)


@pytest.mark.parametrize("scale", [30.0, 1e3, 1e6])
def test_compiled_attention_survives_scores_that_no_exponential_holds(native, scale):
    """The bound on the scores is then far above the largest one, so that the first attempt underflows."""
    mix, _, tokens = _weights(20, 8, seed=2)
    mix["qkv"][:16] *= scale**0.5
    found, want = (ops.mix_tokens(tokens.double().float(), n_heads=2, **mix) for ops in (native, TorchOps()))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, want, atol=1e-4 * scale**0.5, rtol=1e-3)


def test_cells_and_threads_do_not_change_each_other(native):
    mix, transform, tokens = _weights(17, 6)
    before = torch.get_num_threads()
    try:
        results = []
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            results.append((native.mix_tokens(tokens, n_heads=3, **mix), native.transform_tokens(tokens, **transform)))
    finally:
        torch.set_num_threads(before)
    for mixed, changed in results:
        assert torch.equal(mixed, results[0][0])
        assert torch.equal(changed, results[0][1])
    assert torch.equal(native.mix_tokens(tokens[5:9].contiguous(), n_heads=3, **mix), results[0][0][5:9])


def test_compiled_counts_equal_the_fallbacks(native):
    """Means from 0 to thousands, dispersions down to an underflowed 0."""
    rng = np.random.default_rng(0)
    mean = torch.from_numpy(np.exp(rng.normal(-1, 3, (60, 700))).astype(np.float32))
    mean[3, :50], mean[4] = 0.0, 1e-30
    dispersion = torch.from_numpy(np.exp(rng.normal(0, 2, (4, 700))).astype(np.float32))
    dispersion[2, :9] = 0.0
    cells, window = torch.from_numpy(rng.permutation(1000)[:60]), torch.arange(60) // 15
    place = {"seed": -7, "step": 3, "cells": cells, "window": window}
    found, want = (ops.draw_counts(mean, dispersion, **place) for ops in (native, TorchOps()))
    assert want.max() > 1000
    assert torch.equal(found, want)
    some = {**place, "cells": cells[[9, 2]], "window": window[[9, 2]]}
    assert torch.equal(native.draw_counts(mean[[9, 2]], dispersion, **some), want[[9, 2]])


@pytest.mark.parametrize("n_rows", [1, 2, 3, 16, 141])
def test_native_median_is_that_of_torch(native, n_rows):
    raw = torch.randn(3, n_rows, 37, generator=torch.Generator().manual_seed(n_rows))
    raw[0, ::2] = raw[0, :1].clone()  # equal values
    raw[1] = raw[1].abs() if n_rows % 2 else -raw[1].abs()
    raw[2, 0] = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38] + 31 * [0.0])
    assert torch.equal(native.lower_median(raw), TorchOps().lower_median(raw))
    assert torch.equal(native.lower_median(raw[:, :, 5:]), raw[:, :, 5:].median(dim=1).values)


def test_an_extension_of_other_sources_is_not_used():
    assert load_native()._kernels.VERSION == VERSION
    assert why_not(version=VERSION + 1).endswith("was built from other sources: install again")


def test_processor_gets_the_compiled_backend_where_it_is_built(small_config):
    device = torch.device("cpu")
    assert choose_ops(device, "fp32", small_config).name == ("torch" if why_plain(device) else load_native().name)


def test_plain_torch_computes_with_a_reason_where_there_are_no_kernels(small_config):
    device = torch.device("meta")
    assert choose_ops(device, "fp32", small_config).name == "torch"
    assert why_plain(device) == "there are no kernels for meta"


@pytest.mark.parametrize("n_keep", [0, 1, 7, 12])
@pytest.mark.parametrize("attend", [attend_in_two, attend_by_mask])
def test_attention_between_cells_equals_the_references_written_out(attend, n_keep):
    """The first rows do not see the others: their values do not change with those."""
    query, key, value = torch.randn(3, 2, 4, 12, 6, generator=torch.Generator().manual_seed(n_keep))
    want = reference_attention(query, key, value, n_keep=n_keep).transpose(1, 2).flatten(2)
    found = attend(query, key, value, n_keep=n_keep)
    assert found.is_contiguous()
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)
    other = torch.cat([value[:, :, :n_keep], 9 + value[:, :, n_keep:]], dim=2)
    assert torch.equal(attend(query, key, other, n_keep=n_keep)[:, :n_keep], found[:, :n_keep])


@pytest.mark.parametrize("n_keep", [0, 1, 7, 16, 21, 37])
@pytest.mark.parametrize(("n_rows", "dim"), [(37, 5), (40, 16), (1, 1), (16, 13)])
def test_compiled_attention_between_cells_equals_float64(native, n_rows, dim, n_keep):
    """Also as a part of wider rows; the first rows do not see the others, whatever these hold."""
    n_keep = min(n_keep, n_rows)
    rows = 3 * torch.randn(2, n_rows, 3 * 4 * dim + 7, generator=torch.Generator().manual_seed(n_rows))
    query, key, value = rows[..., : 3 * 4 * dim].unflatten(-1, (3, 4, dim)).permute(2, 0, 3, 1, 4)
    want = reference_attention(query.double(), key.double(), value.double(), n_keep=n_keep)
    found = native.attend(query, key, value, n_keep=n_keep)
    torch.testing.assert_close(found.double(), want.transpose(1, 2).flatten(2), rtol=1e-5, atol=1e-4)
    others = native.attend(query.double(), key.double(), value.double(), n_keep=n_keep)  # by torch
    torch.testing.assert_close(others, found.double(), rtol=1e-5, atol=1e-4)
    rows[:, n_keep:] = 1e3
    assert torch.equal(native.attend(query, key, value, n_keep=n_keep)[:, :n_keep], found[:, :n_keep])


def test_threads_do_not_change_the_attention_between_cells(native):
    query, key, value = torch.randn(2, 50, 3, 4, 6).permute(2, 0, 3, 1, 4)
    before = torch.get_num_threads()
    try:
        found = [native.attend(query, key, value, n_keep=9) for n in (1, 2, 3) if torch.set_num_threads(n) is None]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


def test_unknown_kernels_are_refused():
    if slow := why_plain(torch.device("cpu")):
        pytest.skip(slow)
    with pytest.raises(ValueError, match="no kernels vax here"):
        load_native().use("vax")


@pytest.mark.parametrize("multiply", [plain_linear, choose_linear(torch.device("cpu"), torch.float32)])
def test_linear_layers_also_take_every_second_row_of_the_weights(multiply):
    x, weight, bias = torch.randn(2, 40, 30), torch.randn(50, 30), torch.randn(50)
    want = (x.double() @ weight.double().T + bias)[..., 1::2]
    for same in (weight[1::2], weight[1::2].contiguous()):
        torch.testing.assert_close(multiply(x, same, bias[1::2]).double(), want, atol=1e-5, rtol=1e-5)


def test_linear_of_rounded_weights_keeps_the_rows_kind():
    x, weight = torch.randn(3, 8), torch.randn(5, 8)
    found = plain_linear(x, weight.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x @ weight.T, atol=0.1, rtol=0.05)
    assert choose_linear(torch.device("cpu"), torch.bfloat16) is plain_linear
    chosen = choose_linear(torch.device("cpu"), torch.float32)
    assert chosen in {plain_linear, onednn_linear} or isinstance(chosen, CompiledLinear)


SIZES = [(1, 1, 1), (5, 7, 3), (16, 48, 192), (17, 49, 193), (33, 6, 400), (40, 130, 700), (0, 4, 3)]


@pytest.mark.parametrize(("n_rows", "n_out", "n_in"), SIZES, ids=str)
def test_compiled_products_equal_float64(native, n_rows, n_out, n_in):
    x, weight, bias = torch.randn(n_rows, n_in), torch.randn(2 * n_out, n_in), torch.randn(2 * n_out)
    want = x.double() @ weight[1::2].double().T
    torch.testing.assert_close(native.multiply(x, weight[1::2]).double(), want, atol=1e-4, rtol=1e-5)
    found = native.multiply(x.T.contiguous().T, weight[1::2], bias[1::2])
    torch.testing.assert_close(found.double(), want + bias[1::2], atol=1e-4, rtol=1e-5)


def test_compiled_products_of_a_row_do_not_depend_on_other_rows_or_threads(native):
    x, weight, bias = torch.randn(3, 19, 250), torch.randn(150, 250), torch.randn(150)
    before = torch.get_num_threads()
    try:
        found = [native.multiply(x, weight, bias) for n in (1, 2, 3) if torch.set_num_threads(n) is None]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)
    for n_rows in (1, 7, 8, 9, 16, 17):
        assert torch.equal(native.multiply(x[1, :n_rows], weight, bias), found[0][1, :n_rows])


@pytest.mark.parametrize("n_rows", [1, 20, 40, 129, 256])
@pytest.mark.parametrize(("n_out", "n_in"), [(48, 16), (300, 1600), (1600, 900), (7, 64)])
def test_exact_products_have_every_bit_of_torchs(n_rows, n_out, n_in):
    x, weight, bias = torch.randn(n_rows, n_in), torch.randn(n_out, n_in), torch.randn(n_out)
    multiply = choose_exact_linear()
    for given in (None, bias):
        assert torch.equal(multiply(x, weight, given), torch.nn.functional.linear(x, weight, given))


def test_exact_products_are_torchs_where_the_compiled_ones_differ():
    multiply = ExactLinear(lambda x, weight, bias: plain_linear(x, weight, bias) + 1e-3)
    x, weight = torch.randn(40, 9), torch.randn(12, 9)
    assert torch.equal(multiply(x, weight), plain_linear(x, weight))


@pytest.mark.parametrize("seed", range(6))
def test_models_of_random_sizes_agree_between_backends(make_tensors, seed):
    rng = np.random.default_rng(seed)
    n_heads, size = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    config = StackConfig(
        n_genes=int(rng.integers(2, 60)),
        n_hidden=n_heads * int(rng.integers(1, 9)),
        token_dim=size,
        n_cells=int(rng.integers(2, 40)),
        n_layers=int(rng.integers(1, 4)),
        n_heads=n_heads,
        mlp_ratio=int(rng.integers(1, 5)),
    )
    tensors = make_tensors(config, seed=seed)
    n_ctx = int(rng.integers(1, config.n_cells))
    rows = {"n_ctx": n_ctx, "n_keep": int(rng.integers(0, n_ctx + 1)), "first_row": int(rng.integers(0, n_ctx + 1))}
    counts = torch.from_numpy(rng.poisson(2.0, (2, config.n_cells, config.n_genes)).astype(np.float32))
    models = [StackModel(config, tensors), StackModel(config, tensors, ops=TorchOps())]
    models.append(models[0].exactly())
    first, *others = (model.forward(counts, **rows) for model in models)
    for other in others:
        torch.testing.assert_close(other.mean, first.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.dispersion, first.dispersion, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.logits, first.logits, rtol=1e-4, atol=1e-4)


def test_tokens_between_the_layers_may_be_rounded_as_on_a_gpu(small_model):
    """Tokens of bfloat16 move the means by as little as the rounded weights alone do; logits keep their precision."""
    weights_alone, both = (small_model.to(torch.device("cpu"), precision="bf16") for _ in range(2))
    both.token_dtype, both.ops = torch.bfloat16, TorchOps()
    counts = torch.from_numpy(np.random.default_rng(0).poisson(3.0, (1, 16, 40)).astype(np.float32))
    want, one, two = (
        model.forward(counts, n_ctx=9, n_keep=4, first_row=9) for model in (small_model, weights_alone, both)
    )
    assert not torch.equal(one.mean, two.mean)
    assert ((two.mean - want.mean).abs() / want.mean).median() < 0.03
    assert two.mean.dtype == two.logits.dtype == two.dispersion.dtype == torch.float32
    assert not torch.equal(two.logits, two.logits.bfloat16().float())


def test_rounding_leaves_large_values_that_cancel_alone(small_config, make_tensors):
    """Trained output layers have biases and products of hundreds whose sum is small."""
    tensors = make_tensors(small_config)
    tensors["layers.1.mlp_norm.weight"] *= 0.1
    typical = torch.nn.functional.gelu(
        tensors["layers.1.mlp_norm.bias"].repeat(small_config.n_hidden) @ tensors["output_mlp.0.weight"].T
        + tensors["output_mlp.0.bias"]
    )
    tensors["output_mlp.3.weight"] *= 30
    tensors["output_mlp.3.bias"] = -tensors["output_mlp.3.weight"] @ typical
    model = StackModel(small_config, tensors)
    counts = torch.from_numpy(np.random.default_rng(0).poisson(3.0, (1, 16, 40)).astype(np.float32))
    rounded = model.to(torch.device("cpu"), precision="bf16")
    rows = model.embed(counts, n_ctx=9, n_keep=4).flatten(2)
    one, two = (each.predict_mean(rows, counts.sum(-1)).log() for each in (model, rounded))
    assert model._output.half(MEAN, has_gaps=False).offset.abs().max() > 10
    assert (one - two).abs().max() < 0.2


def test_rounded_model_stays_near(small_model):
    rounded = small_model.to(torch.device("cpu"), precision="bf16")
    assert (small_model.precision, rounded.precision) == ("fp32", "bf16")
    counts = torch.from_numpy(np.random.default_rng(0).poisson(3.0, (1, 16, 40)).astype(np.float32))
    one, two = (model.forward(counts, n_ctx=9, n_keep=4, first_row=9) for model in (small_model, rounded))
    assert not torch.equal(one.mean, two.mean)
    assert ((one.mean - two.mean).abs() / one.mean).median() < 0.02
    assert two.mean.dtype == torch.float32


def test_exact_dispersions_are_medians_of_all_softplus_values():
    """Close and equal values, and columns whose median is one of two neighbours."""
    raw = torch.randn(2, 41, 300)
    raw[0, :, :60] = 0.5 + 1e-8 * torch.randint(0, 40, (41, 60))
    raw[1, 20:, 60:90] = raw[1, 19:20, 60:90]
    for ops in (ReferenceOps(), TorchOps()):
        found = reference_dispersion(raw, ops.lower_median(raw))
        assert torch.equal(found, reference_softplus(raw).median(dim=1).values)
