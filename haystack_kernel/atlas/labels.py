"""Relabel, join and pair text columns through their codes, without handling a text per cell.

In: categoricals. Out: categoricals; or the kinds of cells, which all share their labels, so that what follows handles
each kind once. Arrays of all cells are passed through in blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel.atlas.sources.h5ad import recoded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

MAX_COUNTED = 1 << 24  # pairs up to here are counted in a table of all; more are looked up by hashes
BLOCK_ROWS = 1 << 22


class Kinds:
    """The distinct combinations of labels that cells have; columns are added one at a time.

    Attributes
    ----------
    of_cell
        Number of each cell's kind. Kinds are numbered in the order in which they appear among the cells once
        :meth:`in_order` was called.
    n
        How many kinds there are.
    """

    def __init__(self, n_cells: int, *, block_rows: int = BLOCK_ROWS) -> None:
        self.of_cell: NDArray[np.int32] = np.zeros(n_cells, dtype=np.int32)
        self.n = 1
        self._block_rows = block_rows
        self._codes: dict[str, NDArray[np.int64]] = {}
        self._labels: dict[str, pd.Index] = {}

    def add(self, name: str, labels: pd.Categorical, *, max_counted: int = MAX_COUNTED) -> None:
        """Tell cells apart by one more column, which needs not be kept."""
        width = len(labels.categories)
        if width > 1:
            distinct = _number_pairs(self.of_cell, self.n, labels, blocks=self._blocks(), max_counted=max_counted)
            before, codes = np.divmod(distinct, width)
            self._codes = {key: one[before] for key, one in self._codes.items()}
            self.n = len(distinct)
        else:
            codes = np.zeros(self.n, dtype=np.int64)
        self._codes[name], self._labels[name] = codes, labels.categories

    def add_constant(self, name: str, text: str) -> None:
        """Add a label that all cells have."""
        self._codes[name], self._labels[name] = np.zeros(self.n, dtype=np.int64), pd.Index([text], dtype=object)

    def in_order(self) -> None:
        """Number the kinds in the order in which they appear among the cells."""
        first = np.zeros(self.n, dtype=np.int64)
        for low, high in reversed(self._blocks()):
            first[self.of_cell[low:high][::-1]] = np.arange(high - 1, low - 1, -1)
        order = np.argsort(first)
        rank = np.empty(self.n, dtype=np.int32)
        rank[order] = np.arange(self.n, dtype=np.int32)
        for low, high in self._blocks():
            self.of_cell[low:high] = rank[self.of_cell[low:high]]
        self._codes = {key: one[order] for key, one in self._codes.items()}

    def fields(self) -> dict[str, pd.Categorical]:
        """Column -> the label of each kind."""
        return {
            name: pd.Categorical.from_codes(codes, categories=self._labels[name]) for name, codes in self._codes.items()
        }

    def n_cells(self) -> NDArray[np.int64]:
        """Cells of each kind."""
        return count_codes(self.of_cell, self.n, block_rows=self._block_rows)

    def _blocks(self) -> list[tuple[int, int]]:
        return blocks_of(len(self.of_cell), block_rows=self._block_rows)


def blocks_of(n: int, *, block_rows: int = BLOCK_ROWS) -> list[tuple[int, int]]:
    """First and last (exclusive) place of each block of ``n`` places."""
    return [(low, min(low + block_rows, n)) for low in range(0, n, block_rows)]


def count_codes(
    codes: NDArray[np.integer],
    n: int,
    *,
    weights: NDArray[np.int64] | None = None,
    block_rows: int = BLOCK_ROWS,
) -> NDArray[np.int64]:
    """How often each of the numbers below ``n`` occurs, or the sum of its whole weights."""
    counts = np.zeros(n, dtype=np.int64)
    for low, high in blocks_of(len(codes), block_rows=block_rows):
        part = None if weights is None else weights[low:high]
        counts += np.bincount(codes[low:high], weights=part, minlength=n).astype(np.int64)
    return counts


def recode(labels: pd.Categorical, change: Callable[[str], str]) -> pd.Categorical:
    """Change every distinct label; labels that become equal become one."""
    return recoded(labels, [change(str(text)) for text in labels.categories])


def distinct_pairs(
    first: pd.Categorical, second: pd.Categorical, *, max_counted: int = MAX_COUNTED
) -> tuple[list[tuple[str, str]], NDArray[np.int32]]:
    """The distinct pairs that occur, and for every row the number of its pair."""
    rows, place = distinct_rows((first, second), max_counted=max_counted)
    return [(one[0], one[1]) for one in rows], place


def distinct_rows(
    columns: Sequence[pd.Categorical], *, max_counted: int = MAX_COUNTED
) -> tuple[list[tuple[str, ...]], NDArray[np.int32]]:
    """The distinct combinations of the columns' labels that occur, and for every row the number of its own."""
    kinds = Kinds(len(columns[0]))
    for number, column in enumerate(columns):
        kinds.add(str(number), column, max_counted=max_counted)
    texts = [[str(text) for text in labels] for labels in kinds.fields().values()]
    return list(zip(*texts, strict=True)), kinds.of_cell


def _number_pairs(
    first: NDArray[np.int32],
    n_first: int,
    second: pd.Categorical,
    *,
    blocks: Sequence[tuple[int, int]],
    max_counted: int,
) -> NDArray[np.int64]:
    """The numbers ``first * width + code`` that occur; in ``first``, each is replaced by its place among them."""
    width = len(second.categories)

    def pairs(low: int, high: int) -> NDArray[np.int64]:
        codes: NDArray[np.int64] = first[low:high].astype(np.int64)
        codes *= width
        codes += second.codes[low:high]
        return codes

    if n_first * width <= max_counted:
        present = np.zeros(n_first * width, dtype=bool)
        for low, high in blocks:
            present[pairs(low, high)] = True
        distinct = np.flatnonzero(present)
        place = np.cumsum(present, dtype=np.int32) - 1
        for low, high in blocks:
            first[low:high] = place[pairs(low, high)]
        return distinct
    seen = [pd.unique(pairs(low, high)) for low, high in blocks]
    distinct = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *seen]))
    index = pd.Index(distinct)
    for low, high in blocks:
        first[low:high] = index.get_indexer(pd.Index(pairs(low, high)))
    return distinct


def joined(first: pd.Categorical, second: pd.Categorical, join: Callable[[str, str], str]) -> pd.Categorical:
    """One label from two, for every row."""
    pairs, place = distinct_pairs(first, second)
    return spread([join(*pair) for pair in pairs], place)


def spread(texts: list[str], place: NDArray[np.int32]) -> pd.Categorical:
    """Text number ``place[i]`` for row i; equal texts become one label."""
    return recoded(pd.Categorical.from_codes(place, categories=pd.Index(range(len(texts)), dtype=object)), texts)
