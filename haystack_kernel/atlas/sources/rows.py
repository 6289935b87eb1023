"""Read rows of a stored count matrix as CSR, however it is stored.

In: the arrays of a matrix and row numbers. Out: float32 CSR in the given order. Memory holds the requested rows
and a bounded number of chunks, never the whole matrix.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from haystack_kernel.atlas.sources.arrays import take, take_rows
from haystack_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from haystack_kernel.atlas.sources.arrays import Chunked
    from haystack_kernel.atlas.sources.remote import RemoteFile

BLOCK_VALUES = 4_000_000  # about 50 MB of data and indices at a time


@dataclass(frozen=True, eq=False)
class Matrix:
    """A count matrix as stored: ``indptr``, ``indices`` and ``data`` of a sparse one, ``values`` of a dense one.

    ``file`` is the object in a bucket that the arrays are read from, if it is one.
    """

    encoding: str  # csr, csc or dense
    shape: tuple[int, int]
    arrays: Mapping[str, Chunked]
    uri: str
    file: RemoteFile | None = None


def read_rows(matrix: Matrix, rows: NDArray[np.int64]) -> sp.csr_matrix:
    """Read rows of the matrix in the given order; rows may repeat, and there may be none.

    Returns
    -------
    float32 CSR, ``len(rows)`` x genes of the file, column indices sorted within each row, entries as stored. Of CSR
    and dense matrices only the chunks with these rows are read; a matrix stored by gene (CSC) is read completely.

    Raises
    ------
    InvalidInputError
        A row does not exist, or the parts of the matrix contradict each other.
    """
    wanted, place = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
    if wanted.size and (wanted[0] < 0 or wanted[-1] >= matrix.shape[0]):
        outside = wanted[0] if wanted[0] < 0 else wanted[-1]
        msg = f"row {int(outside)} is beyond the {matrix.shape[0]} rows of {matrix.uri}; build the atlas again"
        raise InvalidInputError(msg, uri=matrix.uri)
    if not wanted.size:
        return sp.csr_matrix((0, matrix.shape[1]), dtype=np.float32)
    read = {"csr": _from_csr, "csc": _from_csc, "dense": _from_dense}[matrix.encoding]
    found = read(matrix, wanted)
    if len(place) != len(wanted) or (place[1:] < place[:-1]).any():
        found = sp.csr_matrix(found[place])
    found.sort_indices()
    return found


def column_blocks(matrix: Matrix) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], float]]:
    """Entries of a matrix stored by gene, in stored order: cells, values, genes, and the fraction done."""
    bounds = _whole(matrix.arrays["indptr"]).astype(np.int64)
    n_stored = _check_bounds(matrix, bounds)
    for first in range(0, n_stored, BLOCK_VALUES):
        last = min(first + BLOCK_VALUES, n_stored)
        cells, values = _both(matrix, np.array([first]), np.array([last]))
        _check_inside(matrix, cells, matrix.shape[0])
        begin, end = np.searchsorted(bounds, [first, last - 1], side="right") - 1
        edges = np.clip(bounds[begin : end + 2], first, last)
        yield cells, values, np.repeat(np.arange(begin, end + 1), edges[1:] - edges[:-1]), last / n_stored


def _from_csr(matrix: Matrix, rows: NDArray[np.int64]) -> sp.csr_matrix:
    breaks = np.flatnonzero(np.diff(rows) > 1) + 1
    firsts = rows[np.concatenate([[0], breaks])]
    lasts = rows[np.concatenate([breaks - 1, [len(rows) - 1]])]
    told = take(matrix.arrays["indptr"], firsts, lasts + 2).astype(np.int64)
    run = np.repeat(np.arange(len(firsts)), lasts - firsts + 1)
    begins, ends = told[np.arange(len(rows)) + run], told[np.arange(len(rows)) + run + 1]
    _check_bounds(matrix, np.column_stack([begins, ends]).ravel())
    starts, stops = begins[np.concatenate([[0], breaks])], ends[np.concatenate([breaks - 1, [len(rows) - 1]])]
    genes, values = _both(matrix, starts, stops)
    _check_inside(matrix, genes, matrix.shape[1])
    indptr = np.concatenate([[0], np.cumsum(ends - begins)])
    return sp.csr_matrix((values.astype(np.float32), genes, indptr), shape=(len(rows), matrix.shape[1]))


def _from_dense(matrix: Matrix, rows: NDArray[np.int64]) -> sp.csr_matrix:
    values, width = matrix.arrays["values"], matrix.shape[1]
    per_block = max(1, BLOCK_VALUES // max(1, width))
    blocks = []
    for first in range(0, len(rows), per_block):
        part = rows[first : first + per_block]
        if len(values.shape) == 1:  # stored in one piece
            block = take(values, part * width, (part + 1) * width).reshape(len(part), width)
        else:
            block = take_rows(values, part)
        blocks.append(sp.csr_matrix(block.astype(np.float32)))
    return sp.csr_matrix(sp.vstack(blocks, format="csr"))


def _from_csc(matrix: Matrix, rows: NDArray[np.int64]) -> sp.csr_matrix:
    place = np.full(matrix.shape[0], -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    kept: list[tuple[NDArray[Any], ...]] = [(np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64))]
    for cells, values, genes, _ in column_blocks(matrix):
        mine = place[cells]
        inside = mine >= 0
        kept.append((values[inside].astype(np.float32), mine[inside], genes[inside]))
    values, mine, genes = (np.concatenate(part) for part in zip(*kept, strict=True))
    return sp.csr_matrix((values, (mine, genes)), shape=(len(rows), matrix.shape[1]))


def _both(matrix: Matrix, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same ranges of indices and data, read concurrently, so that a bucket is waited for once."""
    with ThreadPoolExecutor(2) as pool:
        indices = pool.submit(take, matrix.arrays["indices"], starts, stops)
        data = pool.submit(take, matrix.arrays["data"], starts, stops)
        return indices.result(), data.result()


def _whole(array: Chunked) -> NDArray[Any]:
    return take(array, np.array([0]), np.array([array.shape[0]]))


def _check_bounds(matrix: Matrix, bounds: NDArray[np.int64]) -> int:
    n_stored = int(matrix.arrays["data"].shape[0])
    if bounds.size and (bounds[0] < 0 or bounds.max() > n_stored or (np.diff(bounds) < 0).any()):
        msg = f"{matrix.uri} is damaged: its indptr points outside its {n_stored} values; copy the file again"
        raise InvalidInputError(msg, uri=matrix.uri)
    return int(bounds[-1]) if bounds.size else 0


def _check_inside(matrix: Matrix, numbers: NDArray[Any], n: int) -> None:
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) >= n):
        msg = f"{matrix.uri} is damaged: its indices reach outside {n}; copy the file again"
        raise InvalidInputError(msg, uri=matrix.uri)
