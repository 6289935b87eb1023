"""Engines ranked on designed pairs: who leads, who cannot be told apart, and what a failure costs."""

import numpy as np
import pandas as pd
import pytest

from haystack_kernel.backtest.judge import REPLICATE, TYPE_MEAN
from haystack_kernel.campaign.board import BETTER, _letters, _told_apart, pair_ranks, rank_engines
from haystack_kernel.errors import InvalidInputError

N = 40


def table(engines, *, n=N, n_treatments=20, seed=0, evidence="other_cell_type"):
    """Pairs on which each engine's correlation is its level plus noise; only correlations tell anything here."""
    rng = np.random.default_rng(seed)
    rows = []
    levels = {TYPE_MEAN: 0.1, REPLICATE: 0.9, **engines}
    for pair in range(n):
        of_pair = rng.normal(0, 0.2)
        for engine, level in levels.items():
            row = {"pair": pair, "engine": engine, "perturbation": f"t{pair % n_treatments}", "evidence": evidence}
            row |= dict.fromkeys(BETTER, 0.5) | {"error": 0.4, "size": 1.0, "highest_r": 0.9, "clean": 0.5}
            row |= {"cosine": 0.5, "rmse": 0.5, "reason": ""}
            rows.append(row | {"pearson": level + of_pair + rng.normal(0, 0.05)})
    return pd.DataFrame(rows)


def test_the_better_engine_leads_and_equal_ones_share_a_letter():
    board = rank_engines(table({"good": 0.6, "same": 0.4, "twin": 0.4, "bad": 0.2}), atlas="a")
    found = board.table.set_index("engine")
    assert board.table["engine"].iloc[0] == "good"
    assert found.loc["good", "group"] == "a"
    assert found.loc["same", "group"] == found.loc["twin", "group"] == "b"
    assert found.loc["bad", "group"] == "c"
    assert (found["low"] <= found["mean_rank"]).all()
    assert (found["mean_rank"] <= found["high"]).all()
    assert board.metrics == ("pearson",)
    assert "expression_error" in board.not_told
    assert board.words == "good leads on 40 pairs of atlas a and is told apart from all others"
    assert not board.notes


def test_mean_ranks_are_those_of_the_pairs():
    some = table({"one": 0.5, "two": 0.5}, n=5)
    ranks = pair_ranks(some, ["one", "two"], ["pearson"])
    wide = some.pivot_table(index="pair", columns="engine", values="pearson")
    assert ranks["one"].tolist() == (1 + (wide["two"] > wide["one"])).tolist()
    worse = some.assign(fold_change_error=some["pearson"])  # of an error the smaller is the better
    assert pair_ranks(worse, ["one", "two"], ["fold_change_error"])["one"].tolist() == (3 - ranks["one"]).tolist()


def test_an_engine_that_failed_is_last_and_counted():
    some = table({"good": 0.6, "weak": 0.2})
    gone = (some["engine"] == "good") & (some["pair"] < 4)
    some.loc[gone, [*BETTER, "clean"]] = np.nan
    some.loc[gone, "reason"] = "failed: no weights"
    board = rank_engines(some, atlas="a")
    found = board.table.set_index("engine")
    assert found.loc["good", "failed"] == 4
    assert found.loc["good", "mean_rank"] == pytest.approx((4 * 2 + 36) / N)
    assert found.loc["weak", "mean_rank"] == pytest.approx((4 + 36 * 2) / N)


def test_engines_without_a_difference_are_rarely_told_apart():
    """By chance in at most 5 % of leaderboards: 120 of three equal engines, 12 treatments each."""
    rng = np.random.default_rng(3)
    false = [_told_apart(rng.normal(size=(12, 3)), np.random.default_rng(seed)).any() for seed in range(120)]
    assert np.mean(false) <= 0.1


def test_letters_show_who_differs_where_the_middle_is_like_both_ends():
    apart = np.zeros((3, 3), bool)
    apart[0, 2] = apart[2, 0] = True
    assert _letters(apart, np.array([0, 1, 2])) == ["a", "ab", "b"]
    assert _letters(np.zeros((2, 2), bool), np.array([1, 0])) == ["a", "a"]


def test_few_treatments_and_no_telling_metric_are_said():
    some = table({"one": 0.6, "two": 0.2}, n_treatments=1)
    some.loc[some["engine"] == REPLICATE, "pearson"] = some.loc[some["engine"] == TYPE_MEAN, "pearson"].to_numpy()
    board = rank_engines(some, atlas="a")
    assert "pairs of one treatment only" in board.notes[0]
    assert "ranked by correlation alone" in board.notes[1]
    with pytest.raises(InvalidInputError, match="no engine was compared"):
        rank_engines(some.assign(engine=REPLICATE), atlas="a")


def test_pages_and_markdown_escape_names():
    board = rank_engines(table({"<b>x": 0.6, "y|z": 0.2}), atlas="a")
    for text in (board.to_html(), board.to_html(page=False), board.to_markdown()):
        assert "<b>x" not in text
        assert "&lt;b" in text
    assert "y\\|z" in board.to_markdown()
    assert board.to_html().startswith("<!doctype html>")
