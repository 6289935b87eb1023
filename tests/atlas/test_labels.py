import numpy as np
import pandas as pd
import pytest

from haystack_kernel.atlas.labels import MAX_COUNTED, Kinds, count_codes, distinct_pairs, joined, recode


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


@pytest.mark.parametrize("max_counted", [0, MAX_COUNTED])
def test_kinds_are_numbered_as_they_appear_and_hold_the_labels_of_their_cells(pair, max_counted):
    kinds = Kinds(500)
    kinds.add("first", pair[0], max_counted=max_counted)
    kinds.add_constant("tissue", "blood")
    kinds.add("second", pair[1], max_counted=max_counted)
    kinds.in_order()
    cells = list(zip(*pair, strict=True))
    appearing = list(dict.fromkeys(cells))
    assert kinds.of_cell.tolist() == [appearing.index(cell) for cell in cells]
    fields = kinds.fields()
    assert list(fields) == ["first", "tissue", "second"]
    assert list(zip(fields["first"], fields["second"], strict=True)) == appearing
    assert set(fields["tissue"]) == {"blood"}
    assert kinds.n_cells().tolist() == [cells.count(kind) for kind in appearing]


def test_kinds_of_more_cells_than_a_block_are_those_of_numpy():
    n_cells = 1000
    codes = np.arange(n_cells) * 7919 % 3, np.arange(n_cells) // 300 % 3
    kinds = Kinds(n_cells, block_rows=64)
    for name, one in zip("ab", codes, strict=True):
        kinds.add(name, pd.Categorical.from_codes(one, categories=["x", "y", "z"]))
    kinds.in_order()
    numbers, first, place, sizes = np.unique(
        codes[0] * 3 + codes[1], return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    np.testing.assert_array_equal(kinds.of_cell, np.argsort(order)[place])
    np.testing.assert_array_equal(kinds.n_cells(), sizes[order])
    np.testing.assert_array_equal(kinds.fields()["b"].codes, numbers[order] % 3)
    weights = np.arange(n_cells)
    np.testing.assert_array_equal(
        count_codes(kinds.of_cell, kinds.n, weights=weights, block_rows=64), np.bincount(kinds.of_cell, weights=weights)
    )
