import dataclasses

import numpy as np
import pytest

from haystack_kernel.grounding import score_prediction
from haystack_kernel.grounding.components.pathways import COLUMNS, MAX_SCORED
from haystack_kernel.knowledge.tables import Pathway


@pytest.fixture
def result(arms, alpha_shift, ask, knowledge, settings, context):
    return score_prediction(
        arms(alpha_shift), query=ask("ALPHA"), knowledge=knowledge, settings=settings, context=context
    )


def test_pathways_when_alpha_is_predicted_then_its_pathways_lead_and_tiny_sets_are_left_out(result):
    table = result.pathways
    assert list(table.columns) == list(COLUMNS)
    assert table["pathway"].tolist()[0] == "alpha pathway"
    assert set(table["pathway"]) == {
        "alpha pathway",
        "alpha shutdown",
        "beta pathway",
        "quiet pathway",
    }
    rows = table.set_index("pathway")
    assert rows.loc[["alpha pathway", "alpha shutdown"], "score"].min() > 9
    assert rows.loc[["beta pathway", "quiet pathway"], "score"].max() < 7
    assert rows["is_expected"].to_dict() == {
        "alpha pathway": True,
        "alpha shutdown": True,
        "beta pathway": False,
        "quiet pathway": False,
    }


def test_pathways_when_suppression_is_expected_then_the_statistic_keeps_its_sign(result):
    row = result.pathways.set_index("pathway").loc["alpha shutdown"]
    assert row["statistic"] < 0
    assert row["p_specificity"] < 0.005
    assert len(row["leading_genes"].split(";")) == 8


def test_pathways_when_not_expected_then_p_is_two_sided(result):
    rows = result.pathways.set_index("pathway").loc[["beta pathway", "quiet pathway"]]
    steps = rows["p_specificity"].to_numpy(float) * 2000 / 2
    assert np.allclose(steps, steps.round())
    assert (rows[["p_specificity", "p_signal"]] <= 1).all(axis=None)


def test_pathways_when_the_same_seed_is_used_then_equal(arms, alpha_shift, ask, knowledge, settings, context):
    cells = arms(alpha_shift, n=40)
    runs = [
        score_prediction(cells, query=ask("ALPHA"), knowledge=knowledge, settings=settings, context=context)
        for _ in "ab"
    ]
    assert runs[0].pathways.equals(runs[1].pathways)
    assert runs[0].components == runs[1].components or all(
        one.p_signal == two.p_signal or np.isnan(one.p_signal)
        for one, two in zip(runs[0].components, runs[1].components, strict=True)
    )


def test_pathways_when_the_user_adds_thousands_then_the_strongest_and_the_expected_are_judged(
    arms, alpha_shift, ask, knowledge, settings, context
):
    rng = np.random.default_rng(0)
    added = {
        f"set {i}": Pathway(f"set {i}", dict.fromkeys([f"G{k}" for k in rng.choice(1500, 12, replace=False)], 1))
        for i in range(400)
    }
    many = dataclasses.replace(knowledge, pathways={**knowledge.pathways, **added})
    result = score_prediction(arms(alpha_shift), query=ask("ALPHA"), knowledge=many, settings=settings, context=context)
    table = result.pathways.set_index("pathway")
    assert len(table) == 404
    judged = table[table["score"].notna()]
    assert MAX_SCORED <= len(judged) <= MAX_SCORED + 2
    assert {"alpha pathway", "alpha shutdown"} <= set(judged.index)
    left_out = table["score"].isna()
    assert table.loc[left_out, "ulm_t"].abs().max() <= judged["ulm_t"].abs().nsmallest(3).max()
    assert table.loc[left_out, ["statistic", "ulm_padj", "leading_genes"]].notna().all(axis=None)
