"""Findings of a campaign: q values against scipy, families, bins row by row, and the promise on simulations."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from haystack_kernel.campaign.rank import (
    BIN_RULES,
    GROUNDED,
    OPEN,
    UNSUPPORTED,
    combined_p,
    control_false,
    find_in_families,
    rank_questions,
    words_of,
)
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from tests.campaign.conftest import simulated

NAN = float("nan")


def test_q_is_that_of_scipy_over_the_questions_that_were_tested():
    p = np.array([0.2, NAN, 0.001, 0.04, 0.04, NAN, 1.0])
    q = control_false(p)
    assert np.isnan(q[[1, 5]]).all()
    np.testing.assert_allclose(q[~np.isnan(p)], false_discovery_control(p[~np.isnan(p)]))
    assert np.isnan(control_false(np.array([NAN, NAN]))).all()


def test_p_is_the_largest_test_and_says_nothing_where_it_would_be_of_another_treatment(made):
    table = made(
        {"p_signal": 0.001, "p_donors": 0.03, "p_specificity": 0.02},
        {"p_donors": NAN},  # two donors: the other tests stand
        {"p_signal": NAN},
        {"status": "refused", "reason": "no prompt"},
        {"evidence": "shared_target"},
        {"evidence": "other_cell_type"},
    )
    np.testing.assert_array_equal(combined_p(table, test="expected"), [0.03, 0.001, NAN, NAN, NAN, 0.001])
    table["p_response"] = [0.2, 0.3, NAN, NAN, 0.001, 0.4]
    np.testing.assert_array_equal(combined_p(table), [0.2, 0.3, NAN, NAN, NAN, 0.4])
    toward = table.assign(p_toward=0.4, toward=1.0)
    np.testing.assert_array_equal(combined_p(toward, test="toward"), [0.4, 0.4, 0.4, NAN, 0.4, 0.4])


def test_every_question_has_a_bin_and_what_keeps_it_from_the_best_one(made):
    ranked = rank_questions(
        made(
            {"perturbation": "all three"},
            {"perturbation": "no gene", "n_called": 0},
            {"perturbation": "two donors", "p_donors": NAN},
            {"perturbation": "accuracy", "expected_low": -0.1},
            {"perturbation": "nothing", "p_signal": 0.8, "n_called": 0, "expected_low": NAN},
            {"perturbation": "relative", "evidence": "shared_target"},
            {"perturbation": "untested", "p_signal": NAN, "reason": "no stratum holds both"},
            {"perturbation": "refused", "status": "refused", "reason": "unknown word"},
            {"perturbation": "failed", "status": "failed", "reason": "out of memory"},
        ),
        test="expected",
    )
    found = ranked.set_index("perturbation")
    expected = {
        "all three": (GROUNDED, ""),
        "no gene": (OPEN, "no gene is called"),
        "two donors": (OPEN, "found, but not tested over donors: fewer than three"),
        "accuracy": (OPEN, "the expected accuracy may be 0 (from -0.10)"),
        "nothing": (
            UNSUPPORTED,
            "not found at a false discovery rate of 10% (q = 0.8); no gene is called; no accuracy is expected of it",
        ),
        "relative": (OPEN, "not tested: only other treatments were measured"),
        "untested": (OPEN, "not tested: no stratum holds both"),
        "refused": (UNSUPPORTED, "not predicted: unknown word"),
        "failed": (UNSUPPORTED, "not predicted: out of memory"),
    }
    assert {name: (row["bin"], row["why"]) for name, row in found.iterrows()} == expected
    assert set(BIN_RULES) == set(found["bin"])
    assert ranked["rank"].tolist() == [1, 2, 3, 4, 5, 0, 0, 0, 0]
    assert sorted(ranked["number"]) == list(range(1, 10))


def test_a_response_of_fewer_than_three_donors_is_not_tested_and_the_row_says_so(made):
    ranked = rank_questions(made({"p_response": NAN, "n_donors": 2, "reason": "no pathway is expected"}))
    assert ranked["why"].tolist() == ["not tested: fewer than three donors"]
    assert words_of(ranked) == "no question could be tested: fewer than three donors"
    assert ranked["bin"].tolist() == [OPEN]


def test_order_is_by_p_and_ties_go_to_the_larger_composite_then_the_larger_effect_then_the_number(made):
    ranked = rank_questions(
        made({"size": 0.1}, {"size": 0.3}, {"composite": 8.0, "size": 0.1}, {"p_response": 0.0005}, {"composite": NAN})
    )
    assert ranked["number"].tolist() == [4, 3, 2, 1, 5]


def test_a_wrong_level_test_or_table_is_named(made):
    table = made({})
    for wrong in (0, 1, 10, True, "0.1"):
        with pytest.raises(InvalidInputError, match=r"level is .* such as 0\.1"):
            rank_questions(table, level=wrong)
    with pytest.raises(InvalidInputError, match="'answer'; possible: response, expected, toward"):
        rank_questions(table, test="answer")
    with pytest.raises(MissingKeyError, match="no column 'p_toward'; it has number"):
        rank_questions(table, test="toward")
    with pytest.raises(InvalidInputError, match="outside"):
        rank_questions(table.assign(p_response=1.5))
    with pytest.raises(InvalidInputError, match="no column 'tissue' to make families of; possible: rank"):
        find_in_families(rank_questions(table), "tissue")


def test_families_come_first_and_pay_for_those_that_were_not_found(made):
    p = {"B cell": [0.001, 0.02, 0.5], "NK cell": [0.9, 0.6], "T cell": [0.004, 0.3], "neuron": [NAN]}
    rows = [{"cell_type": name, "p_response": one} for name in p for one in p[name]]
    ranked = rank_questions(made(*rows), level=0.05)
    families, members = find_in_families(ranked, "cell_type", level=0.05)
    families = families.set_index("family")
    # Simes: smallest adjusted p of the family; then Benjamini-Hochberg over three tested families
    simes = {name: false_discovery_control(np.array(p[name])).min() for name in list(p)[:3]}
    assert families["p"].drop("neuron").to_dict() == pytest.approx(simes)
    assert families.loc[["B cell", "T cell", "NK cell"], "q"].tolist() == pytest.approx([0.009, 0.012, 0.9])
    assert families["is_found"].to_dict() == {"B cell": True, "T cell": True, "NK cell": False, "neuron": False}
    assert np.isnan(families.loc["neuron", "q"])
    assert families["n"].to_dict() == {"B cell": 3, "T cell": 2, "NK cell": 2, "neuron": 0}
    # within a found family the level is 2 of 3 families, so q is raised by 3 / 2
    inside = members[members["family"] == "B cell"].set_index("number")["q"]
    assert inside.to_dict() == pytest.approx({1: 0.0045, 2: 0.045, 3: 0.75})
    assert members.loc[members["family"] == "NK cell", "q"].isna().all()
    assert families["n_found"].to_dict() == {"B cell": 2, "T cell": 1, "NK cell": 0, "neuron": 0}


def test_classes_of_treatments_may_share_members_and_may_be_empty(made):
    ranked = rank_questions(made({}, {}, {"p_response": 0.7}))
    classes = {"JAK1": ["drug 1", "drug 2"], "JAK2": ["drug 2", "drug 3"], "EGFR": ["gefitinib"]}
    families, members = find_in_families(ranked, classes)
    assert members.groupby("family")["number"].apply(sorted).to_dict() == {"JAK1": [1, 2], "JAK2": [2, 3]}
    assert families["n_found"].tolist() == [2, 1]
    families, members = find_in_families(ranked, {"EGFR": ["gefitinib"]})
    assert families.empty
    assert members.empty


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_at_most_the_stated_share_of_findings_is_false_where_the_truth_is_known(shared):
    """Twenty simulated campaigns of 147 treatments in two types."""
    overall, by_type, power = [], [], []
    for seed in range(20):
        table = simulated(np.random.default_rng(seed), shared=shared)
        ranked = rank_questions(table, level=0.1)
        found = ranked[ranked["q"] <= 0.1]
        overall.append((~found["is_active"]).mean())
        power.append(found["is_active"].sum() / table["is_active"].sum())
        _, members = find_in_families(ranked, "cell_type", level=0.1)
        inside = members[members["is_found"]].merge(table[["number", "is_active"]])
        by_type.append((~inside["is_active"]).groupby(inside["family"]).mean().mean())
    slack = 2 * np.std(overall) / np.sqrt(20)
    assert np.mean(overall) <= 0.1 + slack
    assert np.mean(by_type) <= 0.1 + slack
    assert np.mean(power) > 0.6
    assert max(overall) > 0  # a rule that finds nothing false ever would be another rule


def test_a_table_without_one_prediction_is_ranked_too(made):
    ranked = rank_questions(made({"status": "refused", "reason": "unknown"}))
    assert ranked["rank"].tolist() == [0]
    assert ranked["bin"].tolist() == [UNSUPPORTED]
    assert rank_questions(pd.DataFrame(columns=ranked.columns.drop(["rank", "p", "q", "bin", "why"]))).empty
