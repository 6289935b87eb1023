"""The self-contained null: labels of the prompt cells permuted within donor and cell type."""

import itertools

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from haystack_kernel import keys
from haystack_kernel.errors import MissingKeyError
from haystack_kernel.grounding.nulls.self_contained import permute_within, self_contained_null


def test_permute_within_when_one_small_stratum_then_equals_full_enumeration():
    rng = np.random.default_rng(0)
    scores, treated = rng.normal(size=(8, 1)), np.arange(8) < 4
    sums = [scores[list(pick), 0].sum() for pick in itertools.combinations(range(8), 4)]
    exact = np.mean(np.array(sums) >= scores[treated].sum() - 1e-12)
    (tails,) = permute_within(scores, is_treated=treated, strata=np.zeros(8, int), n_draws=20000, seed=1)
    assert tails.up == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20000))
    assert tails.up + tails.down > 1  # the observed labelling counts on both sides


def test_permute_within_when_nothing_happens_then_p_is_uniform():
    rng = np.random.default_rng(3)
    p = []
    for i in range(200):
        strata = np.repeat([0, 1, 2], 14)
        scores = rng.normal(size=(42, 1)) + np.array([0.0, 5.0, -5.0])[strata][:, None]
        treated = np.concatenate([rng.permutation(14) < k for k in (3, 7, 11)])  # unbalanced over shifted donors
        p.append(permute_within(scores, is_treated=treated, strata=strata, n_draws=199, seed=i)[0].up)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_permute_within_when_donors_explain_all_then_no_signal_though_means_differ():
    strata = np.repeat([0, 1], 40)
    treated = np.r_[np.arange(40) < 36, np.arange(40) < 4]  # donor 0 nearly all treated
    scores = np.random.default_rng(4).normal(size=(80, 1)) * 0.1 + 10.0 * (strata == 0)[:, None]
    assert scores[treated].mean() - scores[~treated].mean() > 5
    assert permute_within(scores, is_treated=treated, strata=strata, n_draws=999, seed=0)[0].up > 0.02


def test_permute_within_when_no_stratum_holds_both_labels_then_nan():
    treated = np.arange(20) < 10
    (tails,) = permute_within(np.ones((20, 1)), is_treated=treated, strata=treated.astype(int), n_draws=99, seed=0)
    assert np.isnan(tails.up)


def test_permute_within_when_seed_is_equal_then_p_is_equal():
    scores, treated = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) < 15
    runs = [permute_within(scores, is_treated=treated, strata=np.zeros(30, int), n_draws=700, seed=5) for _ in "ab"]
    assert runs[0] == runs[1]


def test_self_contained_null_when_the_prompt_responds_then_small_one_sided(world, alpha_shift):
    sets = {"up": dict.fromkeys([g for g, f in alpha_shift.items() if f > 1], 1)}
    sets["against"] = dict.fromkeys(sets["up"], -1)
    sets["short"] = {"G1": 1, "G2": 1}
    prompt, control = world.cells(60, shift=alpha_shift), world.cells(60)
    found = self_contained_null(prompt, control, sets=sets, tested=set(world_genes()), n_draws=999, seed=0)
    assert found.get("up").up == 0.001
    assert found.get("against").up == 1.0
    assert np.isnan(found.get("short").up)
    assert found.reason == ""


def world_genes():
    return [f"G{i}" for i in range(1500)]


def test_self_contained_null_when_donors_hold_one_label_each_then_nan_with_reason(world, alpha_shift):
    prompt = world.cells(40, shift=alpha_shift, donors=("d1", "d2"))
    control = world.cells(40, donors=("d3", "d4"))
    sets = {"any": dict.fromkeys(world_genes()[:20], 1)}
    found = self_contained_null(prompt, control, sets=sets, tested=set(world_genes()), n_draws=99, seed=0)
    assert np.isnan(found.get("any").up)
    assert "no donor" in found.reason
    assert "no matched control" in self_contained_null(prompt, None, sets=sets, tested=[], n_draws=99, seed=0).reason


def test_self_contained_null_when_strata_columns_are_missing_then_raises():
    bare = ad.AnnData(np.ones((3, 2), np.float32), var=pd.DataFrame(index=["A", "B"]))
    with pytest.raises(MissingKeyError, match=keys.DONOR):
        self_contained_null(bare, bare, sets={}, tested=[], n_draws=99, seed=0)
