import dataclasses
import math

import pytest

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingContext, score_prediction
from haystack_kernel.schema import GroundingSettings


def scores(grounded):
    return {component.name: component for component in grounded.components}


@pytest.fixture
def judge(knowledge, settings, context):
    def run(cells, query, **changes):
        values = {"knowledge": knowledge, "settings": settings, "context": context} | changes
        return score_prediction(cells, query=query, **values)

    return run


def test_components_when_the_asked_effect_is_there_then_high(arms, alpha_shift, ask, judge):
    found = scores(judge(arms(alpha_shift), ask("ALPHA")))
    assert found[keys.PATHWAY].score > 9.9
    assert found[keys.TARGET].score > 9.9
    assert found[keys.PATHWAY].n_genes == 40
    assert found[keys.PATHWAY].statistic > 0.2
    assert found[keys.TARGET].p_signal == pytest.approx(1 / 2000)
    assert found[keys.TARGET].detail["ridge_asked"] > found[keys.TARGET].detail["ridge_competing_value"]


def test_components_when_labels_are_swapped_then_one(arms, alpha_shift, swap_labels, ask, judge):
    swapped = swap_labels(arms(alpha_shift))
    result = judge(swapped, ask("ALPHA"))
    assert [scores(result)[name].score for name in (keys.PATHWAY, keys.TARGET)] == [1, 1]
    assert scores(result)[keys.PATHWAY].statistic < 0
    assert result.composite.value == 1


def test_components_when_nothing_happens_then_near_one(arms, ask, judge):
    result = judge(arms({}), ask("ALPHA"))
    assert all(scores(result)[name].score <= 3 for name in (keys.PATHWAY, keys.TARGET))


def test_components_when_the_prediction_equals_its_control_then_one(arms, ask, judge):
    cells = arms({}, n=40)
    same = dataclasses.replace(cells, control_pred=cells.treated)
    assert scores(judge(same, ask("ALPHA")))[keys.PATHWAY].score == 1


def test_components_when_only_the_prediction_shows_it_then_the_prompt_denies_it(arms, alpha_shift, ask, judge):
    found = scores(judge(arms(alpha_shift, prompt_shift={}), ask("ALPHA")))[keys.PATHWAY]
    assert found.p_specificity < 0.005
    assert found.p_signal > 0.01
    assert found.score < 7


def test_components_when_another_perturbation_is_asked_then_low(arms, alpha_shift, ask, judge):
    found = scores(judge(arms(alpha_shift), ask("BETA")))
    assert found[keys.TARGET].score == 1
    assert found[keys.PATHWAY].score < 4
    assert "ALPHA" in found[keys.TARGET].reason


def test_components_when_a_twin_is_asked_then_it_counts_as_the_same(arms, alpha_shift, ask, judge):
    assert scores(judge(arms(alpha_shift), ask("ALPHA-TWIN")))[keys.TARGET].score > 9.9


def test_components_when_there_is_no_source_then_nan_with_a_reason_and_capped(arms, alpha_shift, ask, judge):
    result = judge(arms(alpha_shift), ask("ALPHA"))
    for name, why in ((keys.LITERATURE, "literature"), (keys.NETWORK, "no target of ALPHA")):
        assert math.isnan(scores(result)[name].score)
        assert why in scores(result)[name].reason
    assert list(scores(result)) == [keys.PATHWAY, keys.TARGET, keys.LITERATURE, keys.NETWORK]
    assert result.composite.value == pytest.approx(7.3)


def test_components_when_too_few_genes_are_tested_then_nan(arms, alpha_shift, ask, judge):
    strict = GroundingSettings(n_draws=99, min_tested_genes=1501)
    result = judge(arms(alpha_shift, n=20), ask("ALPHA"), settings=strict)
    assert all(math.isnan(component.score) and component.reason for component in result.components)
    assert math.isnan(result.composite.value)
    assert result.pathways.empty


def test_components_when_the_set_is_short_or_unknown_then_nan(arms, ask, judge):
    query = ask("ALPHA", expected_targets={"G1": 1, "NOPE1": 1, "NOPE2": 1}, expected_pathways={"unheard of": 1})
    found = scores(judge(arms({}, n=30), query))
    assert found[keys.TARGET].reason.startswith("1 of its 3 genes")
    assert "no expected pathways" in found[keys.PATHWAY].reason


def test_components_when_many_were_scored_then_the_score_falls(arms, alpha_shift, ask, judge):
    cells = arms(alpha_shift)
    first = scores(judge(cells, ask("ALPHA")))[keys.TARGET]
    fifth = scores(judge(cells, ask("ALPHA"), context=GroundingContext(seed=0, n_scored=5)))[keys.TARGET]
    assert fifth.detail["p"] == pytest.approx(1 - (1 - first.detail["p"]) ** 5)
    assert fifth.score < first.score


def test_components_when_donors_are_confounded_then_specificity_alone_and_capped_at_four(
    arms, world, alpha_shift, ask, judge
):
    apart = dataclasses.replace(arms(alpha_shift), prompt_control=world.cells(60, donors=("e1", "e2")))
    result = judge(apart, ask("ALPHA"), context=GroundingContext(seed=0, donor_matched=False))
    assert math.isnan(scores(result)[keys.PATHWAY].p_signal)
    assert "competitive null alone" in scores(result)[keys.PATHWAY].reason
    assert result.composite.value == 4


def test_components_when_imputation_is_asked_then_markers_are_judged(arms, alpha_shift, ask, judge):
    up = tuple(gene for gene, factor in alpha_shift.items() if factor > 1)
    query = ask(
        "ALPHA",
        task_type="cell_type_imputation",
        perturbation=None,
        expected_targets={},
        expected_pathways={},
        marker_genes=up,
    )
    cells = dataclasses.replace(arms(alpha_shift), prompt_control=None)
    found = scores(judge(cells, query))
    assert list(found) == [keys.MARKER, keys.TISSUE_SIGNATURE, keys.DONOR_EFFECT, keys.CELL_TYPE_COHERENCE]
    assert found[keys.MARKER].score > 9.9
    assert all(math.isnan(found[name].score) and found[name].reason for name in list(found)[1:])
