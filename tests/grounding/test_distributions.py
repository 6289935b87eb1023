import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from haystack_kernel.grounding.distributions import adjust, hypergeometric, p_greater, t_above, t_quantile


def test_tails_and_adjusted_p_values_are_those_of_scipy():
    rng = np.random.default_rng(0)
    t = np.r_[rng.normal(scale=5, size=200), np.finfo(float).max, -np.finfo(float).max, 0.0]
    for degrees in (1, 2, 7, 900):
        np.testing.assert_array_equal(t_above(t, degrees), stats.t.sf(t, degrees))
        np.testing.assert_array_equal(t_above(-t, degrees), stats.t.cdf(t, degrees))
    for degrees in (1.0, 3.7, 40.0):
        assert t_quantile(0.9, degrees) == pytest.approx(stats.t.ppf(0.9, degrees), rel=1e-12)
    for pval in (np.zeros(0), rng.random(1), rng.random(500) ** 3, np.array([0.5, 0.5, 1.0, 0.0])):
        expected = stats.false_discovery_control(pval) if pval.size else pval
        np.testing.assert_array_equal(adjust(pval), expected)


@pytest.mark.parametrize(("n", "n_called", "n_drawn"), [(20, 7, 12), (2000, 61, 40), (20000, 3000, 200)])
def test_chances_of_overlaps_are_those_of_scipy(n, n_called, n_drawn):
    counts = np.arange(max(0, n_drawn + n_called - n), min(n_called, n_drawn) + 1)
    found = hypergeometric(counts, n=n, n_called=n_called, n_drawn=n_drawn)
    np.testing.assert_allclose(found, stats.hypergeom.pmf(counts, n, n_called, n_drawn), rtol=1e-9)
    assert found.sum() == pytest.approx(1.0)


def test_a_mean_is_compared_with_another_and_with_zero_as_scipy_does():
    rng = np.random.default_rng(1)
    for size in (3, 12):
        one, two = rng.normal(0.5, 1, size), rng.normal(0, 2, 8)
        both = stats.ttest_ind(one, two, equal_var=False, alternative="greater").pvalue
        assert p_greater(one, two) == pytest.approx(both, rel=1e-12)
        alone = stats.ttest_1samp(one, 0, alternative="greater").pvalue
        assert p_greater(one, np.zeros(0)) == pytest.approx(alone, rel=1e-12)


@pytest.mark.slow
def test_scoring_and_reports_load_no_package_that_costs_a_run_its_first_second():
    code = "import haystack_kernel.grounding, haystack_kernel.report.render, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"scipy.stats", "sklearn", "scanpy", "torch", "gcsfs"}.intersection(loaded)
