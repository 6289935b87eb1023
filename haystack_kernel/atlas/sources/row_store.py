"""Matrices stored by gene (CSC) are rewritten by cell on this disk, so that a fetch need not read them completely.

In: a matrix stored by gene. Out: the same as CSR from one file per source, the least recently used dropped first.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from haystack_kernel.atlas.sources.arrays import LocalArray
from haystack_kernel.atlas.sources.chunk_layout import read_layout
from haystack_kernel.atlas.sources.rows import Matrix, column_blocks
from haystack_kernel.errors import HaystackError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BUCKET_VALUES = 4_000_000  # entries sorted at a time, about 100 MB
_ENTRY = np.dtype([("cell", "<i8"), ("gene", "<i4"), ("value", "<f4")])
_STORED_BYTES = 8  # of an entry in the finished file


@dataclass(frozen=True)
class RowStore:
    """Rearranged matrices in ``folder``, together at most ``limit_bytes``; 0 keeps none."""

    folder: Path
    limit_bytes: int

    def by_row(self, matrix: Matrix, *, identity: str, tick: Callable[[float], None] | None = None) -> Matrix | None:
        """Return the matrix stored by cell, rearranging it if that was not done before.

        This takes three passes over the entries, in blocks, and temporarily 16 bytes of disk per entry besides the
        result. If two processes do it at the same time, one result is kept.

        Parameters
        ----------
        identity
            Digest of the source and place of the matrix; each version has its own file.
        tick
            Called with the fraction 0..1 done.

        Returns
        -------
        None if the result would exceed the limit or the free disk space; then read the matrix as it is stored.
        """
        n_stored = int(matrix.arrays["data"].shape[0])
        path = self.folder / f"rows-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.h5"
        if kept := _open(path, matrix):
            return kept
        if n_stored * _STORED_BYTES > self.limit_bytes:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".rearranging-") as name:
                _rearrange(matrix, Path(name), tick=tick)
                self._make_room(n_stored * _STORED_BYTES)
                (Path(name) / "rows.h5").replace(path)
        except HaystackError:  # about the source
            raise
        except OSError:  # about this folder: full, or not to be written
            return None
        return _open(path, matrix)

    def _make_room(self, n_bytes: int) -> None:
        """Drop the least recently used files, as far as the limit asks."""
        kept = []
        for path in self.folder.glob("rows-*.h5"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                kept.append((stat.st_mtime_ns, stat.st_size, path))
        surplus = sum(size for _, size, _ in kept) + n_bytes - self.limit_bytes
        for _, size, path in sorted(kept):
            if surplus <= 0:
                return
            path.unlink(missing_ok=True)
            surplus -= size


def _open(path: Path, matrix: Matrix) -> Matrix | None:
    """Return the finished file as a matrix, noting its use; a damaged one is dropped."""
    if not path.is_file():
        return None
    try:
        with h5py.File(path, "r") as h5:
            layouts = {name: read_layout(h5[name], uri=str(path)) for name in ("indptr", "indices", "data")}
            whole = tuple(h5.attrs["shape"]) == matrix.shape and h5["data"].shape == matrix.arrays["data"].shape
        now = time.time_ns()  # finer than the clock that stamps what is written
        os.utime(path, ns=(now, now))
    except (OSError, KeyError, RuntimeError):
        whole, layouts = False, {}
    if not whole:
        with suppress(OSError):
            path.unlink()
        return None
    arrays = {name: LocalArray(path, layout, name) for name, layout in layouts.items()}
    return Matrix("csr", matrix.shape, arrays, str(path))


def _rearrange(matrix: Matrix, folder: Path, *, tick: Callable[[float], None] | None) -> None:
    """Distribute the entries over files of neighbouring cells, then sort each file and append it to the result."""
    n_cells, n_stored = matrix.shape[0], int(matrix.arrays["data"].shape[0])
    n_buckets = max(1, min(n_cells, -(-n_stored // BUCKET_VALUES)))
    per_bucket = -(-n_cells // n_buckets) if n_cells else 1
    files = [folder / f"bucket-{number}" for number in range(n_buckets)]
    for path in files:
        path.touch()
    for cells, values, genes, done in column_blocks(matrix):
        entries = np.empty(len(cells), dtype=_ENTRY)
        entries["cell"], entries["gene"], entries["value"] = cells, genes, values
        bucket = entries["cell"] // per_bucket
        entries = entries[np.argsort(bucket, kind="stable")]
        ends = np.searchsorted(np.sort(bucket), np.arange(n_buckets), side="right")
        for number, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if last > first:
                with files[number].open("ab") as handle:
                    entries[first:last].tofile(handle)
        if tick:
            tick(0.8 * done)
    with ExitStack() as stack:
        h5 = stack.enter_context(h5py.File(folder / "rows.h5", "w"))
        h5.attrs["shape"] = matrix.shape
        indices = h5.create_dataset("indices", (n_stored,), dtype="<i4")
        data = h5.create_dataset("data", (n_stored,), dtype="<f4")
        lengths: list[NDArray[Any]] = []
        place = 0
        for number, path in enumerate(files):
            entries = np.fromfile(path, dtype=_ENTRY)
            path.unlink()
            first = number * per_bucket
            n_mine = max(0, min(per_bucket, n_cells - first))
            lengths.append(np.bincount(entries["cell"] - first, minlength=n_mine))
            entries = entries[np.argsort(entries["cell"], kind="stable")]  # genes ascend already
            indices[place : place + len(entries)] = entries["gene"]
            data[place : place + len(entries)] = entries["value"]
            place += len(entries)
            if tick:
                tick(0.8 + 0.2 * (number + 1) / n_buckets)
        h5["indptr"] = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype("<i8")
