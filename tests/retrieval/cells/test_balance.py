import pandas as pd
import pytest

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.balance import GROUP, balance
from haystack_kernel.schema import RunConfig


def cells(prefix, **sizes):
    rows = [(f"{prefix}{name}{i:04d}", "T", "d", name) for name, size in sizes.items() for i in range(size)]
    return pd.DataFrame(rows, columns=[keys.CELL_ID, keys.CELL_TYPE, keys.DONOR, GROUP])


def shares(prompt, control, *, n_prompt=2000, engine="stack"):
    config = RunConfig(n_prompt=n_prompt, engine=engine)
    sides = balance(prompt, control=control, config=config, round_number=1)
    return [one[GROUP].value_counts().to_dict() for one in sides]


def test_balance_gives_both_sides_the_same_make_up():
    # control could be 4 x group a but only 0.5 x group b: 0.5 it is for both
    assert shares(cells("p", a=60, b=40), cells("c", a=240, b=20)) == [{"a": 60, "b": 40}, {"a": 30, "b": 20}]


def test_balance_when_a_control_is_tiny_then_trims_its_prompt_rather_than_all_controls():
    # group b: 4 controls carry at most 12 prompt cells; then control is a third of the prompt everywhere
    assert shares(cells("p", a=60, b=400), cells("c", a=60, b=4)) == [{"a": 60, "b": 12}, {"a": 20, "b": 4}]


def test_balance_thins_controls_of_other_types_for_a_model_alone():
    # 6 controls of megakaryocytes are no reason to take away controls of monocytes, where types are compared apart
    prompt = cells("p", **{"k|s|mono": 100, "k|s|mega": 12, "k|t|mono": 50})
    control = cells("c", **{"k|s|mono": 100, "k|s|mega": 6, "k|t|mono": 40})
    apart = {"k|s|mono": 80, "k|s|mega": 6, "k|t|mono": 40}  # within monocytes both data sets keep 4 in 5
    assert shares(prompt, control, engine="weighted")[1] == apart
    assert shares(prompt, control, engine="stack")[1] == {"k|s|mono": 50, "k|s|mega": 6, "k|t|mono": 25}
    assert sum(shares(prompt, control, engine="weighted", n_prompt=63)[1].values()) <= 63


def test_balance_when_a_group_lost_its_control_then_its_prompt_is_left_out():
    assert shares(cells("p", a=60, b=40), cells("c", a=60)) == [{"a": 60}, {"a": 60}]


def test_balance_never_takes_more_control_than_n_prompt():
    prompt, control = shares(cells("p", a=60, b=40), cells("c", a=600, b=400), n_prompt=100)
    assert (prompt, control) == ({"a": 60, "b": 40}, {"a": 60, "b": 40})


@pytest.mark.parametrize("side", [0, 1])
def test_balance_is_ordered_by_cell_id(side):
    found = balance(cells("p", b=9, a=9), control=cells("c", b=9, a=5), config=RunConfig(), round_number=1)[side]
    assert found[keys.CELL_ID].is_monotonic_increasing


def test_balance_when_there_is_one_group_then_keeps_the_whole_prompt():
    assert shares(cells("p", a=60), cells("c", a=5)) == [{"a": 60}, {"a": 5}]


@pytest.mark.parametrize("groups", [{"a": 6}, {"a": 6, "b": 6}])
def test_balance_when_no_group_has_both_then_gives_no_control(groups):
    assert shares(cells("p", **groups), cells("c", z=5)) == [groups, {}]
