"""Sort cells in the order of the index, and group equal cells: searches read the groups instead of the cells.

In: the labels of each kind of cells in one file, and the kind, genes and counts of each cell. Out: ``cells.parquet``
rows, written in blocks, and one row per group; texts stay codes until a block is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from haystack_kernel import keys
from haystack_kernel.atlas.labels import count_codes

if TYPE_CHECKING:
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
_MEDIAN_ROWS = 2_000_000
MAX_DENSE = 1 << 24  # codes up to here are renumbered in one pass instead of by sorting
_KINDS = {
    keys.CELL_INDEX: pa.int64(),
    keys.IS_CONTROL: pa.bool_(),
    keys.N_GENES: pa.int32(),
    keys.TOTAL_COUNTS: pa.float64(),
}
_PLAIN = {"compression": "zstd", "store_schema": False}  # texts read as plain strings everywhere


@dataclass(frozen=True)
class CellColumns:
    """Cells of one file; those of one kind share all their labels.

    ``text``, ``is_control`` and ``is_kept`` have an entry for each kind, the others for each cell in the order of the
    file. Cells of a kind that is not kept stay out of the index; ``total_counts`` is NaN where it was not read.
    """

    text: dict[str, pd.Categorical]
    is_control: NDArray[np.bool_]
    is_kept: NDArray[np.bool_]
    kind: NDArray[np.int32]
    n_genes: NDArray[np.int32]
    total_counts: NDArray[np.float64]


@dataclass(frozen=True)
class GroupedCells:
    """Cells with their order in the index; ``order[first[i]:first[i + 1]]`` are the cells of group i.

    ``member[i]`` is a kind of cells of group i, which has all labels that the cells of the group share.
    """

    cells: CellColumns
    order: NDArray[np.integer[Any]]
    first: NDArray[np.int64]
    member: NDArray[np.int64]

    def datasets(self) -> dict[str, tuple[int, int]]:
        """Dataset -> its first group and the group after its last."""
        labels = self.cells.text[keys.DATASET]
        codes = labels.codes[self.member]
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
    kept = np.flatnonzero(cells.is_kept)
    numbers = np.zeros(len(kept), dtype=np.int64)  # of the kinds that are kept
    width = 1 if len(kept) else 0
    for name in GROUP_COLUMNS:
        ranks, n_ranks = _ranks(cells, name)
        if n_ranks == 1:
            continue
        numbers *= n_ranks
        numbers += ranks[kept]
        numbers, width = _dense(numbers, width * n_ranks, max_dense=max_dense)
    of_kind = np.full(len(cells.is_kept), width, dtype=np.int32)  # what is not kept comes after all groups
    of_kind[kept] = numbers
    sizes = np.bincount(of_kind, weights=count_codes(cells.kind, len(of_kind)), minlength=width)[:width]
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    member = np.zeros(width, dtype=np.int64)
    member[numbers] = kept
    order = _counting_sort(of_kind, cells.kind, n_groups=width + 1)
    return GroupedCells(cells, order[: first[-1]], first, member)


def _counting_sort(of_kind: NDArray[np.int32], kind: NDArray[np.int32], *, n_groups: int) -> NDArray[np.integer[Any]]:
    """Rows by the group of their kind, then by their number: the transposition of a matrix with one entry a row."""
    n_rows = len(kind)
    rows = sp.csr_matrix((np.zeros(n_rows, np.int8), of_kind[kind], np.arange(n_rows + 1)), shape=(n_rows, n_groups))
    order: NDArray[np.integer[Any]] = rows.tocsc().indices
    return order


def write_cells(
    path: Path, grouped: GroupedCells, *, groups: tuple[int, int], block_rows: int = ROWS_PER_BLOCK
) -> None:
    """Write the cells of some consecutive groups, ``block_rows`` at a time."""
    low, high = int(grouped.first[groups[0]]), int(grouped.first[groups[1]])
    with pq.ParquetWriter(path, _schema(), **_PLAIN) as writer:
        for first in range(low, high, block_rows):
            last = min(first + block_rows, high)
            writer.write_table(_block(grouped, first, last))


def write_groups(path: Path, grouped: GroupedCells, *, groups: tuple[int, int]) -> None:
    """Write one row for each of some consecutive groups: shared labels, number and position of its cells."""
    low, high = groups
    first, cells = grouped.first[low : high + 1], grouped.cells
    columns: dict[str, Any] = {name: _texts(cells, name, grouped.member[low:high]) for name in GROUP_COLUMNS}
    columns[N_CELLS] = pa.array(np.diff(first))
    columns[MEDIAN_COUNTS] = pa.array(_medians(grouped, cells.total_counts, groups), from_pandas=True)
    columns[MEDIAN_GENES] = pa.array(_medians(grouped, cells.n_genes, groups))
    columns[FIRST_ROW] = pa.array(first[:-1] - first[0])
    pq.write_table(pa.table(columns), path, **_PLAIN)


def rows_of(path: Path, spans: list[tuple[int, int]]) -> pa.Table:
    """Rows ``first:first + n`` of a part of cells.parquet, reading only the blocks that hold them."""
    metadata = pq.read_metadata(path)
    texts = [name for name in metadata.schema.names if name not in _KINDS]
    with pq.ParquetFile(
        path, metadata=metadata, read_dictionary=texts
    ) as file:  # texts stay codes: many cells have the same few
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        firsts, lengths = np.array(spans, dtype=np.int64).reshape(-1, 2).T
        lows, highs = (np.searchsorted(starts, ends, side="right") - 1 for ends in (firsts, firsts + lengths - 1))
        blocks = [np.arange(low, high + 1) for low, high in {*zip(lows.tolist(), highs.tolist(), strict=True)}]
        needed = np.unique(np.concatenate([lows, *blocks]))
        table = file.read_row_groups(needed, columns=list(keys.CELL_COLUMNS))
        if keys.CONTROL_KIND not in table.column_names:  # an index of before this column
            table = table.append_column(keys.CONTROL_KIND, pa.array([""] * table.num_rows, pa.string()))
        table = table.unify_dictionaries()
    shift = np.zeros(len(sizes), dtype=np.int64)  # from the place in the part to the place in what was read
    read = np.array([sizes[number] for number in needed], dtype=np.int64)
    shift[needed] = np.cumsum(read) - read - starts[needed]
    begins = firsts + shift[lows]
    rows = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    taken = table.take(pa.array(rows))
    plain = [pa.field(name, _KINDS.get(name, pa.string())) for name in taken.column_names]
    return taken.cast(pa.schema(plain))


def _ranks(cells: CellColumns, name: str) -> tuple[NDArray[Any], int]:
    """A number per kind that sorts like the text, and the count of distinct numbers."""
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
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([(name, _KINDS.get(name, text)) for name in keys.CELL_COLUMNS])


def _block(grouped: GroupedCells, low: int, high: int) -> pa.Table:
    """The cells from place ``low`` to ``high`` of the order."""
    cells, rows = grouped.cells, grouped.order[low:high]
    numbers: dict[str, Any] = {
        keys.CELL_INDEX: rows.astype(np.int64),
        keys.N_GENES: cells.n_genes[rows],
        keys.TOTAL_COUNTS: pa.array(cells.total_counts[rows], from_pandas=True),  # NaN becomes null
    }
    kinds = cells.kind[rows]
    # what a group shares is looked up once for the group
    begin, end = np.searchsorted(grouped.first, [low, high - 1], side="right") - 1
    members = grouped.member[begin : end + 1]
    bounds = np.clip(grouped.first[begin : end + 2], low, high)
    sizes = bounds[1:] - bounds[:-1]
    arrays = []
    for name in keys.CELL_COLUMNS:
        if name in numbers:
            arrays.append(pa.array(numbers[name]))
        elif name in GROUP_COLUMNS:
            arrays.append(_texts(cells, name, members, sizes))
        else:
            arrays.append(_texts(cells, name, kinds))
    return pa.table(arrays, schema=_schema())


def _texts(
    cells: CellColumns, name: str, kinds: NDArray[np.integer[Any]], sizes: NDArray[np.int64] | None = None
) -> pa.Array:
    """Texts of some kinds, each repeated as often as ``sizes`` says.

    Their dictionary holds these texts only, so that the statistics of a block are its own.
    """
    if name == keys.IS_CONTROL:
        values = cells.is_control[kinds]
        return pa.array(values if sizes is None else np.repeat(values, sizes))
    labels = cells.text[name]
    codes = labels.codes[kinds]
    used = np.flatnonzero(np.bincount(codes, minlength=len(labels.categories)))
    place = np.zeros(len(labels.categories), dtype=np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    texts = pa.array([str(labels.categories[int(code)]) for code in used], pa.string())
    places = place[codes] if sizes is None else np.repeat(place[codes], sizes)
    return pa.DictionaryArray.from_arrays(pa.array(places), texts)


def _medians(grouped: GroupedCells, values: NDArray[Any], groups: tuple[int, int]) -> NDArray[np.float64]:
    """Median of each of some groups, worked out for as many groups at a time as hold about a block of cells."""
    first = grouped.first[groups[0] : groups[1] + 1]
    found = [np.empty(0, dtype=np.float64)]
    begin = 0
    while begin < len(first) - 1:
        end = max(begin + 1, int(np.searchsorted(first, first[begin] + _MEDIAN_ROWS, side="right")) - 1)
        of_group = np.repeat(np.arange(end - begin, dtype=np.int32), np.diff(first[begin : end + 1]))
        members = pd.Series(values[grouped.order[first[begin] : first[end]]])
        found.append(members.groupby(of_group, sort=True).median().to_numpy(dtype=np.float64))
        begin = end
    return np.concatenate(found)
