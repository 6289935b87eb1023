"""Intervals of a calibration hold what they promise on treatments that it has not seen."""

from datetime import UTC, datetime

import numpy as np
import pytest

from haystack_kernel.backtest.calibrate import CalibrationPairs, calibrate, covered_interval, held_out_coverage
from haystack_kernel.grounding.confidence.backtested import (
    FEATURES,
    back_tested_aspect,
    quote_calibration,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def outcomes(n, *, seed=0, n_groups=None, slope=0.0, evidence="other_cell_type", level=0.8, apart=None):
    """Pairs whose atanh(r) is level + slope x similarity + an effect of the treatment + noise."""
    rng = np.random.default_rng(seed)
    n_groups = n_groups or max(n // 3, 1)
    group = rng.integers(0, n_groups, n)
    features = np.column_stack([rng.normal(0.8, 0.1, n), rng.normal(2.5, 0.3, n), rng.uniform(0, 1, n)])
    z = level + slope * (features[:, 0] - 0.8) + rng.normal(0, 0.15, n_groups)[group] + rng.normal(0, 0.25, n)
    names = np.array([f"drug {one}" for one in group])
    return CalibrationPairs(
        np.tanh(z), np.full(n, evidence), names, names if apart is None else np.array(apart), features, FEATURES
    )


def made(some, engine="weighted"):
    return calibrate(some, atlas="a", digest="d", engine=engine, backtest="backtest-0", made_at=NOW)


def expect(calibration, *, evidence=("other_cell_type",), features=(0.8, 2.5, 0.5)):
    return quote_calibration(calibration, engine="weighted", evidence=evidence, features=features)


@pytest.mark.parametrize("n", [12, 60])
def test_80_percent_intervals_hold_80_percent_of_new_treatments(n):
    """Over many back-tests, for a new treatment each: Student's t below 20 pairs, conformal from 20."""
    inside = []
    for seed in range(30):
        found = expect(made(outcomes(n, seed=seed, n_groups=n)))
        rng = np.random.default_rng([seed, 1])
        z = 0.8 + rng.normal(0, np.hypot(0.15, 0.25), 40)
        inside.append(np.mean((np.tanh(z) >= found.low) & (np.tanh(z) <= found.high)))
        assert found.method == ("t" if n < 20 else "conformal")
    assert 0.75 <= np.mean(inside) <= 0.86


def test_the_coverage_that_is_printed_is_counted_on_treatments_left_out():
    some = outcomes(120, seed=5)
    covered, checked = held_out_coverage(some)
    assert checked == 120
    low, high = covered_interval(covered, checked)
    assert low <= 0.8 <= high
    stratum = made(some).strata[0]
    assert (stratum.n_covered, stratum.n_checked) == (covered, checked)


def test_features_move_the_expectation_and_are_not_followed_beyond_what_was_tested():
    calibration = made(outcomes(200, slope=4.0, seed=2))
    low, high = (expect(calibration, features=(value, 2.5, 0.5)).r for value in (0.7, 0.9))
    assert high - low > 0.2
    most = calibration.most[0]
    beyond, at = (expect(calibration, features=(value, 2.5, 0.5)) for value in (most + 5, most))
    assert beyond.r == at.r
    assert beyond.outside == ("similarity",)
    assert at.outside == ()
    assert "Beyond what was tested: similarity" in back_tested_aspect(beyond).words
    assert made(outcomes(30, slope=4.0)).slope == ()


def test_a_decoy_is_expected_to_be_wrong():
    assert expect(made(outcomes(60, level=0.02), engine="decoy")).r < 0.2


def test_few_treatments_are_not_calibrated_and_the_words_say_so():
    few = expect(made(outcomes(60, n_groups=1)))
    assert not few.is_calibrated
    assert few.n_perturbations == 1
    assert few.n_checked == 0
    assert "Not calibrated for other treatments: one treatment tested, 10 are needed" in back_tested_aspect(few).words
    of_donors = expect(made(outcomes(60, n_groups=1, apart=[f"donor {n % 6}" for n in range(60)])))
    assert (of_donors.n_perturbations, of_donors.n_checked, of_donors.is_calibrated) == (1, 60, False)
    assert covered_interval(of_donors.n_covered, 60)[0] <= 0.8 <= covered_interval(of_donors.n_covered, 60)[1]
    said = f"(with the own donors or cell type left out {of_donors.n_covered} of 60 lay inside). Not calibrated"
    assert said in back_tested_aspect(of_donors).words
    many = expect(made(outcomes(60, n_groups=20)))
    assert many.is_calibrated
    words = back_tested_aspect(many).words
    assert words.startswith("60 hidden pairs of atlas a were predicted by weighted from the same treatment in other")
    assert f"{many.n_covered} of {many.n_checked} lay inside" in words


def test_an_evidence_distance_that_was_not_tested_gets_no_figure():
    found = expect(made(outcomes(60)), evidence=("text_only",))
    assert np.isnan(found.r)
    assert "other cell types (60)" in found.reason
    aspect = back_tested_aspect(found)
    assert np.isnan(aspect.value)
    assert "cannot say" in aspect.reason
    assert back_tested_aspect(None).reason == "no back-test of this atlas with this engine was made"
    assert expect(None) is None


def test_one_pair_gives_no_interval_and_missing_correlations_are_left_out():
    some = outcomes(3)
    some.r[1:] = np.nan
    assert made(some).strata[0].method == "none"
    assert made(some).n_pairs == 1


@pytest.mark.parametrize(
    ("inside", "n", "low", "high"), [(0, 10, 0.0, 0.308), (10, 10, 0.692, 1.0), (8, 10, 0.444, 0.975)]
)
def test_binomial_interval_is_that_of_clopper_and_pearson(inside, n, low, high):
    assert covered_interval(inside, n) == pytest.approx((low, high), abs=1e-3)
