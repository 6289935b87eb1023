import dataclasses
import math

import pytest


def test_agreement_when_a_baseline_shifts_the_same_way_then_it_correlates_and_scores(alpha_cells, ask, score):
    baselines = {"shift": alpha_cells.baselines["shift"], "none": alpha_cells.query}
    none, shift = score(dataclasses.replace(alpha_cells, baselines=baselines), ask("ALPHA")).agreement
    assert (none.engine, shift.engine) == ("none", "shift")
    assert math.isnan(none.pearson)
    assert none.note
    assert none.n_de == 0
    assert none.composite == 1
    assert shift.pearson > 0.3
    assert shift.n_de > 10
    assert shift.composite == pytest.approx(7.3)
