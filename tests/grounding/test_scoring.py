"""One prediction against both controls: which one counts, what flips, what cannot be compared."""

import dataclasses

import numpy as np
import pytest

from haystack_kernel import keys
from haystack_kernel.errors import ContractError
from haystack_kernel.grounding import GroundingContext


@pytest.fixture(scope="module")
def quick(score, settings, ask):
    few = settings.model_copy(update={"n_draws": 199})

    def run(cells, strategy="synthetic_control"):
        context = GroundingContext(seed=0, control_strategy=strategy)
        return score(dataclasses.replace(cells, baselines={}), ask("ALPHA"), settings=few, context=context)

    return run


def test_when_strategies_differ_then_each_uses_its_own_control_and_genes_that_flip_are_marked(alpha_cells, quick):
    # the model moves controls just as far, so only the comparison with the query cells shows the response
    drifted = dataclasses.replace(alpha_cells, control_pred=alpha_cells.treated)
    synthetic, by_query = quick(drifted), quick(drifted, "query_as_control")
    assert synthetic.de[keys.IS_DE].sum() == 0
    assert by_query.de[keys.IS_DE].any()
    assert synthetic.de["flips"].tolist() == by_query.de[keys.IS_DE].tolist()
    assert any("flip between the two" in note for note in synthetic.notes)


def test_when_there_is_no_control_prediction_then_the_query_serves_and_a_note_says_so(alpha_cells, quick):
    cells = dataclasses.replace(alpha_cells, control_pred=None)
    result = quick(cells)
    assert result.de.equals(quick(cells, "query_as_control").de)
    assert not result.de["flips"].any()
    assert any("compared with the query cells instead" in note for note in result.notes)
    assert any("80 predicted and 80 control cells" in note for note in result.notes)


def test_when_the_same_seed_is_used_then_everything_is_equal(alpha_cells, quick):
    one, two = quick(alpha_cells), quick(alpha_cells)
    assert one.de.equals(two.de)
    assert one.pathways.equals(two.pathways)
    assert [item.model_dump_json() for item in one.components] == [item.model_dump_json() for item in two.components]
    assert one.confidence.model_dump_json() == two.confidence.model_dump_json()


def test_when_genes_are_padded_then_they_are_not_tested(arms, alpha_shift, quick):
    cells = arms(alpha_shift)
    cells.treated.var[keys.PADDED] = cells.treated.var_names.isin(list(alpha_shift))
    result = quick(cells)
    assert result.de[keys.PADDED].sum() == len(alpha_shift)
    assert result.n_tested == int(result.de[keys.IS_TESTED].sum()) <= 1500 - len(alpha_shift)
    assert "0 of its" in result.components[0].reason


def test_when_the_prompt_has_other_genes_then_it_still_works(alpha_cells, quick):
    prompt, control = alpha_cells.prompt[:, ::-1][:, :1400].copy(), alpha_cells.prompt_control[:, :1450].copy()
    fewer = dataclasses.replace(alpha_cells, prompt=prompt, prompt_control=control)
    assert not np.isnan(quick(fewer).components[0].p_signal)


def test_when_arms_do_not_share_genes_then_raises(alpha_cells, quick):
    with pytest.raises(ContractError, match="query has 1400 genes"):
        quick(dataclasses.replace(alpha_cells, query=alpha_cells.query[:, :1400]))
    repeat = (alpha_cells.treated, alpha_cells.control_pred[:, :1400])
    with pytest.raises(ContractError, match="control of resample 1 has 1400 genes"):
        quick(dataclasses.replace(alpha_cells, repeats=(repeat,)))
