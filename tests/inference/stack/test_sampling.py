from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")

from inference.stack.sampling import draw_counts, invert, reference_gammas, reference_rates, uniforms


def test_inversion_equals_scipys_quantiles():
    rng = np.random.default_rng(0)
    mean, theta = np.exp(rng.normal(0, 3, 20_000)), np.exp(rng.normal(0, 2, 20_000))
    u = rng.random(20_000)
    found = invert(u, mean=mean, dispersion=theta)
    assert np.array_equal(found, stats.nbinom.ppf(u, theta, theta / (theta + mean)))


@pytest.mark.parametrize(
    ("mean", "theta"), [(0.0, 1.0), (1e-30, 1.0), (30.0, 1e-3), (1e6, 1e3), (39.0, 1e6), (5.0, 0.0)]
)
def test_inversion_survives_extreme_parameters(mean, theta):
    u = np.array([1e-16, 0.1, 0.5, 0.9, 1 - 2.0**-53])
    found = invert(u, mean=np.full(5, mean), dispersion=np.full(5, theta))
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 2**24 - 1)).all()
    if mean == 0 or theta == 0:
        assert not found[:4].any()


def test_draws_have_the_distributions_mean_and_variance():
    mean, theta = np.float32([0.05, 3.0, 200.0]), np.float32([0.5, 2.0, 20.0])
    n = 20_000
    drawn = draw_counts(np.tile(mean, (n, 1)), np.tile(theta, (n, 1)), seed=1, step=1, cells=range(n))
    variance = mean + mean**2 / theta
    np.testing.assert_allclose(drawn.mean(0), mean, atol=4 * np.sqrt(variance / n).max(), rtol=0.05)
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.1)


def test_uniforms_are_uniform_and_unrelated():
    u = uniforms(7, step=2, cells=range(300), n_genes=400)
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    for other in (
        uniforms(8, step=2, cells=range(300), n_genes=400),
        uniforms(7, step=3, cells=range(300), n_genes=400),
    ):
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < 0.01
    assert np.unique(u).size == u.size


def test_draw_of_a_value_depends_on_seed_step_cell_and_gene_only():
    rng = np.random.default_rng(1)
    mean, theta = rng.gamma(1, 5, (150, 30)).astype(np.float32), rng.gamma(2, 1, (150, 30)).astype(np.float32)
    whole = draw_counts(mean, theta, seed=-3, step=1, cells=range(150))
    some = [140, 3, 77]
    assert np.array_equal(draw_counts(mean[some], theta[some], seed=-3, step=1, cells=some), whole[some])
    few = draw_counts(mean[:, :9], theta[:, :9], seed=-3, step=1, cells=range(150))
    assert np.array_equal(few, whole[:, :9])
    assert not np.array_equal(draw_counts(mean, theta, seed=-2, step=1, cells=range(150)), whole)


def test_reference_rates_window_by_window_read_the_stream_of_one_draw():
    mean = torch.rand(3, 5, 70) * 10
    theta = torch.rand(3, 70) * 3
    one = torch.Generator().manual_seed(5)
    shape = theta[:, None].expand_as(mean).contiguous()
    whole = torch._standard_gamma(shape, generator=one) / (shape / mean)
    many = torch.Generator().manual_seed(5)
    gammas = [reference_gammas(theta[i], 5, many) for i in range(3)]
    parts = torch.stack([reference_rates(gammas[i], mean[i], theta[i]) for i in range(3)])
    assert torch.equal(parts, whole.clamp(min=torch.finfo(torch.float32).tiny))
    assert torch.equal(torch.rand(4, generator=one), torch.rand(4, generator=many))


def test_prediction_of_one_window_equals_the_reference_bit_for_bit(fixtures, tiny_model):
    """Its stream: one number of the data loader, one permutation of the genes, then the draws."""
    with np.load(fixtures / "forward.npz") as want:
        counts = torch.from_numpy(want["features"])[None]
    with np.load(fixtures / "get_prediction_seed11.npz") as want:
        out = tiny_model.forward(counts, n_ctx=20, n_keep=8, first_row=0)
        np.testing.assert_allclose(out.mean[0], want["mean"], rtol=1e-4)
        np.testing.assert_allclose(out.logits[0], want["logits"], atol=1e-4)
        generator = torch.Generator().manual_seed(11)
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        torch.randperm(200, generator=generator)
        gammas = reference_gammas(out.dispersion[0], len(out.mean[0]), generator)
        drawn = torch.poisson(reference_rates(gammas, out.mean[0], out.dispersion[0]), generator=generator)
        assert np.array_equal(drawn, want["counts"])
