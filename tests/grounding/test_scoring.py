import dataclasses

import numpy as np
import pytest

from haystack_kernel import keys
from haystack_kernel.errors import ContractError
from haystack_kernel.grounding import GroundingContext, score_prediction


@pytest.fixture
def judge(knowledge, settings, ask):
    quick = settings.model_copy(update={"n_draws": 199})

    def run(cells, strategy="synthetic_control"):
        context = GroundingContext(seed=0, control_strategy=strategy)
        return score_prediction(cells, query=ask("ALPHA"), knowledge=knowledge, settings=quick, context=context)

    return run


def test_ground_when_strategies_differ_then_each_uses_its_own_control(arms, alpha_shift, judge):
    cells = arms(alpha_shift)
    drifted = dataclasses.replace(cells, control_pred=cells.treated)  # the model moves controls just as far
    assert judge(drifted).de[keys.IS_DE].sum() == 0
    assert judge(drifted, "query_as_control").de[keys.IS_DE].sum() > 10


def test_ground_when_readings_disagree_then_genes_are_flagged(arms, alpha_shift, judge):
    cells = arms(alpha_shift)
    drifted = judge(dataclasses.replace(cells, control_pred=cells.treated))
    other = judge(cells, "query_as_control").de
    assert drifted.de["flips"].tolist() == other[keys.IS_DE].tolist()
    assert any("flip between the two" in note for note in drifted.notes)


def test_ground_when_there_is_no_control_prediction_then_the_query_serves_and_a_note_says_so(arms, alpha_shift, judge):
    cells = arms(alpha_shift, with_control=False)
    result = judge(cells)
    assert result.de.equals(judge(cells, "query_as_control").de)
    assert not result.de["flips"].any()
    assert any("compared with the query cells instead" in note for note in result.notes)
    assert any("80 predicted and 80 control cells" in note for note in result.notes)


def test_ground_when_a_gene_is_padded_then_it_is_not_judged(arms, alpha_shift, judge):
    cells = arms(alpha_shift)
    cells.treated.var[keys.PADDED] = cells.treated.var_names.isin(list(alpha_shift))
    result = judge(cells)
    assert result.de[keys.PADDED].sum() == len(alpha_shift)
    assert result.n_tested == int(result.de[keys.IS_TESTED].sum()) <= 1500 - len(alpha_shift)
    assert "0 of its" in result.components[0].reason


def test_ground_when_prompt_has_other_genes_then_it_still_works(arms, alpha_shift, judge):
    cells = arms(alpha_shift)
    fewer = dataclasses.replace(
        cells, prompt=cells.prompt[:, ::-1][:, :1400].copy(), prompt_control=cells.prompt_control[:, :1450].copy()
    )
    assert not np.isnan(judge(fewer).components[0].p_signal)


def test_ground_when_arms_do_not_share_genes_then_raises(arms, judge):
    cells = arms({}, n=20)
    with pytest.raises(ContractError, match="query has 1400 genes"):
        judge(dataclasses.replace(cells, query=cells.query[:, :1400]))
