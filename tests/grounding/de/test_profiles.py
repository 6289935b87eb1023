import numpy as np
import pytest
from scipy import sparse

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.de.profiles import compute_profile, correlate, log_normalise, normalise_cp10k, pooled_sd

COUNTS = np.array([[1, 0, 9], [0, 0, 0], [4, 4, 2], [0, 5, 5]], dtype=np.float32)


def test_log_normalise_when_a_cell_is_empty_then_it_stays_zero():
    y = log_normalise(sparse.csr_matrix(COUNTS)).toarray()
    assert np.allclose(y[0], np.log1p([1000, 0, 9000]))
    assert (y[1] == 0).all()


def test_normalise_when_zeros_are_stored_then_they_are_dropped_and_the_input_is_unchanged():
    stored = sparse.csr_matrix((np.array([0.0, 2.0]), ([0, 0], [0, 1])), shape=(1, 2))
    assert normalise_cp10k(stored).nnz == 1
    assert stored.nnz == 2


def test_profile_when_computed_then_equals_dense_numpy():
    cp10k = normalise_cp10k(COUNTS)
    profile, y = compute_profile(cp10k), np.log1p(cp10k.toarray())
    assert np.allclose(profile.mean_log, y.mean(axis=0))
    assert np.allclose(profile.sd_log, y.std(axis=0, ddof=1))
    assert np.allclose(profile.mean_cp10k, cp10k.toarray().mean(axis=0))
    assert np.allclose(profile.detection, [0.5, 0.5, 0.75])
    other = compute_profile(normalise_cp10k(COUNTS[:2]))
    by_hand = np.sqrt((3 * profile.sd_log**2 + 1 * other.sd_log**2) / 4)
    assert np.allclose(pooled_sd(profile, other), by_hand)


def test_normalise_when_values_are_no_counts_then_raises():
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(InvalidInputError, match="raw counts"):
            normalise_cp10k(np.array([[1.0, bad]]))


def test_correlate_when_given_then_equals_numpy_and_constant_is_nan():
    one, two = np.random.default_rng(0).normal(size=(2, 50))
    assert correlate(one, two) == pytest.approx(np.corrcoef(one, two)[0, 1])
    assert np.isnan(correlate(one, np.ones(50)))
    assert np.isnan(correlate(one[:2], two[:2]))


def test_profile_when_an_arm_is_empty_then_raises():
    with pytest.raises(InvalidInputError, match="no cells"):
        compute_profile(normalise_cp10k(np.zeros((0, 3))))
