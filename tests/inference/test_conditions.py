from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from inference.conditions import choose_values, output_names, split_labels
from inference.errors import InputError


def _base(values):
    obs = pd.DataFrame({"drug": values}, index=[str(i) for i in range(len(values))])
    return ad.AnnData(np.ones((len(values), 1), np.float32), obs=obs)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (pd.Categorical(["a", None, "b"]), ["a", "", "b"]),
        ([2, 10, 1], ["2", "10", "1"]),
        ([True, False, True], ["True", "False", "True"]),
    ],
)
def test_labels_are_text_whatever_the_column_holds(values, labels):
    assert split_labels(_base(values), "drug", name="f").tolist() == labels


def test_column_that_is_not_there_is_refused_naming_those_that_are():
    with pytest.raises(InputError, match=r"f: obs has no column 'dose'; it has drug: name one"):
        split_labels(_base(["a"]), "dose", name="f")


def test_values_are_sorted_and_asked_for_in_the_readers_order():
    labels = np.array(["b", "", "a", "b"])
    assert choose_values(labels, None, column="c", name="f") == (("a", "b"), "")
    assert choose_values(labels, ("b", "a", "b"), column="c", name="f") == (("b", "a"), "")
    told = "f: obs['c'] holds no 'x'; possible with --split-values: 'a', 'b'"
    assert choose_values(labels, ("x", "a"), column="c", name="f") == (("a",), f"{told}. The others are predicted")
    with pytest.raises(InputError, match=re.escape(told)):
        choose_values(labels, ("x",), column="c", name="f")
    with pytest.raises(InputError, match=r"obs\['c'\] holds no value"):
        choose_values(np.array(["", ""]), None, column="c", name="f")


def test_names_of_outputs_are_safe_and_never_shared():
    names = output_names(np.array(["drug/B 2", "..", "x y", "x/y", "a.b-c d(é)", "L" * 400, ""]))
    assert (names["drug/B 2"], names[".."], names["a.b-c d(é)"]) == ("drug_B_2", "..", "a.b-c_d_")
    assert len(names) == len(set(names.values())) == 6
    assert names["x y"].startswith("x_y-")
    assert max(map(len, names.values())) < 200
