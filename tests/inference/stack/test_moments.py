"""Expectations over counts, against scipy's negative binomial summed term by term."""

import numpy as np
import pytest
from scipy import stats

from inference.stack.moments import expect_log, sum_terms


@pytest.mark.parametrize("mean", [0.0, 1e-4, 0.05, 1.0, 7.5, 19.0])
@pytest.mark.parametrize("theta", [0.1, 1.0, 8.0])
def test_expectation_is_the_sum_over_all_counts(mean, theta):
    counts, scale = np.arange(5000), 6.5
    truth = (stats.nbinom.pmf(counts, theta, theta / (theta + mean)) * np.log1p(scale * counts)).sum()
    value = expect_log(
        np.full((1, 1), mean, np.float32), np.full((1, 1), theta, np.float32), scale=np.full((1, 1), scale)
    )
    assert value[0, 0] == pytest.approx(truth, rel=2e-3, abs=2e-4)


def test_large_means_are_expanded():
    counts, mean, theta, scale = np.arange(20_000), 300.0, 8.0, 5.0
    truth = (stats.nbinom.pmf(counts, theta, theta / (theta + mean)) * np.log1p(scale * counts)).sum()
    value = expect_log(*(np.full((1, 1), v, np.float32) for v in (mean, theta)), scale=np.full((1, 1), scale))
    assert value[0, 0] == pytest.approx(truth, rel=2e-3)


@pytest.mark.parametrize("mean", [25.0, 120.0, 900.0])
@pytest.mark.parametrize("theta", [0.05, 0.3, 2.0, 7.0])
def test_large_means_of_broad_distributions_are_summed_and_never_negative(mean, theta):
    counts, scale = np.arange(400_000), 6.5
    truth = (stats.nbinom.pmf(counts, theta, theta / (theta + mean)) * np.log1p(scale * counts)).sum()
    value = expect_log(*(np.full((1, 1), v, np.float32) for v in (mean, theta)), scale=np.full((1, 1), scale))
    assert value[0, 0] == pytest.approx(truth, rel=2.5e-2)


def test_compiled_and_plain_sums_agree():
    rng = np.random.default_rng(1)
    mean = rng.gamma(0.3, 3.0, (40, 300)).astype(np.float32)
    mean[:, :5], mean[:, 5:10] = 0.0, rng.uniform(10, 2000, (40, 5))
    theta = rng.gamma(1.0, 3.0, (40, 300)).astype(np.float32)
    scale = rng.uniform(0.2, 20, (40, 1)).astype(np.float32)
    found, want = (compute(mean, theta, scale=scale) for compute in (expect_log, sum_terms))
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=2e-4)
    assert found[:, :5].max() == 0


def test_each_cell_has_its_own_scale():
    mean, theta = np.full((2, 3), 0.5, np.float32), np.full((2, 3), 2.0, np.float32)
    value = expect_log(mean, theta, scale=np.array([[1.0], [10.0]], np.float32))
    assert np.ptp(value, axis=1).max() == 0
    assert value[1, 0] > value[0, 0]


def test_layout_in_memory_does_not_matter():
    rng = np.random.default_rng(0)
    mean, theta = rng.gamma(1.0, 2.0, (6, 5)).astype(np.float32), np.full((6, 5), 2.0, np.float32)
    scale = np.full((6, 1), 5.0, np.float32)
    columns = expect_log(np.asfortranarray(mean), np.asfortranarray(theta), scale=scale)
    np.testing.assert_allclose(columns, expect_log(mean, theta, scale=scale), rtol=1e-6)
