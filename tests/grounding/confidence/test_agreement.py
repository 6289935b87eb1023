import math

import numpy as np
import pytest

from haystack_kernel.grounding import score_prediction
from haystack_kernel.grounding.de.profiles import correlate


def test_agreement_when_a_baseline_shifts_alike_then_it_correlates_and_scores(
    arms, alpha_shift, ask, knowledge, settings, context
):
    cells = arms(alpha_shift, baselines=[("shift", alpha_shift), ("none", {})])
    cells.baselines["none"] = cells.query.copy()
    result = score_prediction(cells, query=ask("ALPHA"), knowledge=knowledge, settings=settings, context=context)
    none, shift = result.agreement
    assert (none.engine, shift.engine) == ("none", "shift")
    assert math.isnan(none.pearson)
    assert none.note
    assert none.n_de == 0
    assert none.composite == 1
    assert shift.pearson > 0.3
    assert shift.n_de > 10
    assert shift.composite == pytest.approx(7.3)


def test_correlate_when_given_then_equals_numpy_and_constant_is_nan():
    one, two = np.random.default_rng(0).normal(size=(2, 50))
    assert correlate(one, two) == pytest.approx(np.corrcoef(one, two)[0, 1])
    assert math.isnan(correlate(one, np.ones(50)))
