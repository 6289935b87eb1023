import dataclasses
import json
import math
import re

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingContext
from haystack_kernel.grounding.components.score import composite
from haystack_kernel.grounding.confidence.aspects import load_nulls, percentile_among
from haystack_kernel.grounding.confidence.verdict import engine_verdict
from haystack_kernel.schema import EngineAgreement

NAN = float("nan")


def rows(grounded):
    return {item.name: item for item in grounded.confidence.aspects}


CONTEXT = GroundingContext(seed=0, engine="stack", evidence=("other_cell_type",), frac_genes_found=0.75)


@pytest.fixture(scope="module")
def repeated(alpha_cells, arms_of_seed, alpha_shift, ask, score):
    """The score of the designed cells, with the same prediction drawn twice more."""
    again = [arms_of_seed(seed)(alpha_shift) for seed in (1, 2)]
    cells = dataclasses.replace(alpha_cells, repeats=tuple((one.treated, one.control_pred) for one in again))
    return score(cells, ask("ALPHA"), context=CONTEXT)


def test_confidence_when_all_is_at_hand_then_each_aspect_says_its_number(repeated):
    shown = rows(repeated)
    assert shown["evidence distance"].value == 1
    assert shown["gene coverage"].value == 0.75
    assert shown["donors"].words == "4 of 4 donors of the prompt move the same way as the prediction."
    assert shown["agreement with baselines"].value == repeated.agreement[0].pearson
    # one cell type: its four donors are left out in turn
    assert 0.7 < shown["gene intervals"].value <= 1
    assert shown["gene intervals"].words.startswith("4 donors of the prompt were left out in turn")
    assert "They were predicted by a simple engine, not by stack." in shown["gene intervals"].words
    assert shown["genes that flip"].value <= 1
    assert not math.isnan(shown["control strategy"].value)


def test_confidence_when_little_is_at_hand_then_nan_rows_say_why(alpha_cells, ask, score):
    cells = dataclasses.replace(alpha_cells, control_pred=None, prompt_control=None, baselines={})
    shown = rows(score(cells, ask("ALPHA"), context=GroundingContext(seed=0, engine="stack")))
    assert all(math.isnan(item.value) == bool(item.reason) for item in shown.values())
    unknown = {name for name, item in shown.items() if math.isnan(item.value)}
    assert unknown == set(shown) - {"choice of weights", "null percentile"}
    assert "no matched control cells" in shown["donors"].reason


def test_confidence_when_a_donor_moves_the_other_way_then_three_of_four(arms, alpha_shift, ask, score):
    cells = arms(alpha_shift, n=120)
    against = (cells.prompt.obs[keys.DONOR] == "d3").to_numpy()
    swapped = (cells.prompt_control.obs[keys.DONOR] == "d3").to_numpy()
    prompt, control = cells.prompt.copy(), cells.prompt_control.copy()
    counts, untreated = cells.prompt.X.toarray(), cells.prompt_control.X.toarray()
    counts[against], untreated[swapped] = untreated[swapped], counts[against].copy()
    prompt.X, control.X = csr_matrix(counts), csr_matrix(untreated)
    shown = rows(score(dataclasses.replace(cells, prompt=prompt, prompt_control=control), ask("ALPHA")))
    assert shown["donors"].value == 0.75
    assert shown["donors"].words.startswith("3 of 4 donors")


def test_confidence_when_weights_change_then_the_range_holds_the_score(alpha_cells, world, ask, score):
    found = score(dataclasses.replace(alpha_cells, prompt=world.cells(80)), ask("ALPHA"))
    aspect = rows(found)["choice of weights"]
    low, high = (float(number) for number in re.findall(r"between (\S+) and (\S+)\.$", aspect.words)[0])
    assert low <= found.composite.value <= high
    assert aspect.value == pytest.approx(high - low, abs=0.11)
    scores = [item.score for item in found.components if not math.isnan(item.score)]
    assert min(scores) <= low
    assert found.composite == composite(found.components, donor_matched=True, replication=4 * 20 / 40)


def test_confidence_when_the_score_is_high_then_nearly_all_null_and_wrong_prompts_lie_below(alpha):
    aspect = rows(alpha)["null percentile"]
    measured = load_nulls("perturbational")
    assert measured.size >= 150
    assert aspect.value == percentile_among(alpha.composite.value, measured) > 0.95
    assert f"of {measured.size} null or wrong prompts in simulated worlds" in aspect.words


def test_load_nulls_when_a_table_is_there_then_both_kinds_of_runs_are_in_it_and_the_percentile_is_the_rank(tmp_path):
    path = tmp_path / "nulls.json"
    path.write_text(json.dumps({"perturbational": {"null": [1.0, 7.3], "wrong_prompt": [3.0, 9.0]}}))
    nulls = load_nulls("perturbational", path=path)
    np.testing.assert_array_equal(nulls, [1, 3, 7.3, 9])
    assert load_nulls("disease", path=path).size == load_nulls("disease", path=tmp_path / "no").size == 0
    assert [percentile_among(value, nulls) for value in (0.5, 5, 7.3, 10)] == [0, 0.5, 0.625, 1]


def test_the_packaged_table_has_null_runs_of_every_kind_of_question_and_hardly_one_reaches_seven():
    for group, least in (("perturbational", 150), ("cell_type_imputation", 20), ("donor", 20), ("disease", 14)):
        nulls = load_nulls(group)
        assert nulls.size >= least
        assert (nulls >= 7).mean() <= 0.05


def agreement(engine, pearson, score):
    return EngineAgreement(engine=engine, pearson=pearson, n_de=1, composite=score)


def test_verdict_by_rule():
    rules = [  # correlation with the baseline, its score, own score, own correlation between draws of the prompt
        (0.97, 7.3, 7.3, NAN, "adds_nothing"),  # no other draw: 0.95 is the limit
        (0.80, 7.3, 7.3, 0.78, "adds_nothing"),  # more similar to the baseline than to itself
        (0.97, 3.0, 7.3, 1.0, "adds_nothing"),  # the same response, however well it repeats itself
        (0.80, 7.3, 7.3, 0.99, "not_told_apart"),
        (0.80, 7.9, 7.3, 0.99, "falls_behind"),
        (0.80, 6.7, 7.3, 0.99, "adds"),
        (0.80, NAN, 7.3, 0.99, "not_told_apart"),
        (NAN, 1.0, 7.3, 0.99, "not_compared"),
    ]
    for pearson, score, own, seeds, expected in rules:
        given = [agreement("weighted", pearson, score), agreement("none", NAN, NAN if math.isnan(score) else 1.0)]
        verdict, words = engine_verdict("stack", agreement=given, own=own, between_draws=seeds)
        assert verdict == expected
        assert words.endswith(".")
        assert ("STACK is indistinguishable from" in words) == (expected == "adds_nothing")


def test_verdict_when_the_engine_is_a_baseline_then_says_so():
    verdict, words = engine_verdict("weighted", agreement=[agreement("mean", 1.0, 7)], own=7, between_draws=1)
    assert verdict == "is_baseline"
    assert "weighted is itself a simple baseline" in words
