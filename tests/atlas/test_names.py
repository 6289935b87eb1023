import re

import pytest

from haystack_kernel.atlas.names import safe_name, safe_names
from haystack_kernel.atlas.record import DATASET_PATTERN

PAIRS = [
    ("\u03b2-study", "\u03b3-study"),
    ("A b", "A_b"),
    ("A+b", "A-b"),
    ("Study", "study"),
    ("数据", "数"),
    ("Müller", "Muller"),
    ("x" * 200, "x" * 201),
    ("--", "__"),
    ("GSE1 (batch 1)", "GSE1 [batch 1]"),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_names_that_differ_stay_two_and_are_valid(pair):
    names = safe_names(pair, default="d")
    assert len({name.casefold() for name in names.values()}) == 2
    assert all(re.fullmatch(DATASET_PATTERN, name) for name in names.values())
    assert names == safe_names(reversed(pair), default="d")


def test_the_empty_name_is_the_default_and_never_that_of_another():
    assert safe_names(["", "b"], default="d") == {"": "d", "b": "b"}
    assert len(set(safe_names(["", "d"], default="d").values())) == 2


def test_letters_that_have_a_spelling_keep_it():
    assert [safe_name(text) for text in ("TNF-\u03b1", "Zürich é", "10x 6k", "../up")] == [
        "TNF-alpha",
        "Zurich_e",
        "10x_6k",
        "up",
    ]
