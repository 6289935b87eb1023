"""Read the expression of selected cells from the source files of an atlas.

In: dataset records and row numbers. Out: raw counts in the gene space of the source, or the union of several.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from haystack_kernel import keys
from haystack_kernel.atlas.record import source_uri
from haystack_kernel.atlas.sources.h5ad import fingerprint
from haystack_kernel.atlas.sources.matrix import open_matrix
from haystack_kernel.atlas.sources.rows import read_rows
from haystack_kernel.errors import ContractError, InvalidInputError
from haystack_kernel.ports import ProgressEvent
from inference.genes import gene_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.atlas.record import DatasetRecord, SourceFile
    from haystack_kernel.atlas.sources.chunk_cache import ChunkCache
    from haystack_kernel.atlas.sources.row_store import RowStore
    from haystack_kernel.atlas.sources.rows import Matrix
    from haystack_kernel.ports import Progress

_VERIFIED: set[tuple[str, int, float, str]] = set()  # local sources whose bytes were compared in this process
_MAX_SHOWN = 3


@dataclass(frozen=True)
class Part:
    """Raw counts of some cells of one dataset; ``columns`` are the matrix columns of ``symbols``."""

    matrix: sp.csr_matrix
    symbols: tuple[str, ...]
    columns: NDArray[np.int64]


@dataclass(frozen=True)
class CellReader:
    """Reads rows of source files, using what this disk keeps of them.

    Parameters
    ----------
    cache
        Keeps chunks of sources that are in a bucket; None keeps none.
    row_store
        Keeps matrices stored by gene, rearranged by cell; None reads such a source completely on every fetch.
    progress
        Receives events of a rearrangement, which may take minutes.
    """

    cache: ChunkCache | None = None
    row_store: RowStore | None = None
    progress: Progress | None = None

    def fetch_part(self, entry: DatasetRecord, folder: Path, cells: pd.DataFrame) -> Part:
        """Read the counts of ``cells``, rows of one dataset, in their order.

        The source must be unchanged since it was indexed. Where ``cells`` has ``n_genes`` and ``total_counts``, the
        counts that were read are compared with them.

        Raises
        ------
        NotFoundError
            The source does not exist any more.
        InvalidInputError
            The source changed since the atlas was built, is truncated or damaged.
        StorageError, ServiceError
            The source may not be read, or its storage service fails.
        ContractError
            The gene list of the atlas is missing or changed.
        """
        source, uri = entry.source, source_uri(entry.source, folder)
        symbols, columns = load_genes(entry, folder)
        check_unchanged(source, uri)
        matrix = self._open(source, uri, folder)
        rows = cells[keys.CELL_INDEX].to_numpy(dtype=np.int64)
        counts = read_rows(matrix, rows)
        if "://" in uri and (matrix.file is None or matrix.file.n_requests):
            check_unchanged(source, uri)  # it may have been replaced between two of the requests
        _check_sums(counts, cells, columns=columns, uri=uri)
        counts.sum_duplicates()  # an entry may be stored in parts
        return Part(counts, symbols, columns)

    def _open(self, source: SourceFile, uri: str, folder: Path) -> Matrix:
        matrix = open_matrix(
            uri,
            source.counts_in,
            encoding=source.encoding,
            shape=(source.n_cells, source.n_columns),
            identity=source.digest,
            n_bytes=source.n_bytes,
            folder=folder,
            cache=self.cache,
        )
        if matrix.encoding != "csc" or self.row_store is None:
            return matrix
        identity = f"{source.digest}|{source.counts_in}"
        return self.row_store.by_row(matrix, identity=identity, tick=lambda part: self._tell(uri, part)) or matrix

    def _tell(self, uri: str, fraction: float) -> None:
        if self.progress is not None:
            message = f"rearranging {Path(uri).name}, which is stored by gene, by cell (once)"
            self.progress(ProgressEvent(run_id="atlas", phase="atlas", message=message, fraction=fraction))


def load_genes(entry: DatasetRecord, folder: Path) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Gene symbols of a dataset, and their columns in the source file.

    Raises
    ------
    ContractError
        The gene list is missing or differs from the record.
    """
    path = folder / entry.genes.path
    if not path.is_file() or path.stat().st_size != entry.genes.n_bytes:
        msg = f"gene list {path} is missing or changed; build the atlas again"
        raise ContractError(msg, path=str(path))
    stored = json.loads(path.read_text(encoding="utf-8"))
    symbols = tuple(stored["symbols"])
    columns = np.arange(len(symbols)) if stored["columns"] is None else np.asarray(stored["columns"])
    return symbols, columns.astype(np.int64)


