"""The size of a response that can be expected, and how far it may be off."""

import math

import numpy as np
import pytest

from haystack_kernel.campaign.judge import ASSUMED_R, COMMON, response_size


def test_response_size_counts_what_the_prompt_cannot_show():
    """What is particular to the cells asked about is as large as the correlation says, and adds to the size."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(0, 0.2, 20_000), rng.normal(0, 0.15, 20_000)
    true = shared + own
    r = np.corrcoef(shared, true)[0, 1]
    size, sd = response_size(float(np.mean(shared**2)), 0.0, within=r)
    assert size == pytest.approx(np.sqrt(np.mean(true**2)), rel=0.01)
    assert sd == pytest.approx(COMMON * size * np.sqrt(1 - r**2))


def test_response_size_when_the_back_test_expects_less_then_the_error_is_larger():
    alone, tested = response_size(0.01, 1e-6, within=0.8), response_size(0.01, 1e-6, within=0.8, expected_r=0.3)
    assert tested[0] == alone[0]
    assert tested[1] > alone[1]


def test_response_size_when_nothing_is_expected_then_the_usual_correlation_and_the_widest_error():
    size, sd = response_size(0.01, 0.0)
    assert size == pytest.approx(0.1 / ASSUMED_R)
    assert sd == pytest.approx(COMMON * size)


@pytest.mark.parametrize("square", [-0.001, 0.0])
def test_response_size_when_there_is_only_noise_then_0_with_the_error_of_the_noise(square):
    size, sd = response_size(square, 1e-4)
    assert size == 0
    assert sd == pytest.approx(math.sqrt(1e-4) / 2 / ASSUMED_R)
