"""Sort cells in the order of the index, and group equal cells: searches read the groups instead of the cells.

In: the columns of one file as categoricals, genes and counts per cell. Out: ``cells.parquet`` rows, written in blocks,
and one row per group; texts stay codes until a block is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from haystack_kernel import keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# the cells of a group agree in all of these; cells are sorted by them in this order, then by their row in the source
GROUP_COLUMNS = (
    keys.DATASET,
    keys.PERTURBATION,
    keys.CELL_TYPE,
    keys.DONOR,
    keys.IS_CONTROL,
    keys.PERTURBATION_TYPE,
    keys.CELL_TYPE_ID,
    keys.TISSUE_ID,
    keys.TISSUE,
    keys.DISEASE_ID,
    keys.DISEASE,
    keys.DONOR_SEX,
    keys.DONOR_AGE,
    keys.CONDITION,
    keys.CONTROL_KIND,
)
N_CELLS = "n_cells"
MEDIAN_COUNTS = "median_total_counts"
MEDIAN_GENES = "median_n_genes"
FIRST_ROW = "first_row"  # of the group in its part of cells.parquet
ROWS_PER_BLOCK = 50_000
MAX_DENSE = 1 << 24  # codes up to here are renumbered in one pass instead of by sorting
_PLAIN = {"compression": "zstd", "store_schema": False}  # texts read as plain strings everywhere


@dataclass(frozen=True)
class CellColumns:
    """Cells of one file in the order of the file; ``total_counts`` is NaN where it was not read."""

    text: dict[str, pd.Categorical]
    is_control: NDArray[np.bool_]
    n_genes: NDArray[np.int64]
    total_counts: NDArray[np.float64]
    is_kept: NDArray[np.bool_]  # False: the cell stays out of the index


@dataclass(frozen=True)
class GroupedCells:
    """Cells with their order in the index; ``order[first[i]:first[i + 1]]`` are the cells of group i."""

    cells: CellColumns
    order: NDArray[np.int64]
    first: NDArray[np.int64]

    def datasets(self) -> dict[str, tuple[int, int]]:
        """Dataset -> its first group and the group after its last."""
        labels = self.cells.text[keys.DATASET]
        codes = labels.codes[self.order[self.first[:-1]]]
        starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(codes) else np.array([], dtype=np.int64)
        ends = [*starts[1:].tolist(), len(codes)]
        return {
            str(labels.categories[codes[low]]): (int(low), int(high)) for low, high in zip(starts, ends, strict=True)
        }


def group_cells(cells: CellColumns, *, max_dense: int = MAX_DENSE) -> GroupedCells:
    """Sort cells by :data:`GROUP_COLUMNS`, then by their row in the source file.

    Parameters
    ----------
    max_dense
        Largest number of combinations of labels that a table numbers; more are numbered by sorting.
    """
    numbers = np.zeros(len(cells.is_control), dtype=np.int64)
    width = 1
    for name in GROUP_COLUMNS:
        ranks, n_ranks = _ranks(cells, name)
        if n_ranks == 1:
            continue
        numbers *= n_ranks
        numbers += ranks
        numbers, width = _dense(numbers, width * n_ranks, max_dense=max_dense)
    small = next((kind for kind in (np.uint16, np.uint32) if width <= np.iinfo(kind).max), np.int64)
    order = np.argsort(numbers.astype(small), kind="stable")  # 16-bit numbers are sorted by radix
    sizes = np.bincount(numbers, minlength=width) if len(numbers) else np.zeros(0, dtype=np.int64)
    if not cells.is_kept.all():
        order = order[cells.is_kept[order]]
        sizes = np.bincount(numbers[cells.is_kept], minlength=width)
        sizes = sizes[sizes > 0]
    return GroupedCells(cells, order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def write_cells(
    path: Path, grouped: GroupedCells, *, groups: tuple[int, int], block_rows: int = ROWS_PER_BLOCK
) -> None:
    """Write the cells of some consecutive groups, ``block_rows`` at a time."""
    low, high = int(grouped.first[groups[0]]), int(grouped.first[groups[1]])
    with pq.ParquetWriter(path, _schema(), **_PLAIN) as writer:
        for first in range(low, high, block_rows):
            writer.write_table(_block(grouped, grouped.order[first : min(first + block_rows, high)]))


def write_groups(path: Path, grouped: GroupedCells, *, groups: tuple[int, int]) -> None:
    """Write one row for each of some consecutive groups: shared labels, number and position of its cells."""
    first = grouped.first[groups[0] : groups[1] + 1]
    cells, members = grouped.cells, grouped.order[first[0] : first[-1]]
    sizes = np.diff(first)
    of_group = np.repeat(np.arange(len(sizes)), sizes)
    columns: dict[str, Any] = {name: _texts(cells, name, grouped.order[first[:-1]]) for name in GROUP_COLUMNS}
    columns[N_CELLS] = pa.array(sizes)
    columns[MEDIAN_COUNTS] = pa.array(_medians(cells.total_counts[members], of_group), from_pandas=True)
    columns[MEDIAN_GENES] = pa.array(_medians(cells.n_genes[members], of_group))
    columns[FIRST_ROW] = pa.array(first[:-1] - first[0])
    pq.write_table(pa.table(columns), path, **_PLAIN)


def rows_of(path: Path, spans: list[tuple[int, int]]) -> pa.Table:
    """Rows ``first:first + n`` of a part of cells.parquet, reading only the blocks that hold them."""
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        needed = sorted({number for span in spans for number in _blocks(span, starts)})
        table = file.read_row_groups(needed, columns=list(keys.CELL_COLUMNS))
        if keys.CONTROL_KIND not in table.column_names:  # an index of before this column
            table = table.append_column(keys.CONTROL_KIND, pa.array([""] * table.num_rows, pa.string()))
    before = np.concatenate([[0], np.cumsum([sizes[number] for number in needed])])
    place = {number: int(before[at]) for at, number in enumerate(needed)}
    cut = []
    for first, n_rows in spans:
        block = int(np.searchsorted(starts, first, side="right")) - 1
        cut.append(table.slice(place[block] + first - int(starts[block]), n_rows))
    return pa.concat_tables(cut) if cut else table.slice(0, 0)


def _blocks(span: tuple[int, int], starts: NDArray[Any]) -> Iterator[int]:
    first, n_rows = span
    low, high = np.searchsorted(starts, [first, first + n_rows - 1], side="right") - 1
    yield from range(int(low), int(high) + 1)


def _ranks(cells: CellColumns, name: str) -> tuple[NDArray[Any], int]:
    """A number per cell that sorts like the text, and the count of distinct numbers."""
    if name == keys.IS_CONTROL:
        return cells.is_control.astype(np.int64), 2
    labels = cells.text[name]
    place = np.argsort(np.argsort(np.array(labels.categories, dtype=str), kind="stable"), kind="stable")
    return place[labels.codes], max(1, len(place))


def _dense(numbers: NDArray[np.int64], limit: int, *, max_dense: int) -> tuple[NDArray[np.int64], int]:
    """Numbers without gaps in the same order, and how many they are."""
    if limit <= max_dense:
        present = np.zeros(limit, dtype=bool)
        present[numbers] = True
        return (np.cumsum(present, dtype=np.int32) - 1)[numbers].astype(np.int64), int(present.sum())
    distinct, dense = np.unique(numbers, return_inverse=True)
    return dense.astype(np.int64), len(distinct)


def _schema() -> pa.Schema:
    kinds = {
        keys.CELL_INDEX: pa.int64(),
        keys.IS_CONTROL: pa.bool_(),
        keys.N_GENES: pa.int32(),
        keys.TOTAL_COUNTS: pa.float64(),
    }
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([(name, kinds.get(name, text)) for name in keys.CELL_COLUMNS])


def _block(grouped: GroupedCells, rows: NDArray[np.int64]) -> pa.Table:
    cells = grouped.cells
    numbers: dict[str, Any] = {
        keys.CELL_INDEX: rows,
        keys.N_GENES: cells.n_genes[rows].astype(np.int32),
        keys.TOTAL_COUNTS: pa.array(cells.total_counts[rows], from_pandas=True),  # NaN becomes null
    }
    arrays = [pa.array(numbers[name]) if name in numbers else _texts(cells, name, rows) for name in keys.CELL_COLUMNS]
    return pa.table(arrays, schema=_schema())


def _texts(cells: CellColumns, name: str, rows: NDArray[np.int64]) -> pa.Array:
    """Texts of some rows with a dictionary of these texts only, so that the statistics of a block are its own."""
    if name == keys.IS_CONTROL:
        return pa.array(cells.is_control[rows])
    labels = cells.text[name]
    codes = labels.codes[rows]
    used = np.flatnonzero(np.bincount(codes, minlength=len(labels.categories)))
    place = np.zeros(len(labels.categories), dtype=np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    texts = pa.array([str(labels.categories[int(code)]) for code in used], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(place[codes]), texts)


def _medians(values: NDArray[Any], of_group: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = pd.Series(values).groupby(of_group, sort=True).median().to_numpy(dtype=np.float64)
    return found
