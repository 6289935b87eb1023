"""Find the count matrix of an h5ad, check that it holds counts, and read it in blocks.

In: an open h5ad. Out: the place of the raw counts, genes and counts per cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from haystack_kernel.atlas.sources.h5ad import is_array
from haystack_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

COUNT_LAYERS = ("counts", "raw_counts")
N_SAMPLED_VALUES = 200_000
MIN_GENES_WITH_ZEROS = 1_000  # a cell detects a fraction of so many
BLOCK_VALUES = 4_000_000  # about 50 MB of data and indices at a time


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
        None of them holds non-negative whole numbers; the message says what each holds and what to do.
    """
    found: list[str] = []
    for path, var in _places(h5):
        encoding, shape = _layout(h5[path], path=path, uri=uri)
        fault = _fault(_sample(h5[path], encoding)) or _fault_of_full(h5[path], encoding, shape)
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
    if is_array(node) and node.ndim == 2:
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


def _fault_of_full(node: Any, encoding: str, shape: tuple[int, int]) -> str:  # noqa: ANN401 - h5py node
    """Why a matrix without zeros cannot be counts of single cells; ranks, for example, are whole numbers too."""
    if shape[1] < MIN_GENES_WITH_ZEROS:
        return ""
    n_zero = (
        (_sample(node, encoding) == 0).sum() if encoding == "dense" else shape[0] * shape[1] - node["data"].shape[0]
    )
    return "" if n_zero else f"holds no zero among {shape[1]:,} genes, so it is ranks, scores or bulk, not single cells"


def _fault(values: NDArray[Any]) -> str:
    """Why these values cannot be counts; empty if they can."""
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
