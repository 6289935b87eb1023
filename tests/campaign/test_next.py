"""Which experiment next: what is near the edge of the top and uncertain, worth what it is said to be worth."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import quad

from haystack_kernel.campaign.next import (
    DONOR_SPREAD,
    crossing,
    next_experiments,
    preposterior,
)
from haystack_kernel.errors import InvalidInputError, MissingKeyError

N, TOP = 30, 5


def make_list(value, sd, **more):
    """A campaign's list."""
    n = len(value)
    return pd.DataFrame(
        {
            "number": np.arange(1, n + 1),
            "perturbation": [f"drug {i}" for i in range(1, n + 1)],
            "cell_type": "T cell",
            "status": "predicted",
            "expected_r": 1.0,
            "size": value,
            "size_sd": sd,
            "n_tested": 2000,
            **more,
        }
    )


def falling():
    return np.linspace(2.0, 0.5, N)


def test_next_experiments_when_one_pair_at_the_edge_is_uncertain_then_first():
    sd = np.full(N, 0.01)
    sd[[6, 0, 29]] = 0.3  # the seventh of a top of five, the first, and the last
    found = next_experiments(make_list(falling(), sd), top=TOP)
    assert found.table["perturbation"].iloc[0] == "drug 7"
    assert (found.by, len(found.table)) == ("size", N)
    first = found.table.iloc[0]
    assert first["p_change"] > 0.3 > found.table["p_change"].iloc[1]
    assert found.words[0].startswith("1. drug 7 in T cell: place 7, may belong to the top 5 (chance ")
    last = found.table[found.table["perturbation"] == "drug 30"].iloc[0]
    assert last["narrowing"] > 0.5  # much would be learned, and nothing be changed
    assert last["gain"] < first["gain"] / 100


def test_next_experiments_states_the_errors_before_and_after():
    table = make_list([1.0, 0.8], [0.2, 0.1], expected_r=[0.6, np.nan])
    found = next_experiments(table, top=1, n_donors=4, n_cells=25).table.sort_values("place")
    before = np.array([0.04, 0.01])
    noise = (DONOR_SPREAD * np.array([1.0, 0.8])) ** 2 / 4 + 0.25 * 2 / 2000 / 100
    np.testing.assert_allclose(found["sd"], np.sqrt(before))
    np.testing.assert_allclose(found["sd_after"] ** 2, 1 / (1 / before + 1 / noise))
    np.testing.assert_allclose(found["gain_per_donor"] * 4, found["gain"])


def test_next_experiments_when_toward_is_known_then_by_it_and_cells_count_for_weak_responses():
    more = {"toward": np.linspace(0.6, 0.1, N), "toward_sd": 0.1, "size": np.r_[0.2, 0.01, np.full(N - 2, 0.1)]}
    found = next_experiments(make_list(falling(), 0.1).assign(**more))
    assert found.by == "toward"
    rows = found.table.set_index("place")
    assert rows.loc[2, "narrowing"] < rows.loc[1, "narrowing"]


def test_next_experiments_leaves_out_what_was_measured_or_has_no_value():
    table = make_list(falling(), 0.1, measured=[True] + [False] * (N - 1))
    table.loc[3, "status"] = "refused"
    table.loc[4, "size"] = np.nan
    found = next_experiments(table, top=TOP).table
    assert set(table["number"]) - set(found["number"]) == {1, 4, 5}
    assert found["place"].max() == N - 2
    table = make_list(falling(), 0.1, source=["measured", *["predicted"] * (N - 1)])
    assert set(next_experiments(table, top=TOP).table["number"]) == set(range(2, N + 1))


def test_crossing_is_chance_and_excess_of_a_normal():
    distance, moved = np.array([0.0, 0.3, 2.0]), np.array([0.5, 0.2, 0.4])
    chance, gain = crossing(distance, moved)
    for d, t, p, g in zip(distance, moved, chance, gain, strict=True):
        assert p == pytest.approx(stats.norm.sf(d / t))
        assert g == pytest.approx(quad(lambda x, d=d, t=t: (x - d) * stats.norm.pdf(x, 0, t), d, d + 12 * t)[0])


def test_preposterior_is_what_a_measurement_does_on_average():
    rng = np.random.default_rng(0)
    true = 1 + 0.3 * rng.standard_normal(200_000)
    seen = true + 0.2 * rng.standard_normal(true.size)
    after, moved = preposterior(np.array([0.09]), np.array([0.04]))
    updated = (1 / 0.09 + seen / 0.04) / (1 / 0.09 + 1 / 0.04)
    assert updated.std() == pytest.approx(moved[0], rel=0.01)
    assert np.mean((true - updated) ** 2) == pytest.approx(after[0], rel=0.02)


def test_next_experiments_when_the_proposed_pair_is_measured_then_the_top_gains_what_was_said():
    rng = np.random.default_rng(1)
    said, gained, by_chance = [], [], []
    for _ in range(25):
        value, sd = rng.gamma(2.0, 0.5, N), rng.uniform(0.02, 0.4, N)
        table = make_list(value, sd).sort_values("size", ascending=False, ignore_index=True)
        value, sd = table["size"].to_numpy(), table["size_sd"].to_numpy()
        found = next_experiments(table, top=TOP).table.sort_values("place")
        best = int(found["gain"].to_numpy().argmax())
        said.append(found["gain"].iloc[best])
        variance, after = sd**2, found["sd_after"].to_numpy() ** 2
        for place, gains in ((best, gained), (int(rng.integers(N)), by_chance)):
            true = value[None] + sd * rng.standard_normal((200, N))
            noise = 1 / (1 / after[place] - 1 / variance[place])
            seen = true[:, place] + np.sqrt(noise) * rng.standard_normal(200)
            now = np.tile(value, (200, 1))
            now[:, place] = after[place] * (value[place] / variance[place] + seen / noise)
            chosen = np.argsort(-now, axis=1)[:, :TOP]
            gains.append(float(np.mean(np.take_along_axis(true, chosen, 1).sum(axis=1) - true[:, :TOP].sum(axis=1))))
    error = np.std(np.subtract(gained, said)) / 5
    assert abs(np.mean(gained) - np.mean(said)) < 4 * error
    assert np.mean(gained) > 3 * np.mean(by_chance)


def test_next_experiments_when_nothing_can_change_then_says_so():
    found = next_experiments(make_list(falling(), 1e-6), top=TOP)
    assert found.words == ("No single measurement of this size is likely to change the top 5 of this list.",)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"top": 0}, InvalidInputError, "top is 0; give a whole number"),
        ({"n_cells": 2.5}, InvalidInputError, "n_cells is 2.5"),
        ({"top": N}, InvalidInputError, "30 questions with a value and an error"),
        ({"by": "composite"}, MissingKeyError, "ordered by 'composite'.*possible: size"),
    ],
)
def test_next_experiments_when_an_option_cannot_be_then_says_what_can(options, error, words):
    with pytest.raises(error, match=words):
        next_experiments(make_list(falling(), 0.1), **options)
