"""Arrays of a stored count matrix, read by the chunks that are needed: from a file on this disk or in a bucket.

In: a layout. Out: ranges and rows; beyond those, memory holds one chunk per thread, and for a bucket one batch of them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from haystack_kernel.atlas.sources.decode import DecodeError, decode
from haystack_kernel.errors import InvalidInputError, NotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from haystack_kernel.atlas.sources.chunk_cache import ChunkCache
    from haystack_kernel.atlas.sources.chunk_layout import Layout
    from haystack_kernel.atlas.sources.remote import RemoteFile

BATCH_BYTES = 1 << 26  # of chunks from a bucket, decoded, at a time
_GAP_BYTES = 1 << 15  # values of one chunk that are further apart are read apart, where that can be done
N_THREADS = min(4, os.cpu_count() or 1)  # for decompressing


class Piece(NamedTuple):
    """Values ``first`` to ``last`` (exclusive), counted within chunk ``number``, are needed."""

    number: int
    first: int
    last: int


class Chunked(Protocol):
    """An array in chunks; ``visit`` calls ``use`` once per piece, from several threads."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        ...

    @property
    def chunks(self) -> tuple[int, ...]:
        """Length of a chunk in each dimension."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values as stored."""
        ...

    def visit(self, pieces: Sequence[Piece], use: Callable[[int, int, NDArray[Any]], None]) -> None:
        """Read the pieces; ``use`` gets the chunk number, the place of the first value in the chunk, and the values."""
        ...


