"""The donor null: a response has to be larger than its spread over donors."""

import numpy as np
import pytest
from scipy import stats

from haystack_kernel.grounding.components.score import score_from_p
from haystack_kernel.grounding.nulls.donors import DonorEffects, compare_donors, donor_effects
from haystack_kernel.grounding.nulls.self_contained import self_contained_null


def draw_wells(rng, n_donors, *, spread, effect=0.0, n_cells=40):
    """Scores of cells whose every donor and condition is a well of its own; the treatment adds ``effect``."""
    donors = np.repeat([f"d{i}" for i in range(n_donors)], 2 * n_cells)
    is_treated = np.tile(np.repeat([True, False], n_cells), n_donors)
    wells = np.repeat(rng.normal(0, spread, size=2 * n_donors), n_cells)
    scores = wells + effect * is_treated + rng.normal(0, 1, size=donors.size)
    strata = np.unique(donors, return_inverse=True)[1]
    return {"scores": scores[:, None], "is_treated": is_treated, "strata": strata, "donors": donors}


@pytest.mark.parametrize("n_donors", [3, 4, 8])
def test_donor_effects_when_only_wells_differ_then_seven_is_as_rare_as_it_says(n_donors):
    rng = np.random.default_rng(n_donors)
    p = [donor_effects(**draw_wells(rng, n_donors, spread=0.5)).tails()[0].up for _ in range(800)]
    assert np.mean([score_from_p(one) >= 7 for one in p]) <= 0.005 + 3 * np.sqrt(0.005 / 800)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_donor_effects_when_every_donor_responds_then_small():
    tails = donor_effects(**draw_wells(np.random.default_rng(0), 4, spread=0.1, effect=2.0)).tails()[0]
    assert tails.up < 0.001
    assert tails.down > 0.999


def test_donor_effects_when_types_are_unequal_then_the_t_of_weighted_means():
    rng = np.random.default_rng(1)
    donors, types = np.repeat(["a", "b", "c"], 20), np.tile(np.repeat(["x", "y"], [12, 8]), 3)
    is_treated = rng.random(60) < 0.4
    strata = np.unique(np.char.add(donors, types), return_inverse=True)[1]
    scores = rng.normal(size=(60, 2)) + 0.5 * is_treated[:, None]
    found = donor_effects(scores, is_treated=is_treated, strata=strata, donors=donors)
    by_hand, smaller = [], []
    for donor in found.names:
        total, weight, n = 0.0, 0.0, 0
        for name in ("x", "y"):
            here = (donors == donor) & (types == name)
            t, c = scores[here & is_treated, 1], scores[here & ~is_treated, 1]
            w = len(t) * len(c) / (len(t) + len(c))
            total, weight, n = total + w * (t.mean() - c.mean()), weight + w, n + min(len(t), len(c))
        by_hand.append(total / weight)
        smaller.append(n)
    np.testing.assert_allclose(found.values[:, 1], by_hand)
    assert found.n_cells.tolist() == smaller
    assert found.tails()[1].up == pytest.approx(stats.ttest_1samp(by_hand, 0, alternative="greater").pvalue)
    assert found.replication == pytest.approx(sum(n / (n + 20) for n in smaller))


def test_donor_effects_when_two_donors_or_too_few_cells_then_no_test():
    assert np.isnan(donor_effects(**draw_wells(np.random.default_rng(0), 2, spread=0.1)).tails()[0].up)
    few = donor_effects(**draw_wells(np.random.default_rng(0), 4, spread=0.1, n_cells=2))
    assert np.isnan(few.tails()[0].up)
    assert few.replication == pytest.approx(4 * 2 / 22)
    assert DonorEffects().replication == 0


def test_donor_effects_when_all_donors_agree_to_the_digit_then_p_stays_above_zero():
    found = DonorEffects(("a", "b", "c"), np.array([9, 9, 9]), np.array([[1.0, 0.0]] * 3))
    up, flat = found.tails()
    assert 0 < up.up < 1e-300
    assert flat.up == 0.5


