"""The table of all pathways of the designed world."""

import dataclasses

import numpy as np

from haystack_kernel.grounding.components.pathways import COLUMNS, MAX_SCORED
from haystack_kernel.knowledge.tables import Pathway

EXPECTED, OTHER = ["alpha pathway", "alpha shutdown"], ["beta pathway", "quiet pathway"]


def test_pathways_when_alpha_is_predicted_then_its_pathways_lead_and_tiny_sets_are_left_out(alpha):
    assert list(alpha.pathways.columns) == list(COLUMNS)
    assert alpha.pathways["pathway"][0] == "alpha pathway"
    rows = alpha.pathways.set_index("pathway")
    assert rows["is_expected"].to_dict() == dict.fromkeys(EXPECTED, True) | dict.fromkeys(OTHER, False)
    assert rows.loc["alpha pathway", "score"] > 9
    assert rows.loc[EXPECTED, "score"].min() > 6  # ten genes that fall, in four donors of 20 cells
    assert rows.loc[OTHER, "score"].max() < 7


def test_pathways_when_suppression_is_expected_then_the_statistic_keeps_its_sign(alpha):
    row = alpha.pathways.set_index("pathway").loc["alpha shutdown"]
    assert row["statistic"] < 0
    assert row["p_specificity"] < 0.005
    assert len(row["leading_genes"].split(";")) == 8


def test_pathways_when_not_expected_then_p_is_two_sided(alpha):
    rows = alpha.pathways.set_index("pathway").loc[OTHER]
    steps = rows["p_specificity"].to_numpy(float) * 2000 / 2
    assert np.allclose(steps, steps.round())
    assert (rows[["p_specificity", "p_signal"]] <= 1).all(axis=None)


def test_pathways_when_the_user_adds_hundreds_then_the_strongest_and_the_expected_are_scored(
    alpha_cells, ask, knowledge, score, settings
):
    rng = np.random.default_rng(0)
    added = {
        f"set {i}": Pathway(f"set {i}", dict.fromkeys([f"G{k}" for k in rng.choice(1500, 12, replace=False)], 1))
        for i in range(400)
    }
    many = dataclasses.replace(knowledge, pathways={**knowledge.pathways, **added})
    quick = settings.model_copy(update={"n_draws": 199})
    alone = dataclasses.replace(alpha_cells, baselines={})
    table = score(alone, ask("ALPHA"), knowledge=many, settings=quick).pathways.set_index("pathway")
    assert len(table) == 404
    scored = table[table["score"].notna()]
    assert MAX_SCORED <= len(scored) <= MAX_SCORED + 2
    assert set(EXPECTED) <= set(scored.index)
    left_out = table["score"].isna()
    assert table.loc[left_out, "ulm_t"].abs().max() <= scored["ulm_t"].abs().nsmallest(3).max()
    assert table.loc[left_out, ["statistic", "ulm_padj", "leading_genes"]].notna().all(axis=None)