def check_unchanged(source: SourceFile, uri: str) -> None:
    """Compare a source with the indexed one: size and time, bytes if only the time differs; in a bucket its version.

    Raises
    ------
    NotFoundError, StorageError, ServiceError
        The source does not exist or cannot be read.
    InvalidInputError
        The source is a different file now.
    """
    now = fingerprint(uri, with_digest="://" in uri)
    found = f"{now.n_bytes} bytes, {source.n_bytes} when it was indexed"
    if now.n_bytes == source.n_bytes:
        if "://" in uri:
            if now.digest == source.digest:
                return
            found = "it is another version of the object"
        elif now.mtime == source.mtime:
            return
        else:
            seen = (uri, now.n_bytes, now.mtime, source.digest)
            if seen in _VERIFIED or fingerprint(uri).digest == source.digest:
                _VERIFIED.add(seen)
                return
            found = "its bytes differ"
    msg = (
        f"{uri} changed since the atlas was built ({found}); restore it, or build the atlas again, because rows of the "
        "index would name other cells"
    )
    raise InvalidInputError(msg, path=uri)


def _check_sums(counts: sp.csr_matrix, cells: pd.DataFrame, *, columns: NDArray[np.int64], uri: str) -> None:
    """Compare the numbers of genes and of counts of each row with those in the index, where it has them.

    An index of an earlier version counted columns that are no genes, stored zeros, and each part of an entry.
    """
    if not {keys.N_GENES, keys.TOTAL_COUNTS} <= set(cells.columns):
        return
    told, n_told = cells[keys.TOTAL_COUNTS].to_numpy(dtype=np.float64), cells[keys.N_GENES].to_numpy(dtype=np.int64)

    def agrees(part: sp.csr_matrix) -> NDArray[np.bool_]:
        sums = np.concatenate([[0.0], np.cumsum(part.data, dtype=np.float64)])[part.indptr]
        above = np.concatenate([[0], np.cumsum(part.data > 0)])[part.indptr]
        same_n = (np.diff(above) == n_told) | (np.diff(part.indptr) == n_told)
        return np.asarray(same_n & (np.isnan(told) | np.isclose(np.diff(sums), told, rtol=1e-6)))

    same = agrees(counts)
    if not same.all():
        genes = counts if len(columns) == counts.shape[1] else counts[:, columns]
        genes = genes.copy()
        genes.sum_duplicates()
        same |= agrees(genes)
    if not same.all():
        rows = cells[keys.CELL_INDEX].to_numpy()[~same][:_MAX_SHOWN]
        msg = (
            f"{uri}: {int((~same).sum())} of {len(same)} cells do not have the counts that the index recorded (rows "
            f"{', '.join(map(str, rows))}): the file changed or is damaged; restore it, or build the atlas again"
        )
        raise InvalidInputError(msg, path=uri)


def join_parts(parts: Sequence[Part]) -> tuple[sp.csr_matrix, list[str]]:
    """Stack parts over the union of their genes, in order of first appearance; a gene that a part lacks is 0.

    Names that differ only in case are one gene, called as where it appears first.

    Returns
    -------
    float32 CSR with the rows of the parts one after the other, and the symbols of its columns.
    """
    keyed = [_keys(part.symbols) for part in parts]
    names: dict[str, str] = {}
    for part, own in zip(parts, keyed, strict=True):
        for key, symbol in zip(own, part.symbols, strict=True):
            names.setdefault(key, symbol)
    place = {key: column for column, key in enumerate(names)}
    stacked = [_moved(part, own, place) for part, own in zip(parts, keyed, strict=True)]
    matrix = sp.csr_matrix(sp.vstack(stacked, format="csr"), dtype=np.float32)
    matrix.sort_indices()
    return matrix, list(names.values())


def _keys(symbols: Sequence[str]) -> list[str]:
    """What the genes of a part are compared by: without regard to case, unless two differ only in it."""
    seen: set[str] = set()
    found = []
    for symbol in symbols:
        key = gene_key(symbol)
        found.append(symbol if key in seen else key)
        seen.add(key)
    return found


def _moved(part: Part, own: Sequence[str], place: dict[str, int]) -> sp.csr_matrix:
    target = np.full(part.matrix.shape[1], -1, dtype=np.int64)
    target[part.columns] = [place[key] for key in own]
    matrix = part.matrix
    genes = target[matrix.indices]
    kept = genes >= 0
    lengths = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    parts = (matrix.data[kept], genes[kept], lengths)
    return sp.csr_matrix(parts, shape=(matrix.shape[0], len(place)), dtype=np.float32)
