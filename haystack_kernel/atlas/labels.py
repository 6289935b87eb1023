"""Relabel, join and pair text columns through their codes, without handling a text per cell.

In: categoricals. Out: categoricals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel.atlas.sources.h5ad import recoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MAX_COUNTED = 1 << 24  # pairs up to here are counted in a table of all; more are sorted


def recode(labels: pd.Categorical, change: Callable[[str], str]) -> pd.Categorical:
    """Change every distinct label; labels that become equal become one."""
    return recoded(labels, [change(str(text)) for text in labels.categories])


def distinct_pairs(
    first: pd.Categorical, second: pd.Categorical, *, max_counted: int = MAX_COUNTED
) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """The distinct pairs that occur, and for every cell the number of its pair."""
    width = len(second.categories)
    codes = first.codes.astype(np.int64) * width + second.codes
    possible = len(first.categories) * width
    if possible <= max_counted:  # one pass instead of a sort
        present = np.zeros(possible, dtype=bool)
        present[codes] = True
        distinct = np.flatnonzero(present)
        place = (np.cumsum(present, dtype=np.int32) - 1)[codes].astype(np.int64)
    else:
        distinct, place = np.unique(codes, return_inverse=True)
    named = [(str(first.categories[one // width]), str(second.categories[one % width])) for one in distinct.tolist()]
    return named, place


def joined(first: pd.Categorical, second: pd.Categorical, join: Callable[[str, str], str]) -> pd.Categorical:
    """One label from two, for every cell."""
    pairs, place = distinct_pairs(first, second)
    return spread([join(*pair) for pair in pairs], place)


def spread(texts: list[str], place: NDArray[np.int64]) -> pd.Categorical:
    """Text number ``place[i]`` for cell i; equal texts become one label."""
    return recoded(pd.Categorical.from_codes(place, categories=pd.Index(range(len(texts)), dtype=object)), texts)
