"""What findings have in common: classes of treatments against scipy, gene sets on effects whose truth is known."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from haystack_kernel import keys
from haystack_kernel.campaign.enrich import MIN_SILENT, classes_of, enrich_genes, enrich_treatments
from haystack_kernel.campaign.rank import rank_questions
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.knowledge import load_knowledge

NAN = float("nan")


def test_treatments_are_sorted_by_target_family_and_pathway():
    knowledge = load_knowledge()
    asked = ["IFN-beta", "IFN-gamma", "JAK1 knock-out", "nothing known"]
    assert classes_of(asked, kind="target", knowledge=knowledge)["JAK1"] == ("JAK1 knock-out",)
    assert "IFN-beta" in classes_of(asked, kind="pathway", knowledge=knowledge)["type I interferon response"]
    with pytest.raises(InvalidInputError, match="'dose'; possible: target, family, pathway"):
        classes_of(asked, kind="dose", knowledge=knowledge)


def test_a_class_of_findings_is_found_and_the_counts_are_those_of_scipy(made):
    """Twenty treatments, five of them findings; four of the five are the class of five that is asked about."""
    rows = [
        {"perturbation": f"drug {n}", "p_response": 0.0001 if n in (0, 1, 2, 3, 10) else 0.3 + n / 40}
        for n in range(20)
    ]
    blank = {"p_donors": NAN, "p_specificity": NAN}
    rows = [row | blank for row in rows] + [{"perturbation": "relative", "evidence": "shared_target"}]
    ranked = rank_questions(made(*rows))
    classes = {
        "kinase": [f"drug {n}" for n in range(5)],
        "others": ["drug 11", "drug 12", "drug 13"],
        "one": ["drug 0", "relative"],  # the second has no test, so one is left and nothing is said
    }
    table = enrich_treatments(ranked, classes).set_index("family")
    assert list(table.index) == ["kinase", "others", "one"]
    assert table["reason"].tolist() == ["", "", "one tested treatment: a class needs 2"]
    assert np.isnan(table.loc["one", "q"])
    kinase = table.loc["kinase"]
    assert (kinase["n"], kinase["n_found"], kinase["expected"]) == (5, 4, 1.25)
    assert kinase["p_found"] == pytest.approx(hypergeom.sf(3, 20, 5, 5))
    assert kinase["found"] == "drug 0; drug 1; drug 2; drug 3"
    assert kinase["p_ranks"] < 0.02
    assert kinase["p"] == pytest.approx(2 * min(kinase["p_found"], kinase["p_ranks"]))
    assert table.loc["others", "p"] == 1
    assert enrich_treatments(ranked, classes).attrs["n_untested"] == 1
    none = enrich_treatments(rank_questions(made({"p_response": NAN})), {"one": ["drug 1"], "two": []})
    assert none["reason"].tolist() == ["no tested treatment: a class needs 2"] * 2


@pytest.mark.slow
def test_classes_drawn_by_chance_are_rarely_small_p_values(made):
    rng = np.random.default_rng(3)
    p = np.where(rng.random(147) < 0.2, 1e-4, rng.random(147))
    ranked = rank_questions(made(*({"p_response": one} for one in p)))
    names = ranked["perturbation"].to_numpy()
    classes = {f"class {n}": rng.choice(names, size=4 + n % 9, replace=False) for n in range(200)}
    table = enrich_treatments(ranked, classes)
    assert (table["p"] < 0.05).mean() < 0.08  # 10 of 200 expected at most
    assert (table["p_ranks"] < 0.1).sum() in range(8, 35)  # 20 expected: the test is not empty either


def effects_of(values, *, sd=0.05):
    n, n_genes = values.shape
    numbers = np.arange(1, n + 1)
    return ad.AnnData(
        values,
        obs=pd.DataFrame({"number": numbers}, index=[f"{number:04d}" for number in numbers]),
        var=pd.DataFrame(index=[f"G{place}" for place in range(n_genes)]),
        layers={keys.EFFECT_SD: np.full((n, n_genes), sd)},
    )


@pytest.fixture(scope="module")
def modules():
    """Sixty questions, 400 genes; 40 genes that move together by chance, and 40 that rise in the first question."""
    rng = np.random.default_rng(5)
    values = rng.normal(size=(60, 400))
    values[:, :40] = np.sqrt(0.7) * values[:, :40] + np.sqrt(0.3) * rng.normal(size=(60, 1))
    values[0, 40:80] += 1.0
    return effects_of(0.05 * values), {
        "together": [f"G{n}" for n in range(40)],
        "risen": [f"G{n}" for n in range(40, 80)],
    }


def test_a_set_that_rises_is_found_and_one_that_moves_together_is_not(modules):
    effects, sets = modules
    table = enrich_genes(effects, sets, silent=range(31, 61)).set_index(["set", "number"])
    risen = table.loc["risen", 1]
    assert risen["q"] < 0.02
    assert risen["difference"] == pytest.approx(0.05, abs=0.02)
    assert len(risen["leading"].split(";")) == 5
    assert set(risen["leading"].split(";")) <= set(sets["risen"])
    together = table.loc["together"].loc[2:30]
    assert 0.1 < together["correlation"].iloc[0] < 0.45  # 0.3, as far as thirty questions tell
    assert table.loc["risen", "correlation"].iloc[0] < 0.05
    assert (together["p"] < 0.05).mean() < 0.15
    assert (enrich_genes(effects, sets)["p"].isna()).all()


def test_what_is_not_tested_says_why(modules):
    effects, sets = modules
    sets = {"few": ["G1", "G2", "no such gene"], "risen": sets["risen"]}
    told = enrich_genes(effects, sets, silent=range(40, 60)).groupby("set")["reason"].unique().to_dict()
    assert {name: list(one) for name, one in told.items()} == {"few": ["fewer than 5 genes can be told"], "risen": [""]}
    few = enrich_genes(effects, sets, silent=range(40, 40 + MIN_SILENT - 1))
    assert set(few.loc[few["set"] == "risen", "reason"]) == {
        "only 9 questions without a finding tell how genes correlate"
    }
    with pytest.raises(MissingKeyError, match=r"take screen\.effects"):
        enrich_genes(ad.AnnData(np.zeros((2, 3))), sets)


def test_genes_that_cannot_be_told_are_left_out():
    values = 0.05 * np.random.default_rng(2).normal(size=(12, 60))
    values[0, :3] = NAN
    table = enrich_genes(effects_of(values), {"set": [f"G{n}" for n in range(10)]}, silent=range(2, 13))
    assert table["n_genes"].tolist()[:2] == [7, 10]
    own, other = values[0, 3:10].mean(), values[0, 10:].mean()
    assert table["difference"][0] == pytest.approx(own - other)
