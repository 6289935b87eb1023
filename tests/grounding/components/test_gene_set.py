"""Components that are one gene set: expected pathways, response genes, markers."""

import dataclasses
import math

import anndata as ad
import pytest

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingContext
from haystack_kernel.schema import GroundingSettings

SCORED = (keys.PATHWAY, keys.TARGET)


def parts(grounded):
    return {component.name: component for component in grounded.components}


def test_components_when_the_asked_effect_is_there_then_high_and_what_has_no_source_is_nan_and_capped(alpha):
    found = parts(alpha)
    assert list(found) == [keys.PATHWAY, keys.TARGET, keys.LITERATURE, keys.NETWORK]
    assert min(found[name].score for name in SCORED) > 9
    assert found[keys.PATHWAY].n_genes == 40
    assert found[keys.PATHWAY].statistic > 0.2
    assert found[keys.TARGET].p_signal == pytest.approx(1 / 2000)
    assert found[keys.TARGET].detail["ridge_asked"] > found[keys.TARGET].detail["ridge_competing_value"]
    for name, why in ((keys.LITERATURE, "literature"), (keys.NETWORK, "no target of ALPHA")):
        assert math.isnan(found[name].score)
        assert why in found[name].reason
    assert alpha.composite.value == pytest.approx(7.3)


def test_components_when_labels_are_swapped_then_one(alpha_cells, swap_labels, ask, score):
    result = score(swap_labels(alpha_cells), ask("ALPHA"))
    assert [parts(result)[name].score for name in SCORED] == [1, 1]
    assert parts(result)[keys.PATHWAY].statistic < 0
    assert result.composite.value == 1


def test_components_when_nothing_happens_then_near_one(arms, ask, score):
    cells = arms({})
    assert all(parts(score(cells, ask("ALPHA")))[name].score <= 3 for name in SCORED)
    same = dataclasses.replace(cells, control_pred=cells.treated)
    assert parts(score(same, ask("ALPHA")))[keys.PATHWAY].score == 1


def test_components_when_only_the_prediction_shows_it_then_the_prompt_denies_it(alpha_cells, world, ask, score):
    silent = dataclasses.replace(alpha_cells, prompt=world.cells(80))
    found = parts(score(silent, ask("ALPHA")))[keys.PATHWAY]
    assert found.p_specificity < 0.005
    assert found.p_signal > 0.01
    assert found.score < 7


def test_components_when_another_perturbation_is_asked_then_low_but_a_twin_counts_as_the_same(alpha_cells, ask, score):
    other = parts(score(alpha_cells, ask("BETA")))
    assert other[keys.TARGET].score == 1
    assert other[keys.PATHWAY].score < 4
    assert "ALPHA" in other[keys.TARGET].reason
    assert parts(score(alpha_cells, ask("ALPHA-TWIN")))[keys.TARGET].score > 9


def test_components_when_too_few_genes_are_tested_or_known_then_nan(alpha_cells, ask, score):
    strict = GroundingSettings(n_draws=99, min_tested_genes=1501)
    result = score(alpha_cells, ask("ALPHA"), settings=strict)
    assert all(math.isnan(component.score) and component.reason for component in result.components)
    assert math.isnan(result.composite.value)
    assert result.pathways.empty
    query = ask("ALPHA", expected_targets={"G1": 1, "NOPE1": 1, "NOPE2": 1}, expected_pathways={"unheard of": 1})
    found = parts(score(alpha_cells, query))
    assert found[keys.TARGET].reason.startswith("1 of its 3 genes")
    assert "no expected pathways" in found[keys.PATHWAY].reason


def test_components_when_a_panel_was_measured_then_few_genes_are_enough_and_the_score_is_capped(
    alpha_cells, ask, score
):
    genes = alpha_cells.treated.var_names
    panel = [*genes[5::37][:3], *genes[11::37][:1], *genes[200:450]]  # four or so of the 34 expected genes
    panel = list(dict.fromkeys(panel))
    small = {
        field.name: value[:, panel].copy()
        for field in dataclasses.fields(alpha_cells)
        if isinstance(value := getattr(alpha_cells, field.name), ad.AnnData)
    }
    cells = dataclasses.replace(alpha_cells, **small, baselines={}, repeats=(), measured={})
    result = score(cells, ask("ALPHA"))
    found = parts(result)
    assert result.n_tested < 300
    assert found[keys.TARGET].n_genes >= 3
    assert found[keys.TARGET].score > 4
    assert result.composite.cap <= 6
    assert "a panel allows at most 6" in result.composite.reason


def test_components_when_many_were_scored_then_the_score_falls(alpha, alpha_cells, ask, score):
    first = parts(alpha)[keys.TARGET]
    fifth = parts(score(alpha_cells, ask("ALPHA"), context=GroundingContext(seed=0, n_scored=5)))[keys.TARGET]
    assert fifth.detail["p"] == pytest.approx(1 - (1 - first.detail["p"]) ** 5)
    assert fifth.score < first.score


def test_components_when_donors_are_confounded_then_the_competitive_null_alone_and_capped_at_four(
    alpha_cells, world, ask, score
):
    apart = dataclasses.replace(alpha_cells, prompt_control=world.cells(60, donors=("e1", "e2")))
    result = score(apart, ask("ALPHA"), context=GroundingContext(seed=0, donor_matched=False))
    assert math.isnan(parts(result)[keys.PATHWAY].p_signal)
    assert "tested over donors, not over cells" in parts(result)[keys.PATHWAY].reason
    assert result.composite.value == 4


def test_components_when_imputation_is_asked_then_markers_are_scored(alpha_cells, alpha_shift, ask, score):
    query = ask(
        "ALPHA",
        task_type="cell_type_imputation",
        perturbation=None,
        expected_targets={},
        expected_pathways={},
        marker_genes=tuple(gene for gene, factor in alpha_shift.items() if factor > 1),
    )
    found = parts(score(dataclasses.replace(alpha_cells, prompt_control=None), query))
    assert list(found) == [keys.MARKER, keys.TISSUE_SIGNATURE, keys.DONOR_EFFECT, keys.CELL_TYPE_COHERENCE]
    assert found[keys.MARKER].score > 9.9
    assert all(math.isnan(found[name].score) and found[name].reason for name in list(found)[1:])
