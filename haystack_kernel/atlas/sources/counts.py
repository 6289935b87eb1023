"""Find the count matrix of an open source with its genes, and read it in blocks.

In: an open h5ad. Out: the place of the raw counts, genes and counts per cell. :mod:`inference.counts` decides which
matrix holds the counts; this module only gives it samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import scipy.sparse as sp

from haystack_kernel.atlas.sources.genes import input_errors, read_genes
from haystack_kernel.atlas.sources.stored import check_stored
from haystack_kernel.errors import InvalidInputError
from inference.counts import Place, choose_counts, fault_of_values, no_counts, sampled_runs
from inference.errors import InputError
from inference.genes import SYMBOL_COLUMNS
from inference.h5 import fault_of_storage, is_array, matrix_form, matrix_shape, native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from inference.genes import Genes

BLOCK_VALUES = 4_000_000  # about 50 MB of data and indices at a time


@dataclass(frozen=True, eq=False)
class Counts:
    """A matrix that holds raw counts; ``path`` is its place inside the file, ``var`` that of its genes."""

    path: str
    var: str
    encoding: str  # csr, csc or dense
    shape: tuple[int, int]
    genes: Genes
    notes: tuple[str, ...] = ()
    has_repeats: bool = False  # an entry is stored in several parts, which add up

    @property
    def is_partial(self) -> bool:
        """Whether the matrix has columns that are no genes."""
        return len(self.genes.columns) < self.shape[1]


def find_counts(
    h5: h5py.File, *, uri: str, symbols: Sequence[str] = SYMBOL_COLUMNS, organisms: Sequence[str] = ()
) -> Counts:
    """Choose the matrix with raw counts of most genes from X, raw/X and all layers.

    Parameters
    ----------
    symbols, organisms
        As for :func:`haystack_kernel.atlas.sources.genes.read_genes`.

    Raises
    ------
    InvalidInputError
        None of them holds raw counts: the message says what each holds and what to do. Or the genes cannot be used,
        or values are missing from the file.
    MissingKeyError
        The genes have no symbols.
    """
    genes = read_genes(h5, columns=symbols, uri=uri, organisms=organisms)
    samples: dict[str, sp.csr_matrix] = {}
    places = []
    for path, var in _places(h5):
        found = genes.get(var, InputError(f"{uri}: {path} has no {var}; write the file again with anndata"))
        columns = None if isinstance(found, InputError) else list(found.columns)
        fault = _fault_of_storage(h5[path])

        def sample(path: str = path, columns: list[int] | None = columns) -> sp.csr_matrix:
            rows = _sample(h5[path], uri=uri)
            samples[path] = rows if columns is None else rows[:, columns]
            return samples[path]

        places.append(Place(path, len(columns or ()), sample, fault))
    choice = choose_counts(places)
    if not choice.path:
        raise InvalidInputError(no_counts(uri, choice.faults), uri=uri, found=list(choice.faults))
    var = dict(_places(h5))[choice.path]
    chosen = genes[var]
    if isinstance(chosen, InputError):
        with input_errors(uri):
            raise chosen
    encoding, shape = matrix_form(h5[choice.path]), _shape(h5[choice.path])
    notes = (*choice.notes, *check_stored(h5[choice.path], choice.path, uri=uri))
    has_repeats = _has_repeats(samples[choice.path])
    if has_repeats:
        notes = (*notes, f"{choice.path} stores some entries in several parts, which are added up")
    return Counts(choice.path, var, encoding, shape, chosen, notes, has_repeats)


def cell_stats(
    h5: h5py.File, counts: Counts, *, tick: Callable[[float], None] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Count the detected genes and the total counts of each cell, and check every value.

    Parameters
    ----------
    tick
        Called with the fraction 0..1 read so far.

    Raises
    ------
    InvalidInputError
        A value that is negative, NaN or not whole.
    """
    n_genes = np.zeros(counts.shape[0], dtype=np.int32)
    totals = np.zeros(counts.shape[0], dtype=np.float64)
    for cells, values, fraction in value_blocks(h5[counts.path], counts):
        if fault := fault_of_values(values):
            msg = f"{counts.path} {fault}; raw counts are needed in every cell: write the file again without that"
            raise InvalidInputError(msg, place=counts.path)
        if cells.size:
            low, span = int(cells.min()), int(cells.max()) - int(cells.min()) + 1
            n_genes[low : low + span] += np.bincount(cells[values > 0] - low, minlength=span)
            totals[low : low + span] += np.bincount(cells - low, weights=values, minlength=span)
        if tick:
            tick(fraction)
    return n_genes, totals


