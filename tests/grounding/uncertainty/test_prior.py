import numpy as np
import pytest

from haystack_kernel.grounding.uncertainty.prior import Mixture, posterior


@pytest.fixture(scope="module")
def measured():
    """4,000 true effects, of which a tenth is not 0, and what was measured of them."""
    rng = np.random.default_rng(1)
    true = np.where(rng.random(4000) < 0.1, rng.normal(0, 0.5, 4000), 0.0)
    variance = rng.uniform(0.005, 0.02, 4000)
    return true, true + rng.normal(0, np.sqrt(variance)), variance


def test_the_posterior_is_nearer_to_the_truth_than_the_measurement_and_its_variance_says_how_near(measured):
    true, effect, variance = measured
    mean, spread = posterior(effect, variance).moments()
    miss = np.square(mean - true).mean()
    assert miss < 0.3 * np.square(effect - true).mean()
    assert spread.mean() == pytest.approx(miss, rel=0.25)


def test_signs_that_are_called_are_wrong_as_rarely_as_the_rate_says(measured):
    true, effect, variance = measured
    found = posterior(effect, variance).carried_over(0.0, least=1e-4)
    rate = np.minimum(found.below(0.0), 1 - found.below(0.0))
    mean = found.moments()[0]
    called = rate < 0.05
    assert called.sum() > 100
    assert (np.sign(mean) != np.sign(true))[called].mean() < 0.05


def test_noise_alone_is_taken_for_no_effect():
    variance = np.full(3000, 0.01)
    effect = np.random.default_rng(2).normal(0, 0.1, 3000)
    found = posterior(effect, variance).carried_over(0.25, least=1e-4)
    assert np.minimum(found.below(0.0), 1 - found.below(0.0)).min() > 0.2
    assert np.abs(found.moments()[0]).max() < 0.05


def test_a_mixture_has_the_moments_and_tails_of_its_draws():
    rng = np.random.default_rng(3)
    weight, mean, variance = np.array([0.3, 0.7]), np.array([-1.0, 0.5]), np.array([0.25, 0.0])
    which = rng.choice(2, 200_000, p=weight)
    drawn = rng.normal(mean[which], np.sqrt(variance[which]))
    found = Mixture(*(array[:, None] for array in (weight, mean, variance)))
    assert [one[0] for one in found.moments()] == pytest.approx([drawn.mean(), drawn.var()], abs=0.01)
    assert found.below(0.2)[0] == pytest.approx((drawn < 0.2).mean(), abs=0.01)
    wider = found.carried_over(0.16, least=0.01)
    assert wider.variance[:, 0].tolist() == pytest.approx([0.25 + 0.01 + 0.16 * 1.25, 0.01 + 0.16 * 0.25])


def test_where_there_is_no_effect_none_is_expected_elsewhere():
    """What cells farther away differ by, a share of the mean square, is added to effects, in full to large ones."""
    found = Mixture(np.ones((1, 3)), np.array([[0.0, 0.05, 2.0]]), np.zeros((1, 3)))
    variance = found.carried_over(0.0, least=0.0, beyond=np.full(3, 0.5)).variance[0]
    typical = (0.5 * 0.05**2 + 1.0 * 2.0**2) / 1.5
    assert variance.tolist() == pytest.approx([0, 0.25 * typical, 0.5 * typical], rel=2e-3)


def test_an_effect_cannot_fall_below_the_level_of_its_gene():
    found = Mixture(np.array([[0.5], [0.5]]), np.array([[-1.0], [0.4]]), np.array([[0.04], [0.04]]))
    cut = found.no_lower_than(np.array([-0.25]))
    assert cut.mean[:, 0].tolist() == [-0.25, 0.4]
    assert cut.variance[:, 0] == pytest.approx([0.04 / 16, 0.04])
    assert cut.no_lower_than(np.array([-0.0])).mean[0, 0] == 0
