"""Calls on cells whose true response is known: how often they are right, and when there are none."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingCells
from haystack_kernel.grounding.de.profiles import log_normalise
from haystack_kernel.grounding.uncertainty.calls import call_genes, query_profile, study_prompt
from haystack_kernel.grounding.uncertainty.transfer import describe

SHOWN = ("A", "B", "C")


def make(world, *, n=12, types=SHOWN, asked="asked", donors=("d1", "d2", "d3", "d4"), asked_donors=None):
    query = world.cells(15, types=[asked], treated=False, donors=asked_donors or donors)
    prompt, control = (world.cells(n, types=types, treated=side, donors=donors) for side in (True, False))
    return GroundingCells(query, None, query, prompt, control)


def study(cells, *, engine="weighted", **changes):
    detection = np.full(cells.query.n_vars, 1.0)
    return study_prompt(cells, engine=engine, detection=detection, min_detection=0.02, **changes)


def call(cells, *, engine="weighted", delta=np.nan, studied=None, **changes):
    de = pd.DataFrame({keys.GENE: cells.query.var_names, keys.DELTA: delta})
    return call_genes(de, studied=studied or study(cells, engine=engine), engine=engine, max_lfsr=0.05, **changes)


def true_effect(world, *, n=150):
    """Measured on so many cells that its error does not matter."""
    arms = [world.cells(n, types=["asked"], treated=side) for side in (True, False)]
    means = [np.asarray(log_normalise(arm.X).mean(axis=0)).ravel() for arm in arms]
    return means[0] - means[1]


@pytest.fixture(scope="module")
def world(designed):
    return designed(between_types=0.3)


@pytest.fixture(scope="module")
def cells(world):
    return make(world)


@pytest.fixture(scope="module")
def called(cells):
    return call(cells)


def test_calls_have_the_right_sign_and_intervals_hold_the_truth(world, called):
    truth = true_effect(world)
    found = called[called[keys.IS_DE]]
    assert len(found) > 20
    assert (np.sign(found[keys.EFFECT]) == np.sign(truth[found.index])).mean() > 0.95
    large = called[keys.EFFECT].abs() > 0.05
    inside = (called[keys.EFFECT_LOW] <= truth) & (truth <= called[keys.EFFECT_HIGH])
    assert 0.7 < inside[large].mean() < 0.97
    assert (called[keys.PROB_DE] > 0.9)[called[keys.IS_DE] & (called[keys.EFFECT] > 0.5)].all()
    assert called[keys.PROB_DE].between(0, 1).all()


def test_the_transfer_error_is_the_difference_between_types(designed):
    near, far = (study(make(designed(between_types=size, seed=4))).transfer for size in (0.0, 0.9))
    assert (near.left_out, near.n_units, near.missing) == ("cell type", 3, "")
    assert near.c2 < 0.2 < far.c2
    assert near.coverage > 0.7
    assert near.n_called > 20
    assert near.sign_agreement > 0.95


def test_cells_farther_from_the_prompt_than_what_was_left_out_have_wider_intervals_that_hold(designed):
    """Types that differ in their levels differ in their responses as well; the asked one differs most."""
    world = designed(size=0.4, seed=3, apart={"A": 0.3, "B": 0.3, "C": 0.3, "asked": 0.55})
    cells = make(world, n=20)
    studied = study(cells)
    assert 1.5 < studied.transfer.reach < 3
    truth, moved = true_effect(world, n=50), np.arange(len(cells.query.var_names)) < 150

    def inside(transfer):
        found = call(cells, studied=dataclasses.replace(studied, transfer=transfer))
        holds = (found[keys.EFFECT_LOW] <= truth) & (truth <= found[keys.EFFECT_HIGH])
        return holds[moved & (found[keys.EFFECT].abs() > 0.05)].mean()

    without = dataclasses.replace(studied.transfer, reach=1.0)
    assert inside(without) < 0.65 < inside(studied.transfer)
    words = describe(studied.transfer, engine="weighted")
    assert f"are {studied.transfer.reach:.1f} times as far from the prompt's as the cell types left out" in words


def test_cells_as_unlike_as_no_others_have_intervals_that_are_not_calibrated(cells):
    studied = study(cells)
    assert studied.transfer.reach == 1
    assert not describe(studied.transfer, engine="weighted").startswith("Not calibrated")
    other = cells.query.copy()
    other.X = other.X[:, np.random.default_rng(0).permutation(other.n_vars)]
    far = study(dataclasses.replace(cells, query=other)).transfer
    words = describe(far, engine="weighted")
    assert words.startswith("Not calibrated: 3 cell types of the prompt were left out")
    assert "more than 3.0 times as far from the prompt's" in words


def test_donors_that_differ_more_than_their_effects_have_no_calls(designed):
    """As of patients: what one shows is not what the next will."""
    world = designed(between_donors=1.5, seed=5)
    cells = make(world, n=40, types=("asked",), donors=("d1", "d2", "d3"), asked_donors=("d4",))
    studied = study(cells)
    assert studied.transfer.left_out == "donor"
    assert not call(cells, studied=studied)[keys.IS_DE].any()
    assert "Nothing can be called: effects may differ by" in describe(studied.transfer, engine="weighted")


def test_what_the_prompt_cannot_teach_is_said(designed):
    world = designed(seed=6)
    one_type = study(make(world, types=("A",))).transfer
    assert (one_type.left_out, one_type.missing) == ("donor", "cell type")
    assert one_type.c2 >= 0.25
    assert "does not show how far effects differ between cell types" in describe(one_type, engine="weighted")
    alone = study(make(world, types=("A",), donors=("d1",))).transfer
    assert (alone.left_out, alone.c2, alone.n_units) == ("", 0.25, 0)
    assert describe(alone, engine="weighted").startswith("Not calibrated: no part of the prompt could be left out")


def test_where_type_and_donor_are_new_the_larger_difference_holds(designed):
    asked = {"n": 25, "donors": ("d1", "d2", "d3"), "asked_donors": ("d4",)}
    types, donors = designed(between_types=0.9, seed=7), designed(between_donors=1.5, seed=7)
    assert study(make(types, **asked)).transfer.left_out == "cell type"
    assert study(make(donors, **asked)).transfer.left_out == "donor"


def test_control_cells_split_in_two_call_nothing(world):
    cells = make(world)
    untreated = dataclasses.replace(cells, prompt=world.cells(12, types=SHOWN, treated=False))
    for engine in ("weighted", "mean", "shift"):
        found = call(untreated, engine=engine)
        assert not found[keys.IS_DE].any()
        assert found[keys.LFSR].min() > 0.1


def test_fewer_prompt_cells_give_fewer_calls(cells):
    def first(adata, n):
        return adata[adata.obs.groupby([keys.CELL_TYPE, keys.DONOR], observed=True).cumcount().to_numpy() < n].copy()

    numbers = []
    for n in (12, 4, 1):
        fewer = dataclasses.replace(cells, prompt=first(cells.prompt, n), prompt_control=first(cells.prompt_control, n))
        numbers.append(int(call(fewer)[keys.IS_DE].sum()))
    assert numbers[0] > numbers[1] > numbers[2]


def test_the_query_cells_may_be_fewer_where_their_profile_is_known(cells, called):
    query = cells.query.copy()
    for name, values in zip(
        (keys.QUERY_MEAN, keys.QUERY_DETECTION, keys.QUERY_ERROR), query_profile(query), strict=True
    ):
        query.var[name] = values
    few = query[:7].copy()
    found = call(dataclasses.replace(cells, query=few, treated=few))
    pd.testing.assert_frame_equal(found, called)


def test_another_engine_is_called_by_its_own_prediction_and_spread(cells, called):
    studied, delta = study(cells, engine="stack"), called[keys.EFFECT].to_numpy()
    sure = call(cells, engine="stack", delta=delta, studied=studied, resampled=[delta + 0.001, delta - 0.001])
    rng = np.random.default_rng(8)
    unsure = call(
        cells, engine="stack", delta=delta, studied=studied, resampled=list(delta + rng.normal(0, 0.5, (2, len(delta))))
    )
    assert sure[keys.IS_DE].sum() > unsure[keys.IS_DE].sum()
    drawn = call(cells, engine="stack", delta=delta, studied=studied, drawn=np.full(len(delta), 0.5))
    assert drawn[keys.IS_DE].sum() < call(cells, engine="stack", delta=delta, studied=studied)[keys.IS_DE].sum()
    assert "not by stack" in describe(studied.transfer, engine="stack")
    # a prediction that no cell type of the prompt resembles is not believed
    against = call(cells, engine="stack", delta=-delta, studied=studied)
    assert not against[keys.IS_DE].any()
    words = describe(studied.transfer, engine="stack", used_c=against.attrs["transfer_error"])
    assert "of its effects from what the prompt's cells show. Nothing can be called" in words


def test_where_nothing_is_known_no_gene_is_called_and_the_reason_is_given(cells):
    without = study(dataclasses.replace(cells, prompt_control=None))
    assert "no matched control cells" in without
    found = call(cells, studied=without)
    assert found[keys.LFSR].isna().all()
    assert not found[keys.IS_DE].any()
    assert call(cells, engine="none", delta=0.0)[keys.EFFECT].isna().all()
    single = dataclasses.replace(cells, prompt=cells.prompt[:1].copy(), prompt_control=cells.prompt_control[:1].copy())
    assert "do not say how much cells vary" in study(single)


def test_genes_that_one_arm_lacks_or_that_were_not_predicted_are_not_called(cells, called):
    treated = cells.query.copy()
    treated.var[keys.PADDED] = treated.var_names == "G0"
    fewer = dataclasses.replace(cells, treated=treated, prompt=cells.prompt[:, 2:].copy())
    found = call(fewer)
    assert found[keys.LFSR].isna().tolist()[:3] == [True, True, False]
    assert called[keys.LFSR].notna().all()


def test_between_cell_types_the_donors_are_compared(world):
    """A question about a state of cells: prompt and control are of two types, so that only donors repeat."""
    cells = make(world)
    other = dataclasses.replace(cells, prompt_control=world.cells(12, types=("asked",), treated=False))
    studied = study(other, within=keys.DONOR)
    assert studied.linear == "pooled"
    assert studied.transfer.left_out == "donor"
    assert studied.transfer.n_units == 4
