"""Tables of a back-test: who is compared with whom, and what is not reported."""

import numpy as np
import pandas as pd
import pytest

from haystack_kernel.backtest import anchored
from haystack_kernel.backtest.calibrate import CalibrationPairs
from haystack_kernel.backtest.table import NEAR, calibration_pairs, summarise, tabulate
from haystack_kernel.grounding.confidence.backtested import FEATURES
from haystack_kernel.schema import MeasuredPair


def pair(name, *, donors=(), held="cell_type"):
    return MeasuredPair(
        atlas="a",
        dataset="s",
        cell_type_id="CL:0000236",
        cell_type="B cell",
        perturbation=name,
        held=held,
        donors=donors,
    )


def judged(change, control, predicted, *, size=1.0):
    """What was compared of one pair: profiles of four genes, and a prediction of them."""
    near = dict.fromkeys(NEAR, 0.5) | {"reliability": 0.9}
    six = {"error": 0.4, "own_noise": 0.1, "size": size}
    six |= {"direction_fidelity": 0.5, "direction_reach": 0.5, "changed_genes": 0.5, "fold_change_error": 0.5}
    profiles = {"truth": control + change, "control": control, "query": control * 0, "weighted": predicted}
    return {"engines": {"weighted": near | six}, "highest_r": 0.9, "n_changed": 12}, profiles


FACTS = {"evidence": "other_cell_type", "strategies": ["direct"], "features": dict.fromkeys(FEATURES, 0.5)}


def test_treatments_are_told_apart_among_pairs_with_the_same_control_cells_only():
    """The control cells of donor d2 lie elsewhere: no change at all would find its own truth among pairs of d1."""
    eye, far = np.eye(4), np.array([0.0, 0.0, 0.0, 9.0])
    pairs = {1: pair("x", donors=("d1",), held="donor"), 2: pair("y", donors=("d2",), held="donor")}
    found = {1: judged(eye[0], np.zeros(4), np.zeros(4)), 2: judged(eye[1], far, far)}
    table = tabulate(pairs, {1: FACTS, 2: FACTS}, found, names={1: "x", 2: "y"})
    assert table["discrimination"].isna().all()
    pairs = {1: pair("x"), 2: pair("y"), 3: pair("z")}
    found = {number: judged(eye[number], np.zeros(4), eye[number]) for number in pairs}
    table = tabulate(pairs, dict.fromkeys(pairs, FACTS), found, names={1: "x", 2: "y", 3: "z"})
    assert table["discrimination"].tolist() == [1, 1, 1]


def test_a_half_of_the_measurement_is_found_among_other_halves_and_not_in_the_measurement_that_holds_it():
    eye = np.eye(4)
    pairs = {number: pair(name) for number, name in enumerate("xyz", start=1)}
    found = {number: judged(eye[number], np.zeros(4), eye[number]) for number in pairs}
    for number, (facts, profiles) in found.items():
        facts["engines"]["replicate"] = facts["engines"]["weighted"]
        profiles["replicate"] = eye[number]
        profiles["replicate-change"], profiles["replicate-truth"] = eye[number], eye[number % 3 + 1]
    table = tabulate(pairs, dict.fromkeys(pairs, FACTS), found, names=dict(enumerate("xyz", start=1)))
    assert set(table.loc[table["engine"] == "replicate", "discrimination"]) == {0.25}
    del found[2][1]["replicate-truth"]  # compared by an earlier version
    table = tabulate(pairs, dict.fromkeys(pairs, FACTS), found, names=dict(enumerate("xyz", start=1)))
    assert table.loc[table["engine"] == "replicate", "discrimination"].isna().all()
    assert (table.loc[table["engine"] == "weighted", "discrimination"] == 1).all()


def test_a_pair_that_could_not_be_predicted_keeps_its_row_with_the_reason():
    facts = {"error": "no candidate"}
    table = tabulate({1: pair("x"), 2: pair("y")}, {1: facts}, {}, names={1: "x", 2: "y"})
    assert table["reason"].tolist() == ["no candidate", "not prepared"]
    assert summarise(table).empty


def rows(engine, values, *, evidence="other_cell_type"):
    """Rows of one engine whose metrics all have the values given."""
    return pd.DataFrame(
        [
            {"pair": n, "evidence": evidence, "engine": engine, "reason": "", "perturbation": f"T{n}", "highest_r": 0.9}
            | dict.fromkeys((*NEAR, *anchored.SIX, *FEATURES), value)
            | {"error": value, "size": 1.0}
            for n, value in enumerate(values)
        ]
    )


def upside_down(tables):
    """The same tables where less is better: the replicate has the smallest errors."""
    return [one.assign(**{name: -one[name] for name in (*anchored.SIX, "error")}) for one in tables]


def test_metrics_that_cannot_tell_a_replicate_from_the_mean_are_not_anchored():
    clear = [rows("type-mean", [0.1, 0.12, 0.11]), rows("replicate", [0.9, 0.88, 0.9]), rows("weighted", [0.5] * 3)]
    row = summarise(pd.concat(clear)).set_index("engine").loc["weighted"]
    worse = [name for name, better in anchored.HIGHER_IS_BETTER.items() if not better]
    assert row["not_told"] == ", ".join(worse)  # where less is better the replicate is worse than the mean here
    assert row["anchored_changed_genes"] == pytest.approx((0.5 - 0.11) / (0.8933 - 0.11), abs=1e-3)
    assert row["anchored_r"] == pytest.approx((0.5 - 0.11) / (0.9 - 0.11), abs=1e-3)
    assert summarise(pd.concat(upside_down(clear))).set_index("engine").loc["weighted", "not_told"].count(",") == 3
    none = [one.assign(size=-1.0) for one in upside_down(clear)]
    assert "expression_error" in summarise(pd.concat(none)).set_index("engine").loc["weighted", "not_told"]
    noisy = [rows("type-mean", [0.1, 0.9, 0.2]), rows("replicate", [0.8, 0.2, 0.6]), rows("weighted", [0.5] * 3)]
    row = summarise(pd.concat(noisy)).set_index("engine").loc["weighted"]
    assert row["not_told"] == ", ".join(anchored.SIX)
    assert np.isnan(row["anchored_changed_genes"])


def pairs_of(table):
    return CalibrationPairs.of(calibration_pairs(table, "weighted"), names=FEATURES)


def test_pairs_of_a_calibration_are_those_of_one_engine_by_treatment():
    both = pd.concat([rows("weighted", [0.5, 0.6]), rows("mean", [0.1])])
    some = pairs_of(both.assign(held="cell_type", donors="", cell_type="B cell"))
    assert some.r.tolist() == [0.5, 0.6]
    assert some.group.tolist() == some.apart.tolist() == ["t0", "t1"]
    one = rows("weighted", [0.5, 0.6, 0.7]).assign(
        perturbation="T", held=["donor", "donor", "cell_type"], donors=["101", "102", ""], cell_type="B cell"
    )
    assert pairs_of(one).apart.tolist() == ["101", "102", "B cell"]
    assert some.features.shape == (2, len(FEATURES))
