"""The count matrix inside an h5ad: where it is, whether it holds counts, and its rows, all in blocks.

In: an open h5ad. Out: the place of the raw counts, genes and counts per cell, the rows asked for as CSR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import scipy.sparse as sp

from haystack_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

COUNT_LAYERS = ("counts", "raw_counts")
N_SAMPLED_VALUES = 200_000
BLOCK_VALUES = 4_000_000  # about 50 MB of data and indices at a time
MAX_GAP = 16  # rows; reading over a small gap is cheaper than another read
MAX_RANGE = 4096  # rows of one read


@dataclass(frozen=True)
class Counts:
    """A matrix that holds raw counts; ``path`` and ``var`` are places inside the file."""

    path: str
    var: str
    encoding: str  # csr, csc or dense
    shape: tuple[int, int]


def find_counts(h5: h5py.File, *, uri: str) -> Counts:
    """Look for raw counts in X, then raw/X, then layers.

    Raises
    ------
    InvalidInputError
        No place holds non-negative whole numbers; the message says what each holds and what to do.
    """
    found: list[str] = []
    for path, var in _places(h5):
        encoding, shape = _layout(h5[path], path=path, uri=uri)
        fault = _fault(_sample(h5[path], encoding))
        if not fault:
            return Counts(path, var, encoding, shape)
        found.append(f"{path} {fault}")
    msg = (
        f"{uri} has no raw counts: {'; '.join(found) or 'X is absent'}. Put the unnormalised counts into X, raw/X or "
        "layers['counts'] and write the file again"
    )
    raise InvalidInputError(msg, uri=uri, found=found)


def cell_stats(
    h5: h5py.File, counts: Counts, *, tick: Callable[[float], None] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Genes with a count and total counts of each cell, checking every value on the way.

    Parameters
    ----------
    tick
        Called with the fraction 0..1 read so far.

    Raises
    ------
    InvalidInputError
        A value that is negative, NaN or not whole.
    """
    n_genes = np.zeros(counts.shape[0], dtype=np.int64)
    totals = np.zeros(counts.shape[0], dtype=np.float64)
    for cells, values, fraction in value_blocks(h5[counts.path], counts):
        if fault := _fault(values):
            msg = f"{counts.path} {fault}; raw counts are needed in every cell: write the file again without that"
            raise InvalidInputError(msg, place=counts.path)
        if cells.size:
            low, span = int(cells.min()), int(cells.max()) - int(cells.min()) + 1
            n_genes[low : low + span] += np.bincount(cells[values > 0] - low, minlength=span)
            totals[low : low + span] += np.bincount(cells - low, weights=values, minlength=span)
        if tick:
            tick(fraction)
    return n_genes, totals


def read_rows(h5: h5py.File, counts: Counts, rows: NDArray[np.int64]) -> sp.csr_matrix:
    """Rows of the count matrix in the order asked for (repeats allowed), read from neighbouring ranges only.

    Returns
    -------
    float32 CSR, ``len(rows)`` x genes of the file, column indices sorted within each row. CSR and dense files are
    read around the rows; a CSC file is read whole, block by block.
    """
    wanted, place = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
    if wanted.size and (wanted[0] < 0 or wanted[-1] >= counts.shape[0]):
        msg = f"row {int(wanted[-1])} asked of {counts.path}, which has {counts.shape[0]}; rebuild the atlas"
        raise InvalidInputError(msg)
    if counts.encoding == "csc":
        found = _rows_of_csc(h5[counts.path], counts, wanted)
    else:
        read = _range_of_csr if counts.encoding == "csr" else _range_of_dense
        parts = [read(h5[counts.path], counts, first, last)[mine - first] for first, last, mine in _ranges(wanted)] or [
            sp.csr_matrix((0, counts.shape[1]), dtype=np.float32)
        ]
        found = sp.csr_matrix(sp.vstack(parts, format="csr"))
    ordered = sp.csr_matrix(found[place], dtype=np.float32)
    ordered.sort_indices()
    return ordered


