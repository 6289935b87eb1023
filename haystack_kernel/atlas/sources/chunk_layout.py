"""Positions and encodings of the chunks of an HDF5 array in its file, so that they can be read concurrently.

In: an open h5py data set. Out: ``Layout``, which no longer needs the file and is stored as arrays of numbers.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from haystack_kernel.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Filters = tuple[tuple[int, tuple[int, ...]], ...]  # number and options of each, in the order of writing
BLOCK_BYTES = 1 << 17  # an array that is stored in one piece is read in blocks of this size
DEFLATE, SHUFFLE, FLETCHER32 = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32
_NAMES = {DEFLATE: "gzip", SHUFFLE: "shuffle", FLETCHER32: "fletcher32", 32000: "lzf", 32001: "blosc", 32015: "zstd"}
_NAMES |= {32004: "lz4", 32008: "bitshuffle", 32026: "blosc2", 307: "bzip2"}


@dataclass(frozen=True, eq=False)
class Layout:
    """Chunks of one array in C order of the grid; the bytes of chunk ``i`` are ``sizes[i]`` from ``offsets[i]`` on.

    ``filters`` are HDF5 filter numbers in the order of writing, with their options. Bit ``k`` of ``masks[i]`` says that
    chunk ``i`` was written without filter ``k``. A chunk of size 0 was never written and holds ``fill``. A chunk at the
    edge has full size. An array stored in one piece is treated as one dimension without filters.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    filters: Filters
    fill: float
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    masks: NDArray[np.int64]

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return tuple(-(-n // step) for n, step in zip(self.shape, self.chunks, strict=True))

    def to_arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Convert to named arrays of numbers and text, for one ``.npz``."""
        flat = [number for code, options in self.filters for number in (code, len(options), *options)]
        return {
            f"{prefix}/shape": np.array([self.shape, self.chunks], dtype=np.int64),
            f"{prefix}/dtype": np.array(self.dtype.str),
            f"{prefix}/filters": np.array(flat, dtype=np.int64),
            f"{prefix}/fill": np.array(self.fill, dtype=np.float64),
            f"{prefix}/places": np.stack([self.offsets, self.sizes, self.masks]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Layout:
        """Convert back from :meth:`to_arrays`; other arrays raise KeyError or ValueError."""
        shape, chunks = (tuple(int(n) for n in row) for row in arrays[f"{prefix}/shape"])
        flat, filters = [int(n) for n in arrays[f"{prefix}/filters"]], []
        while flat:
            code, n_options, *flat = flat
            filters.append((code, tuple(flat[:n_options])))
            flat = flat[n_options:]
        offsets, sizes, masks = arrays[f"{prefix}/places"]
        dtype, fill = np.dtype(str(arrays[f"{prefix}/dtype"])), float(arrays[f"{prefix}/fill"])
        return cls(shape, chunks, dtype, tuple(filters), fill, offsets, sizes, masks)


def read_layout(dataset: h5py.Dataset, *, uri: str) -> Layout:
    """Read the place and size of every chunk.

    Raises
    ------
    InvalidInputError
        The data are not in this file (external or virtual), or are not numbers.
    MissingExtraError
        The chunks are compressed with a filter that is not installed.
    """
    if dataset.dtype.kind not in "biuf":
        msg = f"{uri}: {dataset.name} holds {dataset.dtype} values, not numbers; write it again with anndata"
        raise InvalidInputError(msg, uri=uri)
    plist = dataset.id.get_create_plist()
    if dataset.is_virtual or plist.get_external_count():
        msg = f"{uri}: {dataset.name} keeps its values in other files; copy it to one file (h5repack, or anndata)"
        raise InvalidInputError(msg, uri=uri)
    filters = tuple(
        (int(code), tuple(int(n) for n in options))
        for code, _, options, _ in (plist.get_filter(number) for number in range(plist.get_nfilters()))
    )
    for code, _ in filters:
        _check_filter(code, uri=uri, name=str(dataset.name))
    fill = float(dataset.fillvalue)
    if dataset.chunks is None:
        return _in_one_piece(dataset, fill=fill, uri=uri)
    told: list[tuple[int, ...]] = []
    dataset.id.chunk_iter(lambda info: told.append((*info.chunk_offset, info.byte_offset, info.size, info.filter_mask)))
    grid = tuple(-(-n // step) for n, step in zip(dataset.shape, dataset.chunks, strict=True))
    places = np.zeros((3, int(np.prod(grid))), dtype=np.int64)
    if told:
        table = np.array(told, dtype=np.int64)
        corners = table[:, : len(grid)] // np.array(dataset.chunks)
        places[:, np.ravel_multi_index(tuple(corners.T), grid)] = table[:, len(grid) :].T
    return Layout(dataset.shape, dataset.chunks, dataset.dtype, filters, fill, *places)


def _in_one_piece(dataset: h5py.Dataset, *, fill: float, uri: str) -> Layout:
    size, step = int(dataset.size), max(1, BLOCK_BYTES // dataset.dtype.itemsize)
    starts = np.arange(0, size, step)
    offset = dataset.id.get_offset()
    sizes = np.minimum(step, size - starts) * dataset.dtype.itemsize
    if offset is None:
        if size and dataset.id.get_storage_size():
            msg = f"{uri}: {dataset.name} is stored inside the header of the file; write it again with anndata"
            raise InvalidInputError(msg, uri=uri)
        sizes, offset = np.zeros_like(sizes), 0  # never written
    offsets = offset + starts * dataset.dtype.itemsize
    return Layout((size,), (step,), dataset.dtype, (), fill, offsets, sizes, np.zeros_like(offsets))


def _check_filter(code: int, *, uri: str, name: str) -> None:
    if h5py.h5z.filter_avail(code):
        return
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401 - registers its filters
    if not h5py.h5z.filter_avail(code):
        known = _NAMES.get(code, f"number {code}")
        msg = (
            f"{uri}: {name} is compressed with the HDF5 filter {known}, which is not installed: pip install "
            "hdf5plugin, or write the file again with compression='gzip'"
        )
        raise MissingExtraError(msg, uri=uri, filter=code)