def test_self_contained_null_when_one_donor_alone_responds_then_its_cells_are_no_evidence(world, alpha_shift):
    up = [gene for gene, factor in alpha_shift.items() if factor > 1]
    factors = np.array([6.0 if gene in up else 1.0 for gene in (f"G{i}" for i in range(1500))])
    prompt, control = world.cells(120, donor_effects={"d2": factors}), world.cells(120)
    sets = {"up": dict.fromkeys(up, 1)}
    tested = [f"G{i}" for i in range(1500)]
    found = self_contained_null(prompt, control, sets=sets, tested=tested, n_draws=999, seed=0)
    assert found.get("up").up == 0.001
    assert found.over_donors("up").up > 0.05
    assert found.effects.names[found.effects.values[:, 0].argmax()] == "d2"
    assert found.replication == pytest.approx(4 * 30 / 50)
    assert self_contained_null(prompt, None, sets=sets, tested=tested, n_draws=99, seed=0).replication == 0


def draw_groups(rng, n_donors, *, spread, effect=0.0, n_cells=30):
    """Scores of cells of donors who are treated or not, each donor a well, with two cell types in unequal shares."""
    parts = []
    for side, n in zip((True, False), n_donors, strict=True):
        for number in range(n):
            types = rng.random(n_cells) < rng.uniform(0.2, 0.8)
            score = rng.normal(0, spread) + effect * side + 3.0 * types + rng.normal(0, 1, size=n_cells)
            parts.append((score, np.full(n_cells, side), types.astype(int), np.full(n_cells, f"{side}{number}")))
    scores, is_treated, strata, donors = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {"scores": scores[:, None], "is_treated": is_treated, "strata": strata, "donors": donors}


@pytest.mark.parametrize("n_donors", [(3, 3), (8, 8), (1, 4)])
def test_compare_donors_when_both_sides_are_different_people_who_differ_by_chance_then_seven_is_rare(n_donors):
    rng = np.random.default_rng(sum(n_donors))
    p = [compare_donors(**draw_groups(rng, n_donors, spread=0.5)).tails()[0].up for _ in range(300)]
    assert np.mean([score_from_p(one) >= 7 for one in p]) <= 0.005 + 3 * np.sqrt(0.005 / 300)
    assert 0.4 < np.median(p) < 0.6


def test_compare_donors_when_the_sides_are_different_people_then_welch_over_donors():
    rng = np.random.default_rng(0)
    drawn = draw_groups(rng, (4, 5), spread=0.1, effect=2.0)
    drawn["strata"] = np.zeros_like(drawn["strata"])
    found = compare_donors(**drawn)
    sides = [
        [
            drawn["scores"][drawn["donors"] == name].mean()
            for name in np.unique(drawn["donors"][drawn["is_treated"] == side])
        ]
        for side in (True, False)
    ]
    welch = stats.ttest_ind(*sides, equal_var=False, alternative="greater")
    assert found.tails()[0].up == pytest.approx(welch.pvalue)
    halves = 4 * 30 / 50, 5 * 30 / 50
    assert found.replication == pytest.approx(2 / (1 / halves[0] + 1 / halves[1]))
    one = compare_donors(**draw_groups(rng, (1, 5), spread=0.1, effect=5.0))
    assert one.tails()[0].up < 0.001
    assert one.replication < 1.2
    assert np.isnan(compare_donors(**draw_groups(rng, (1, 2), spread=0.1)).tails()[0].up)
    assert np.isnan(compare_donors(**draw_groups(rng, (3, 3), spread=0.1, n_cells=2)).tails()[0].up)


def test_compare_donors_when_cell_types_are_shared_unequally_then_their_shares_are_no_difference():
    rng = np.random.default_rng(3)
    drawn = draw_groups(rng, (4, 4), spread=0.0, n_cells=200)
    cells, kinds = compare_donors(**drawn), compare_donors(**(drawn | {"strata": np.zeros(1600, dtype=int)}))
    assert np.abs(cells.values).max() < 0.3 < np.abs(kinds.values - kinds.values.mean()).max()
