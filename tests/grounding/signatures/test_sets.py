import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from haystack_kernel.grounding.de.background import Background, effect_background, standardise
from haystack_kernel.grounding.signatures.competing import compete, competing_signatures
from haystack_kernel.grounding.signatures.sets import equivalents, merge_signed, overlap_coefficient, overlaps

GENES = [f"G{i}" for i in range(400)]


@pytest.fixture
def background():
    z = np.random.default_rng(0).normal(size=400) * 0.1
    z[:20] += 2.0
    z[20:40] += 1.0
    return Background(pd.Index(GENES, dtype=object), z, np.zeros(400))


def up(start, stop):
    return dict.fromkeys(GENES[start:stop], 1)


def test_statistic_when_signs_differ_then_mean_of_signed_z(background):
    genes = {"G0": 1, "G1": -1, "absent": 1}
    assert background.statistic(genes) == pytest.approx((background.z[0] - background.z[1]) / 2)
    assert np.isnan(background.statistic({"absent": 1}))


def test_standardise_when_nothing_varies_then_zero():
    assert standardise(np.array([1.0, 2.0]), np.zeros(2)).tolist() == [0, 0]
    assert standardise(np.array([1.0, 2.0]), np.array([1.0, 3.0])).tolist() == [1 / 3, 0.4]


def test_merge_signed_when_directions_conflict_then_gene_is_left_out():
    merged = merge_signed([({"A": 1, "B": 1, "C": -1}, 1), ({"B": 1, "D": 1}, -1)])
    assert merged == {"A": 1, "C": -1, "D": -1}


def test_overlaps_are_the_coefficient_of_every_pair():
    sets = [{"A": 1, "B": 1}, {"A": 1, "B": -1, "C": 1}, {}, {"C": 1}]
    assert overlaps(sets).tolist() == [[overlap_coefficient(one, two) for two in sets] for one in sets]


def test_overlap_coefficient_when_signs_differ_then_only_agreement_counts():
    assert overlap_coefficient({"A": 1, "B": 1}, {"A": 1, "B": -1, "C": 1}) == 0.5
    assert overlap_coefficient({}, {"A": 1}) == 0.0


def test_equivalents_when_a_twin_exists_then_it_and_the_asked_one(knowledge):
    asked = knowledge.perturbations["ALPHA"].response
    assert equivalents(asked, knowledge.perturbations, name="ALPHA") == {"ALPHA", "ALPHA-TWIN"}


def test_competing_signatures_when_another_response_is_larger_then_named(background, knowledge):
    entries = {
        name: type(knowledge.perturbations["BETA"])(name, "cytokine", (), (), {}, genes, {}, "")
        for name, genes in {"strong": up(0, 20), "weak": up(60, 90)}.items()
    }
    background.strengths.update({name: background.statistic(entries[name].response) for name in ("strong", "weak")})
    assert competing_signatures(background, up(20, 40), perturbations=entries, exempt=()) == ["strong"]
    assert competing_signatures(background, up(20, 40), perturbations=entries, exempt={"strong"}) == []
    assert competing_signatures(background, up(0, 20), perturbations=entries, exempt=()) == []


def test_compete_when_fitted_then_equals_sklearn_ridge(background):
    sets = [up(0, 20), up(20, 40), up(100, 130)]
    design = np.column_stack([np.isin(GENES, list(genes)).astype(float) for genes in sets])
    design -= design.mean(axis=0)
    design /= np.linalg.norm(design, axis=0)
    response = background.z - background.z.mean()
    reference = Ridge(alpha=1.0, fit_intercept=False).fit(design, response / np.linalg.norm(response)).coef_
    found = compete(background, sets[0], signatures={"second": sets[1], "third": sets[2]})
    assert found.asked == pytest.approx(reference[0])
    assert (found.competing, found.competing_value) == ("second", pytest.approx(reference[1]))
    assert found.leads


def test_compete_when_the_wrong_one_is_asked_then_it_does_not_lead_and_twins_do_not_share(background):
    twins = {f"twin{i}": up(0, 20 + i) for i in range(5)}
    assert not compete(background, up(20, 40), signatures=twins).leads
    assert compete(background, up(0, 20), signatures=twins | {"other": up(20, 40)}).leads


def test_effect_background_when_made_then_z_and_strengths_follow_the_table(knowledge):
    rng = np.random.default_rng(1)
    de = pd.DataFrame(
        {
            "gene": [f"G{i}" for i in range(1500)],
            "delta": rng.normal(size=1500),
            "sd": rng.uniform(0.5, 1, 1500),
            "mean_control": rng.uniform(size=1500),
            "is_tested": np.arange(1500) >= 100,
        }
    )
    found = effect_background(de, perturbations=knowledge.perturbations)
    sd = de["sd"][100:]
    assert np.allclose(found.z, de["delta"][100:] / (sd + sd.median()))
    assert found.genes[0] == "G100"
    response = knowledge.perturbations["ALPHA"].response
    by_hand = [sign * found.z[int(gene[1:]) - 100] for gene, sign in response.items() if int(gene[1:]) >= 100]
    assert found.strengths["ALPHA"] == pytest.approx(np.mean(by_hand))
