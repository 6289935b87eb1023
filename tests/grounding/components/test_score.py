"""From p values to scores, and from components to the composite."""

import math

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.components.score import best_of_many, composite, score_from_p
from haystack_kernel.schema import Component

NAN = float("nan")


def parts(*scores):
    weights = (0.25, 0.30, 0.25, 0.20)
    names = ("pathway_coherence", "target_activation", "literature_support", "network_coherence")
    return [
        Component(name=name, weight=weight, score=score, reason="no source" if math.isnan(score) else "")
        for name, weight, score in zip(names, weights, scores, strict=True)
    ]


def test_score_from_p_when_given_then_follows_the_formula():
    for p, score in ((1.0, 1.0), (0.5, 1.0), (0.05, 4.0), (0.005, 7.0), (0.0005, 10), (1e-4, 10)):
        assert score_from_p(p) == pytest.approx(score)
    assert round(score_from_p(1 / 1000), 1) == 9.1  # the most that 999 draws can show


def test_score_from_p_when_nan_then_nan_and_when_zero_then_raises():
    assert math.isnan(score_from_p(NAN))
    with pytest.raises(InvalidInputError, match="outside"):
        score_from_p(0.0)


def test_best_of_many_when_five_were_scored_then_p_grows():
    assert best_of_many(0.01, n_scored=1) == pytest.approx(0.01)
    assert best_of_many(0.01, n_scored=5) == pytest.approx(1 - 0.99**5)
    assert best_of_many(1.0, n_scored=5) == 1.0
    assert math.isnan(best_of_many(NAN, n_scored=2))
    with pytest.raises(InvalidInputError, match="at least 1"):
        best_of_many(0.1, n_scored=0)


def test_composite_when_all_are_computed_then_weighted_mean_without_cap():
    result = composite(parts(10, 8, 6, 4), donor_matched=True)
    assert result.value == pytest.approx(2.5 + 2.4 + 1.5 + 0.8)
    assert (result.cap, result.reason, result.weight_computed) == (10, "", pytest.approx(1.0))


def test_composite_when_two_are_missing_then_weight_is_shared_and_capped():
    result = composite(parts(4, 2, NAN, NAN), donor_matched=True)
    assert result.value == pytest.approx((0.25 * 4 + 0.3 * 2) / 0.55)
    full = composite(parts(10, 10, NAN, NAN), donor_matched=True)
    assert full.value == full.cap == pytest.approx(4 + 6 * 0.55)
    assert "literature support" in full.reason


def test_composite_when_control_is_not_donor_matched_then_four_is_the_most():
    result = composite(parts(10, 10, 10, 10), donor_matched=False)
    assert result.value == 4
    assert "donor" in result.reason
    assert composite(parts(2, 2, 2, 2), donor_matched=False).value == pytest.approx(2)


def test_composite_when_a_panel_was_tested_then_six_is_the_most():
    result = composite(parts(10, 10, 10, 10), donor_matched=True, n_tested=256)
    assert (result.value, result.cap) == (6, 6)
    assert "256 genes were tested, fewer than 1,000" in result.reason
    assert composite(parts(3, 3, 3, 3), donor_matched=True, n_tested=256).value == pytest.approx(3)
    assert composite(parts(10, 10, 10, 10), donor_matched=True, n_tested=1000).value == 10


def test_composite_when_the_response_was_hardly_replicated_then_the_cap_says_so():
    for replication, most in ((0.0, 4.0), (0.9, 6.78), (1.0, 7.0), (2.0, 8.5), (10.0, 9.99)):
        result = composite(parts(10, 10, 10, 10), donor_matched=True, replication=replication)
        assert result.value == result.cap == pytest.approx(most, abs=0.01)
    assert "worth 10.0 well measured donors" in result.reason
    low = composite(parts(2, 2, 2, 2), donor_matched=True, replication=0.9)
    assert (low.value, low.shown) == (pytest.approx(2), "2.0 of at most 6.8")
    assert composite(parts(10, 10, 10, 10), donor_matched=False, replication=3.0).reason.count(";") == 0


def test_composite_when_less_than_half_is_computed_then_not_scored():
    result = composite(parts(10, NAN, NAN, 10), donor_matched=True)
    assert math.isnan(result.value)
    assert "45%" in result.reason
    assert "no source" in result.reason
    assert math.isnan(composite([], donor_matched=True).value)
