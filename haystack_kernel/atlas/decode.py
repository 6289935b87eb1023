"""Chunks of HDF5 arrays from bytes to numbers.

In: the stored bytes of a chunk and the layout of its array. Out: its values, flat.
"""

from __future__ import annotations

import threading
import zlib
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from haystack_kernel.atlas.layout import DEFLATE, FLETCHER32, SHUFFLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.atlas.layout import Layout

_QUICK = {DEFLATE, SHUFFLE}
_LOCK = threading.Lock()


class DecodeError(ValueError):
    """The bytes are not a chunk of that layout; callers say of which file."""


def decode(raw: bytes, layout: Layout, *, mask: int = 0) -> NDArray[Any]:
    """Undo the filters of one chunk.

    gzip and shuffle are undone here, without the lock of the HDF5 library, so that threads work side by side; any other
    filter by that library.

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
        msg = f"{len(data)} bytes where {whole} belong"
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
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(layout.chunks)
    for code, options in layout.filters:
        if code == FLETCHER32:
            plist.set_fletcher32()
        elif code == DEFLATE:
            plist.set_deflate(options[0] if options else 4)
        elif code == SHUFFLE:
            plist.set_shuffle()
        else:
            plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, options)
    try:
        with _LOCK, h5py.File("chunk", "w", driver="core", backing_store=False) as h5:
            space = h5py.h5s.create_simple(layout.chunks)
            kind = h5py.h5t.py_create(layout.dtype)
            stored = h5py.Dataset(h5py.h5d.create(h5.id, b"chunk", kind, space, dcpl=plist))
            stored.id.write_direct_chunk((0,) * len(layout.chunks), raw, mask)
            values: NDArray[Any] = stored[()].ravel()
    except (OSError, RuntimeError, ValueError) as error:  # HDF5 reports damage as any of these
        raise DecodeError(str(error)) from error
    return values