def value_blocks(
    node: Any,  # noqa: ANN401 - h5py node
    counts: Counts,
    *,
    n_values: int = BLOCK_VALUES,
) -> Iterator[tuple[NDArray[Any], NDArray[Any], float]]:
    """Cell number and value of the entries of genes, about ``n_values`` at a time, and the fraction done."""
    kept = list(counts.genes.columns)
    if counts.encoding == "dense":
        step = max(1, n_values // max(1, counts.shape[1]))
        for first in range(0, counts.shape[0], step):
            block = node[first : first + step]
            block = block[:, kept] if counts.is_partial else block
            cells = np.repeat(np.arange(first, first + len(block)), block.shape[1])
            yield cells, block.ravel(), min(1.0, (first + step) / counts.shape[0])
        return
    indptr = native(node["indptr"][:])
    stored = int(indptr[-1])
    if counts.has_repeats:
        yield from _added_up(node, counts, indptr, n_values=n_values)
        return
    is_kept = np.zeros(counts.shape[1], dtype=bool)
    is_kept[kept] = True
    for first in range(0, stored, n_values):
        last = min(first + n_values, stored)
        begin, end = np.searchsorted(indptr, [first, last - 1], side="right") - 1
        bounds = np.clip(indptr[begin : end + 2], first, last)
        values, cells = node["data"][first:last], np.repeat(np.arange(begin, end + 1), np.diff(bounds))
        if counts.encoding == "csc":
            genes, cells = cells, node["indices"][first:last]
        elif counts.is_partial:
            genes = node["indices"][first:last]
        if counts.is_partial:
            cells, values = cells[is_kept[genes]], values[is_kept[genes]]
        yield cells, values, last / stored


def _added_up(
    node: Any,  # noqa: ANN401 - h5py node
    counts: Counts,
    indptr: NDArray[Any],
    *,
    n_values: int,
) -> Iterator[tuple[NDArray[Any], NDArray[Any], float]]:
    """As :func:`value_blocks`, with the parts of each entry added up: blocks end between rows (columns, if CSC)."""
    begin, n_major, n_minor = 0, len(indptr) - 1, counts.shape[1 if counts.encoding == "csr" else 0]
    while begin < n_major:
        end = max(begin + 1, int(np.searchsorted(indptr, indptr[begin] + n_values, side="right")) - 1)
        first, last = int(indptr[begin]), int(indptr[end])
        parts = (native(node["data"][first:last]), native(node["indices"][first:last]), indptr[begin : end + 1] - first)
        block = sp.csr_matrix(parts, shape=(end - begin, n_minor))
        block.sum_duplicates()
        major, minor = block.tocoo().coords
        cells, genes = (major + begin, minor) if counts.encoding == "csr" else (minor, major + begin)
        is_gene = np.isin(genes, counts.genes.columns)
        yield cells[is_gene], block.data[is_gene], end / n_major
        begin = end


def _places(h5: h5py.File) -> Iterator[tuple[str, str]]:
    """Path of each matrix of the file, and of its table of genes."""
    if "X" in h5 and not _is_null(h5["X"]):
        yield "X", "var"
    yield from ((f"layers/{name}", "var") for name in h5.get("layers", ()))
    if "raw" in h5 and "X" in h5["raw"]:
        yield "raw/X", "raw/var"
    elif "raw.X" in h5:  # anndata 0.6
        yield "raw.X", "raw.var"


def _is_null(node: Any) -> bool:  # noqa: ANN401 - h5py node
    return isinstance(node, h5py.Dataset) and node.shape is None


def _fault_of_storage(node: Any) -> str:  # noqa: ANN401 - h5py node
    """Why the matrix cannot be read as it is stored, or does not hold numbers; empty if neither."""
    return fault_of_storage(node) or fault_of_values(
        np.empty(0, dtype=(node if is_array(node) else node["data"]).dtype)
    )


def _shape(node: Any) -> tuple[int, int]:  # noqa: ANN401 - h5py node
    return matrix_shape(node) or (0, 0)


def _sample(node: Any, *, uri: str) -> sp.csr_matrix:  # noqa: ANN401 - h5py node
    """Rows from the start, the middle and the end of the matrix, of cells that have values where it is sparse."""
    encoding, shape = matrix_form(node), _shape(node)
    if encoding == "dense":
        runs = [sp.csr_matrix(native(node[first:last])) for first, last in sampled_runs(shape[0])]
        return sp.csr_matrix(sp.vstack(runs, format="csr")) if runs else sp.csr_matrix(shape)
    indptr = node["indptr"][:].astype(np.int64, copy=False)
    n_stored = int(node["data"].shape[0])
    if (indptr[1:] < indptr[:-1]).any() or indptr[0] < 0 or indptr[-1] > n_stored:
        msg = f"{uri} is damaged: its indptr points outside its {n_stored} values; copy the file again"
        raise InvalidInputError(msg, uri=uri)
    if encoding == "csc":
        return _sample_by_gene(node, indptr, shape)
    filled = np.flatnonzero(indptr[1:] > indptr[:-1])
    blocks = []
    for begin, end in sampled_runs(len(filled)):
        rows = filled[begin:end]
        first, last = int(indptr[rows[0]]), int(indptr[rows[-1] + 1])
        bounds = np.concatenate([indptr[rows], [last]]) - first
        parts = (native(node["data"][first:last]), native(node["indices"][first:last]), bounds)
        blocks.append(sp.csr_matrix(parts, shape=(len(rows), shape[1])))
    return sp.csr_matrix(sp.vstack(blocks, format="csr")) if blocks else sp.csr_matrix((0, shape[1]))


def _sample_by_gene(node: Any, indptr: NDArray[np.int64], shape: tuple[int, int]) -> sp.csr_matrix:  # noqa: ANN401
    """Sampled rows of a matrix stored by gene, which is read completely for them."""
    place = np.full(shape[0], -1, dtype=np.int64)
    wanted = np.concatenate([np.arange(first, last) for first, last in sampled_runs(shape[0])] or [np.arange(0)])
    place[wanted] = np.arange(len(wanted))
    found: list[tuple[NDArray[Any], ...]] = []
    for first in range(0, int(indptr[-1]), BLOCK_VALUES):
        last = min(first + BLOCK_VALUES, int(indptr[-1]))
        rows = place[node["indices"][first:last]]
        inside = np.flatnonzero(rows >= 0)
        genes = np.searchsorted(indptr, inside + first, side="right") - 1
        found.append((native(node["data"][first:last])[inside], rows[inside], genes))
    if not found:
        return sp.csr_matrix((len(wanted), shape[1]))
    values, rows, genes = (np.concatenate(part) for part in zip(*found, strict=True))
    bounds = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(wanted)))])
    order = np.argsort(rows, kind="stable")
    return sp.csr_matrix((values[order], genes[order], bounds), shape=(len(wanted), shape[1]))


def _has_repeats(rows: sp.csr_matrix) -> bool:
    added = rows.copy()
    added.sum_duplicates()
    return bool(added.nnz < rows.nnz)
