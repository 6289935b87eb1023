import numpy as np
import pandas as pd
import pytest

from haystack_kernel.atlas.labels import MAX_COUNTED, distinct_pairs, joined, recode


@pytest.fixture
def pair():
    rng = np.random.default_rng(4)
    return [pd.Categorical(rng.choice(list(letters), 500)) for letters in ("cab", "yxz")]


@pytest.mark.parametrize("max_counted", [0, MAX_COUNTED])
def test_distinct_pairs_are_those_of_a_set_and_every_cell_has_its_own(pair, max_counted):
    named, place = distinct_pairs(*pair, max_counted=max_counted)
    cells = list(zip(*pair, strict=True))
    assert named == sorted(set(cells))
    assert [named[at] for at in place] == cells


def test_joined_and_recoded_labels_that_become_equal_are_one(pair):
    first = joined(*pair, lambda left, right: "" if left == "a" else f"{left}{right}".replace("y", "x"))
    assert list(first) == ["" if a == "a" else f"{a}{b}".replace("y", "x") for a, b in zip(*pair, strict=True)]
    assert list(recode(pair[0], lambda text: "q").categories) == ["", "q"]
