"""Decode chunks of HDF5 arrays from bytes to numbers.

In: the stored bytes of a chunk and the layout of its array. Out: its values, flat.
"""

from __future__ import annotations

import threading
import zlib
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from haystack_kernel.atlas.sources.chunk_layout import DEFLATE, SHUFFLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from haystack_kernel.atlas.sources.chunk_layout import Filters, Layout

_QUICK = {DEFLATE, SHUFFLE}
_LOCK = threading.Lock()


class DecodeError(ValueError):
    """The bytes are not a chunk of that layout; callers add the name of the file."""


def decode(raw: bytes, layout: Layout, *, mask: int = 0) -> NDArray[Any]:
    """Undo the filters of one chunk.

    gzip and shuffle are decoded here, without the lock of the HDF5 library, so that threads run concurrently; the
    library decodes all other filters.

    Raises
    ------
    DecodeError
        The bytes do not decompress, fail their checksum or give another number of values.
    """
    active = [one for number, one in enumerate(layout.filters) if not mask >> number & 1]
    if not active:
        data: bytes = raw
    elif {code for code, _ in active} <= _QUICK:
        data = _quick(raw, [code for code, _ in active], itemsize=layout.dtype.itemsize)
    else:
        return _by_library(raw, layout, mask=mask)
    whole = int(np.prod(layout.chunks)) * layout.dtype.itemsize
    if active and len(data) != whole:
        msg = f"{len(data)} bytes instead of {whole}"
        raise DecodeError(msg)
    return np.frombuffer(data, dtype=layout.dtype)


def _quick(raw: bytes, codes: list[int], *, itemsize: int) -> bytes:
    for code in reversed(codes):
        if code == DEFLATE:
            try:
                raw = zlib.decompress(raw)
            except zlib.error as error:
                raise DecodeError(str(error)) from error
        else:
            n = len(raw) // itemsize
            planes = np.frombuffer(raw, dtype=np.uint8, count=n * itemsize).reshape(itemsize, n)
            raw = np.ascontiguousarray(planes.T).tobytes() + raw[n * itemsize :]
    return raw


def _by_library(raw: bytes, layout: Layout, *, mask: int) -> NDArray[Any]:
    """Put the chunk into a file in memory that has the same filters, and read it from there."""
    try:
        with _LOCK:
            plist = _pipeline(layout.filters, layout.chunks, layout.dtype.str)
            with _chunk_in_memory(plist, layout.chunks, layout.dtype.str) as stored:
                stored.id.write_direct_chunk((0,) * len(layout.chunks), raw, mask)
                values: NDArray[Any] = stored[()].ravel()
    except (OSError, RuntimeError) as error:  # HDF5 reports damage as any of these
        raise DecodeError(str(error)) from error
    return values


@lru_cache(maxsize=16)
def _pipeline(filters: Filters, chunks: tuple[int, ...], dtype: str) -> h5py.h5p.PropDCID:
    """Properties with which the library creates exactly these filters.

    A filter may put the type and size of values before the options that were asked for, so what a file holds is not
    always what has to be asked: the leading options are left out until the result is the same.
    """
    asked: list[tuple[int, tuple[int, ...]]] = []
    for number, (code, options) in enumerate(filters):
        for first in range(len(options) + 1):
            tried = [*asked, (code, options[first:])]
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk(chunks)
            for one, given in tried:
                plist.set_filter(one, h5py.h5z.FLAG_OPTIONAL, given)
            with suppress(OSError, RuntimeError, ValueError), _chunk_in_memory(plist, chunks, dtype) as stored:
                made = stored.id.get_create_plist()
                if tuple(int(n) for n in made.get_filter(number)[2]) == options:
                    asked = tried
                    break
        if len(asked) <= number:
            msg = f"the HDF5 filter {code} with the options {options} cannot be set up here; write the file with gzip"
            raise DecodeError(msg)
    return plist


@contextmanager
def _chunk_in_memory(plist: h5py.h5p.PropDCID, chunks: tuple[int, ...], dtype: str) -> Iterator[h5py.Dataset]:
    """Open a data set of one chunk in a file that exists in memory only."""
    with h5py.File("chunk", "w", driver="core", backing_store=False) as h5:
        space, kind = h5py.h5s.create_simple(chunks), h5py.h5t.py_create(np.dtype(dtype))
        yield h5py.Dataset(h5py.h5d.create(h5.id, b"chunk", kind, space, dcpl=plist))
