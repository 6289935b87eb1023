"""Relabel, join and pair text columns through their codes, without handling a text per cell.

In: categoricals. Out: categoricals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel.atlas.sources.h5ad import recoded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

MAX_COUNTED = 1 << 24  # pairs up to here are counted in a table of all; more are sorted


def recode(labels: pd.Categorical, change: Callable[[str], str]) -> pd.Categorical:
    """Change every distinct label; labels that become equal become one."""
    return recoded(labels, [change(str(text)) for text in labels.categories])


def distinct_pairs(
    first: pd.Categorical, second: pd.Categorical, *, max_counted: int = MAX_COUNTED
) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """The distinct pairs that occur, and for every cell the number of its pair."""
    rows, place = distinct_rows((first, second), max_counted=max_counted)
    return [(one[0], one[1]) for one in rows], place


def distinct_rows(
    columns: Sequence[pd.Categorical], *, max_counted: int = MAX_COUNTED
) -> tuple[list[tuple[str, ...]], NDArray[np.int64]]:
    """The distinct combinations of the columns' labels that occur, and for every cell the number of its own."""
    place = columns[0].codes.astype(np.int64)
    members = [(code,) for code in range(len(columns[0].categories))]
    for column in columns[1:]:
        distinct, place = _distinct(place, len(members), column, max_counted=max_counted)
        width = len(column.categories)
        members = [(*members[one // width], one % width) for one in distinct.tolist()]
    named = [tuple(str(column.categories[code]) for column, code in zip(columns, row, strict=True)) for row in members]
    return named, place


def _distinct(
    first: NDArray[np.int64], n_first: int, second: pd.Categorical, *, max_counted: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers ``first * width + code`` that occur, and for every cell the place of its number among them."""
    width = len(second.categories)
    codes = first * width + second.codes
    possible = n_first * width
    if possible <= max_counted:  # one pass instead of a sort
        present = np.zeros(possible, dtype=bool)
        present[codes] = True
        distinct = np.flatnonzero(present)
        place = (np.cumsum(present, dtype=np.int32) - 1)[codes].astype(np.int64)
    else:
        distinct, place = np.unique(codes, return_inverse=True)
    return distinct, place


def joined(first: pd.Categorical, second: pd.Categorical, join: Callable[[str, str], str]) -> pd.Categorical:
    """One label from two, for every cell."""
    pairs, place = distinct_pairs(first, second)
    return spread([join(*pair) for pair in pairs], place)


def spread(texts: list[str], place: NDArray[np.int64]) -> pd.Categorical:
    """Text number ``place[i]`` for cell i; equal texts become one label."""
    return recoded(pd.Categorical.from_codes(place, categories=pd.Index(range(len(texts)), dtype=object)), texts)
