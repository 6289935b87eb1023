"""Read arrays of a Zarr store, on this disk or in a bucket, by the chunks that are needed.

In: an open Zarr array. Out: its chunks, as :class:`haystack_kernel.atlas.sources.arrays.Chunked` asks for them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel.atlas.sources.arrays import BATCH_BYTES
from haystack_kernel.atlas.sources.remote import remote_errors
from haystack_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from haystack_kernel.atlas.sources.arrays import Piece
    from haystack_kernel.atlas.sources.chunk_cache import ChunkCache

N_CONCURRENT = 16  # reads at a time


@dataclass(frozen=True, eq=False)
class ZarrArray:
    """An array of a Zarr store; chunks from a bucket are kept decoded in the cache."""

    array: Any
    uri: str
    name: str
    identity: str = ""
    cache: ChunkCache | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return tuple(self.array.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Length of a chunk in each dimension."""
        return tuple(self.array.chunks)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values as stored."""
        return np.dtype(self.array.dtype)

    def visit(self, pieces: Sequence[Piece], use: Callable[[int, int, NDArray[Any]], None]) -> None:
        """Read the pieces; see :class:`Chunked`.

        Raises
        ------
        InvalidInputError
            A chunk is damaged.
        NotFoundError, StorageError, ServiceError
            The store does not exist, may not be read, or the service fails.
        """
        whole = int(np.prod(self.chunks))
        per_batch = max(1, BATCH_BYTES // max(1, whole * self.dtype.itemsize))
        for first in range(0, len(pieces), per_batch):
            self._visit_batch([piece.number for piece in pieces[first : first + per_batch]], use)

    def _visit_batch(self, numbers: list[int], use: Callable[[int, int, NDArray[Any]], None]) -> None:
        """Pass on the chunks that the cache holds, read the others concurrently, and store these in the cache."""
        keys = {number: f"{self.identity}/{self.name}/{number}" for number in numbers}
        cached = self.cache.get(keys.values()) if self.cache else {}
        missing = []
        for number in numbers:
            if keys[number] in cached:
                use(number, 0, np.frombuffer(cached[keys[number]], dtype=self.dtype))
            else:
                missing.append(number)
        with ThreadPoolExecutor(min(N_CONCURRENT, max(1, len(missing)))) as pool:
            fresh = dict(zip(missing, pool.map(self._chunk, missing), strict=True))
        for number, values in fresh.items():
            use(number, 0, values)
        if self.cache and fresh:
            self.cache.put({keys[number]: values.tobytes() for number, values in fresh.items()})

    def _chunk(self, number: int) -> NDArray[Any]:
        grid = tuple(-(-n // step) for n, step in zip(self.shape, self.chunks, strict=True))
        corner = np.array(np.unravel_index(number, grid)) * self.chunks
        place = tuple(slice(int(a), int(a) + step) for a, step in zip(corner, self.chunks, strict=True))
        with _zarr_errors(self.uri, self.name):
            values = np.asarray(self.array[place])
        missing = [(0, step - have) for step, have in zip(self.chunks, values.shape, strict=True)]
        return (np.pad(values, missing) if any(after for _, after in missing) else values).ravel()


@contextmanager
def _zarr_errors(uri: str, name: str) -> Iterator[None]:
    try:
        with remote_errors(uri):
            yield
    except (ValueError, RuntimeError, TypeError, KeyError) as error:  # codecs report damage as any of these
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        msg = f"{uri}: a chunk of {name} is damaged ({text}); copy the store again"
        raise InvalidInputError(msg, uri=uri) from error