def value_blocks(
    node: Any,  # noqa: ANN401 - h5py node
    counts: Counts,
    *,
    n_values: int = BLOCK_VALUES,
) -> Iterator[tuple[NDArray[Any], NDArray[Any], float]]:
    """Cell number and value of the stored entries, about ``n_values`` at a time, and the fraction done."""
    if counts.encoding == "dense":
        step = max(1, n_values // max(1, counts.shape[1]))
        for first in range(0, counts.shape[0], step):
            block = node[first : first + step]
            cells = np.repeat(np.arange(first, first + len(block)), block.shape[1])
            yield cells, block.ravel(), min(1.0, (first + step) / counts.shape[0])
        return
    indptr = node["indptr"][:]
    stored = int(indptr[-1])
    for first in range(0, stored, n_values):
        last = min(first + n_values, stored)
        if counts.encoding == "csc":
            cells = node["indices"][first:last]
        else:
            begin, end = np.searchsorted(indptr, [first, last - 1], side="right") - 1
            bounds = np.clip(indptr[begin : end + 2], first, last)
            cells = np.repeat(np.arange(begin, end + 1), np.diff(bounds))
        yield cells, node["data"][first:last], last / stored


def _places(h5: h5py.File) -> Iterator[tuple[str, str]]:
    if "X" in h5 and not _is_null(h5["X"]):
        yield "X", "var"
    if "raw" in h5 and "X" in h5["raw"]:
        yield "raw/X", "raw/var"
    yield from ((f"layers/{name}", "var") for name in COUNT_LAYERS if f"layers/{name}" in h5)


def _is_null(node: Any) -> bool:  # noqa: ANN401 - h5py node
    return isinstance(node, h5py.Dataset) and node.shape is None


def _layout(node: Any, *, path: str, uri: str) -> tuple[str, tuple[int, int]]:  # noqa: ANN401 - h5py node
    if isinstance(node, h5py.Dataset) and node.ndim == 2:
        return "dense", (int(node.shape[0]), int(node.shape[1]))
    kind = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
    shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
    if kind[:3] not in {"csr", "csc"} or shape is None:
        msg = (
            f"{uri}: {path} is stored as {kind or 'an unknown form'}; possible: csr, csc, dense. Write it with anndata"
        )
        raise InvalidInputError(msg, uri=uri)
    return kind[:3], (int(shape[0]), int(shape[1]))


def _sample(node: Any, encoding: str) -> NDArray[Any]:  # noqa: ANN401 - h5py node
    """Values from the start, the middle and the end of the matrix."""
    source = node if encoding == "dense" else node["data"]
    per_row = max(1, source.shape[1]) if encoding == "dense" else 1
    take = max(1, N_SAMPLED_VALUES // (3 * per_row))
    starts = sorted({0, max(0, source.shape[0] // 2 - take // 2), max(0, source.shape[0] - take)})
    return np.concatenate([np.ravel(source[start : start + take]) for start in starts])


def _fault(values: NDArray[Any]) -> str:
    """Why these values cannot be counts; empty when they can."""
    if not values.size:
        return ""
    if values.dtype.kind not in "fiub":
        return f"holds {values.dtype} values, not numbers"
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return "holds NaN or infinite values"
    if float(values.min()) < 0:
        return f"holds negative values (down to {float(values.min()):g}), so it is scaled, not counts"
    if values.dtype.kind == "f" and (odd := values[values != np.rint(values)]).size:
        return f"holds fractions such as {float(odd[0]):.4g}, so it is normalised or log-transformed, not counts"
    return ""


def _ranges(wanted: NDArray[np.int64]) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Neighbouring rows as (first, last exclusive, the rows wanted in between)."""
    begin = 0
    for place in range(1, len(wanted) + 1):
        ends = place == len(wanted)
        if ends or wanted[place] - wanted[place - 1] > MAX_GAP or wanted[place] - wanted[begin] >= MAX_RANGE:
            yield int(wanted[begin]), int(wanted[place - 1]) + 1, wanted[begin:place]
            begin = place


def _range_of_csr(node: Any, counts: Counts, first: int, last: int) -> sp.csr_matrix:  # noqa: ANN401 - h5py node
    indptr = node["indptr"][first : last + 1].astype(np.int64)
    values = slice(int(indptr[0]), int(indptr[-1]))
    parts = (node["data"][values].astype(np.float32), node["indices"][values], indptr - indptr[0])
    return sp.csr_matrix(parts, shape=(last - first, counts.shape[1]))


def _range_of_dense(node: Any, counts: Counts, first: int, last: int) -> sp.csr_matrix:  # noqa: ANN401 - h5py node
    step = max(1, BLOCK_VALUES // max(1, counts.shape[1]))
    blocks = [
        sp.csr_matrix(node[start : min(start + step, last)].astype(np.float32)) for start in range(first, last, step)
    ]
    return sp.csr_matrix(sp.vstack(blocks, format="csr"))


def _rows_of_csc(node: Any, counts: Counts, wanted: NDArray[np.int64]) -> sp.csr_matrix:  # noqa: ANN401 - h5py node
    place = np.full(counts.shape[0], -1, dtype=np.int64)
    place[wanted] = np.arange(len(wanted))
    indptr = node["indptr"][:].astype(np.int64)
    kept: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for first in range(0, int(indptr[-1]), BLOCK_VALUES):
        last = min(first + BLOCK_VALUES, int(indptr[-1]))
        rows = place[node["indices"][first:last]]
        inside = np.flatnonzero(rows >= 0)
        columns = np.searchsorted(indptr, inside + first, side="right") - 1
        kept.append((node["data"][first:last][inside], rows[inside], columns))
    shape = (len(wanted), counts.shape[1])
    if not kept:
        return sp.csr_matrix(shape, dtype=np.float32)
    values, places, genes = (np.concatenate(part) for part in zip(*kept, strict=True))
    return sp.csr_matrix((values.astype(np.float32), (places, genes)), shape=shape)