def take(array: Chunked, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[Any]:
    """Read the values of ascending ranges that do not overlap; each chunk is read once.

    ``array`` has one dimension; the ranges lie inside it.
    """
    filled = stops > starts
    starts, stops = starts[filled], stops[filled]
    ends = np.cumsum(stops - starts)
    out = np.empty(int(ends[-1]) if len(ends) else 0, dtype=array.dtype.newbyteorder("="))
    step = array.chunks[0] if array.chunks else 1
    shift = ends - stops  # from place in the array to place in the result

    def copy(number: int, first: int, values: NDArray[Any]) -> None:
        low = number * step + first
        begin = int(np.searchsorted(stops, low, side="right"))
        end = int(np.searchsorted(starts, low + len(values), side="left"))
        for one in range(begin, end):
            a, b = max(int(starts[one]), low), min(int(stops[one]), low + len(values))
            out[a + int(shift[one]) : b + int(shift[one])] = values[a - low : b - low]

    visit_ranges(array, starts, stops, copy)
    return out


def visit_ranges(
    array: Chunked,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    use: Callable[[int, int, NDArray[Any]], None],
) -> None:
    """Visit what ascending ranges of an array of one dimension touch; on this disk, nothing that lies far between."""
    gap = _GAP_BYTES // array.dtype.itemsize if isinstance(array, LocalArray) and array.is_plain else 0
    array.visit(_pieces(starts, stops, array.chunks[0] if array.chunks else 1, gap=gap), use)


def take_rows(array: Chunked, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows (ascending, unique) of an array of two dimensions, each chunk read once."""
    height, width = array.chunks
    n_across = -(-array.shape[1] // width)
    out = np.empty((len(rows), array.shape[1]), dtype=array.dtype.newbyteorder("="))

    def copy(number: int, first: int, values: NDArray[Any]) -> None:
        down, across = divmod(number, n_across)
        begin, end = np.searchsorted(rows, [down * height, (down + 1) * height])
        block = values.reshape(height, width)[rows[begin:end] - down * height]
        left = across * width
        out[begin:end, left : left + width] = block[:, : array.shape[1] - left]

    numbers = [down * n_across + across for down in np.unique(rows // height) for across in range(n_across)]
    array.visit([Piece(int(number), 0, height * width) for number in numbers], copy)
    return out


def _pieces(starts: NDArray[np.int64], stops: NDArray[np.int64], step: int, *, gap: int = 0) -> list[Piece]:
    """For each chunk that a range touches, the span from the first to the last value needed.

    Where ``gap`` is given, ranges of one chunk that are further apart are spans of their own.
    """
    pieces: list[Piece] = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        for number in range(start // step, (stop - 1) // step + 1):
            first, last = max(start - number * step, 0), min(stop - number * step, step)
            before = pieces[-1] if pieces else None
            if before is not None and before.number == number and not (gap and first - before.last > gap):
                pieces[-1] = Piece(number, before.first, last)
            else:
                pieces.append(Piece(number, first, last))
    return pieces


@dataclass(frozen=True, eq=False)
class LocalArray:
    """An HDF5 array in a file on this disk, read beside the HDF5 library, several chunks at a time."""

    path: Path
    layout: Layout
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return self.layout.shape

    @property
    def chunks(self) -> tuple[int, ...]:
        """Length of a chunk in each dimension."""
        return self.layout.chunks

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values as stored."""
        return self.layout.dtype

    @property
    def is_plain(self) -> bool:
        """Whether values can be read without the rest of their chunk."""
        return not self.layout.filters and len(self.layout.shape) == 1

    def visit(self, pieces: Sequence[Piece], use: Callable[[int, int, NDArray[Any]], None]) -> None:
        """Read the pieces; see :class:`Chunked`.

        Raises
        ------
        InvalidInputError
            The file is truncated, or a chunk is damaged.
        NotFoundError, StorageError
            The file does not exist or may not be read.
        """
        with _opened(self.path) as handle:

            def work(part: Sequence[Piece]) -> None:
                for piece in part:
                    first, values = self._read(handle.fileno(), piece)
                    use(piece.number, first, values)

            _in_threads(work, pieces)

    def _read(self, handle: int, piece: Piece) -> tuple[int, NDArray[Any]]:
        layout, number = self.layout, piece.number
        offset, size, itemsize = int(layout.offsets[number]), int(layout.sizes[number]), layout.dtype.itemsize
        if not size:
            return piece.first, np.full(piece.last - piece.first, layout.fill, dtype=layout.dtype)
        if self.is_plain:  # only what is needed
            offset, size = offset + piece.first * itemsize, (piece.last - piece.first) * itemsize
        raw = os.pread(handle, size, offset)
        if len(raw) < size:
            msg = (
                f"{self.path} is truncated: {self.name} continues to byte {offset + size}, the file ends earlier; copy "
                "it again"
            )
            raise InvalidInputError(msg, uri=str(self.path))
        if self.is_plain:
            return piece.first, np.frombuffer(raw, dtype=layout.dtype)
        return 0, _decoded(raw, layout, number=number, where=f"{self.path}: {self.name}")


@dataclass(frozen=True, eq=False)
class RemoteArray:
    """An HDF5 array in a file in a bucket: all chunks of a batch are fetched concurrently, and kept in the cache.

    ``identity`` names the file and its version in the cache.
    """

    file: RemoteFile
    layout: Layout
    name: str
    identity: str
    cache: ChunkCache | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return self.layout.shape

    @property
    def chunks(self) -> tuple[int, ...]:
        """Length of a chunk in each dimension."""
        return self.layout.chunks

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values as stored."""
        return self.layout.dtype

    def visit(self, pieces: Sequence[Piece], use: Callable[[int, int, NDArray[Any]], None]) -> None:
        """Read the pieces; see :class:`Chunked`. A chunk is kept only once it was decoded.

        Raises
        ------
        InvalidInputError
            A chunk is damaged.
        NotFoundError, StorageError, ServiceError
            The object does not exist, may not be read, or the service fails.
        """
        layout = self.layout
        for piece in pieces:
            if not layout.sizes[piece.number]:
                blank = np.full(int(np.prod(layout.chunks)), layout.fill, dtype=layout.dtype)
                use(piece.number, 0, blank)
        stored = [piece.number for piece in pieces if layout.sizes[piece.number]]
        per_batch = max(1, BATCH_BYTES // max(1, int(np.prod(layout.chunks)) * layout.dtype.itemsize))
        for first in range(0, len(stored), per_batch):
            self._visit_batch(stored[first : first + per_batch], use)

    def _visit_batch(self, numbers: list[int], use: Callable[[int, int, NDArray[Any]], None]) -> None:
        keys = {number: f"{self.identity}/{self.name}/{number}" for number in numbers}
        held = self.cache.get(keys.values()) if self.cache else {}
        found = {number: held[key] for number, key in keys.items() if key in held}
        absent = [number for number in numbers if number not in found]
        offsets, sizes = self.layout.offsets[absent].tolist(), self.layout.sizes[absent].tolist()
        found |= dict(zip(absent, self.file.read_many(offsets, sizes), strict=True))

        def work(part: Sequence[int]) -> None:
            for number in part:
                use(
                    number,
                    0,
                    _decoded(found[number], self.layout, number=number, where=f"{self.file.uri}: {self.name}"),
                )

        _in_threads(work, numbers)
        if self.cache and absent:
            self.cache.put({keys[number]: found[number] for number in absent})


def _opened(path: Path) -> Any:  # noqa: ANN401 - a binary file
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        msg = f"{path} does not exist any more; put it back, or build the atlas again from its new path"
        raise NotFoundError(msg, uri=str(path)) from error
    except PermissionError as error:
        msg = f"{path} may not be read by this user; change its permissions"
        raise StorageError(msg, uri=str(path)) from error


def _decoded(raw: bytes, layout: Layout, *, number: int, where: str) -> NDArray[Any]:
    try:
        return decode(raw, layout, mask=int(layout.masks[number]))
    except DecodeError as error:
        msg = f"{where}: chunk {number} is damaged ({error}); copy the file again"
        raise InvalidInputError(msg, chunk=number) from error


def _in_threads(work: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Process ``items`` in threads, unless they are few."""
    if len(items) < 4 or N_THREADS == 1:
        work(items)
        return
    n_parts = min(len(items), N_THREADS * 8)
    with ThreadPoolExecutor(N_THREADS) as pool:
        for done in [pool.submit(work, items[start::n_parts]) for start in range(n_parts)]:
            done.result()
