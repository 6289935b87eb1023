"""Reading the expression of chosen cells from the files an atlas was built from.

In: dataset records and row numbers. Out: raw counts in the gene space of the source, or the union of several.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from haystack_kernel.atlas.counts import Counts, read_rows
from haystack_kernel.atlas.h5ad import open_h5ad
from haystack_kernel.atlas.record import source_uri
from haystack_kernel.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from haystack_kernel.atlas.record import DatasetRecord


@dataclass(frozen=True)
class Part:
    """Raw counts of some cells of one dataset; ``columns`` are the matrix columns that stand for ``symbols``."""

    matrix: sp.csr_matrix
    symbols: tuple[str, ...]
    columns: NDArray[np.int64]


def load_genes(entry: DatasetRecord, folder: Path) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Symbols of a dataset and the columns of the source file they stand for.

    Raises
    ------
    ContractError
        The gene list is missing or is not the one of the record.
    """
    path = folder / entry.genes.path
    if not path.is_file() or path.stat().st_size != entry.genes.n_bytes:
        msg = f"gene list {path} is missing or changed; build the atlas again"
        raise ContractError(msg, path=str(path))
    stored = json.loads(path.read_text(encoding="utf-8"))
    symbols = tuple(stored["symbols"])
    columns = np.arange(len(symbols)) if stored["columns"] is None else np.asarray(stored["columns"])
    return symbols, columns.astype(np.int64)


def fetch_part(entry: DatasetRecord, folder: Path, rows: NDArray[np.int64]) -> Part:
    """Read ``rows`` of one dataset's source file, in that order."""
    source = entry.source
    var = "raw/var" if source.counts_in.startswith("raw/") else "var"
    place = Counts(source.counts_in, var, source.encoding, (source.n_cells, source.n_columns))
    symbols, columns = load_genes(entry, folder)
    with open_h5ad(source_uri(source, folder)) as h5:
        matrix = read_rows(h5, place, rows)
    return Part(matrix, symbols, columns)


def join_parts(parts: Sequence[Part]) -> tuple[sp.csr_matrix, list[str]]:
    """Stack parts over the union of their genes, in order of first appearance; a gene that a part lacks is 0.

    Returns
    -------
    float32 CSR with the rows of the parts one after the other, and the symbols of its columns.
    """
    symbols = list(dict.fromkeys(symbol for part in parts for symbol in part.symbols))
    place = {symbol: column for column, symbol in enumerate(symbols)}
    stacked = [_moved(part, place) for part in parts]
    matrix = sp.csr_matrix(sp.vstack(stacked, format="csr"), dtype=np.float32)
    matrix.sort_indices()
    return matrix, symbols


def _moved(part: Part, place: dict[str, int]) -> sp.csr_matrix:
    target = np.full(part.matrix.shape[1], -1, dtype=np.int64)
    target[part.columns] = [place[symbol] for symbol in part.symbols]
    matrix = part.matrix
    genes = target[matrix.indices]
    kept = genes >= 0
    lengths = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    parts = (matrix.data[kept], genes[kept], lengths)
    return sp.csr_matrix(parts, shape=(matrix.shape[0], len(place)), dtype=np.float32)
