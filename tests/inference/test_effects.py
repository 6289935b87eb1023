from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from inference.draw import log_normalise
from inference.effects import fit_trend, measure_effect, profile_counts, summarise_arm


def _counts(rng, n_cells, level):
    """Overdispersed counts of cells x genes with the given mean per gene."""
    depth = rng.lognormal(0, 0.3, (n_cells, 1))
    return sparse.csr_matrix(rng.poisson(rng.gamma(2, depth * level / 2)).astype(float))


@pytest.fixture(scope="module")
def level():
    return np.random.default_rng(1).lognormal(-2.5, 1.5, 2000)


def test_the_standard_error_is_the_formula_by_hand(level):
    rng = np.random.default_rng(2)
    logs = [log_normalise(_counts(rng, n, level)) for n in (7, 12)]
    treated, control = (one.toarray() for one in logs)
    effect = measure_effect(*map(summarise_arm, logs))
    np.testing.assert_allclose(effect.delta, treated.mean(0) - control.mean(0))
    order = np.argsort(control.mean(0), kind="stable")
    order = order[control.mean(0)[order] > 0]
    bins = np.array_split(order, 25)
    x = [0, *(control.mean(0)[places].mean() for places in bins)]
    y = [0, *(control.var(0, ddof=1)[places].mean() for places in bins)]
    moderated = []
    for arm, n in ((treated, 7), (control, 12)):
        mean = (n * arm.mean(0) + 3 * control.mean(0)) / (n + 3)
        moderated.append((10 * np.interp(mean, x, y) + (n - 1) * arm.var(0, ddof=1)) / (n + 9))
    variance = np.maximum(np.maximum(*moderated), np.interp(0.5 / 19, x, y))
    np.testing.assert_allclose(effect.se, np.sqrt(variance / 7 + variance / 12))
    assert (effect.n_treated, effect.n_control) == (7, 12)


def test_a_profile_is_mean_detection_and_squared_error_of_the_mean(level):
    counts = _counts(np.random.default_rng(4), 9, level)
    mean, detection, error = profile_counts(counts)
    logs = log_normalise(counts).toarray()
    np.testing.assert_allclose(mean, logs.mean(0))
    np.testing.assert_allclose(detection, (counts.toarray() > 0).mean(0))
    np.testing.assert_allclose(error, logs.var(0, ddof=1) / 9)
    assert not profile_counts(counts[:1])[2].any()


@pytest.mark.parametrize("sizes", [(5, 5), (5, 100), (40, 40), (100, 10)])
def test_halves_of_one_population_do_not_differ_beyond_three_standard_errors(level, sizes):
    rng = np.random.default_rng(3)
    far = []
    for _ in range(4):
        effect = measure_effect(*(summarise_arm(log_normalise(_counts(rng, n, level))) for n in sizes))
        far.append(np.abs(effect.delta) > 3 * effect.se)
    assert np.mean(far) < 0.0027  # of a normal distribution


def test_a_strong_effect_is_far_beyond_its_standard_error(level):
    rng = np.random.default_rng(4)
    raised = level.copy()
    well_seen = np.argsort(-level)[50:100]
    raised[well_seen] *= 8
    effect = measure_effect(*(summarise_arm(log_normalise(_counts(rng, 60, one))) for one in (raised, level)))
    assert (effect.delta[well_seen] / effect.se[well_seen]).min() > 3


def test_one_cell_gives_no_certainty(level):
    rng = np.random.default_rng(5)
    one, other, many = (summarise_arm(log_normalise(_counts(rng, n, level))) for n in (1, 1, 30))
    assert np.isinf(measure_effect(one, other).se).all()
    for arms in ((one, many), (many, one)):
        effect = measure_effect(*arms)
        assert (effect.se > 0).all()
        assert np.isfinite(effect.se).all()
        assert (np.abs(effect.delta) > 3 * effect.se).mean() < 0.01
    assert fit_trend(one).at(np.array([0.5])) == 0
    with pytest.raises(ValueError, match="at least one cell"):
        summarise_arm(sparse.csr_matrix((0, 5)))
