"""Check that all values of a matrix are in its file.

In: an open matrix of an h5ad or a Zarr store. Out: remarks, or an error.

A part (chunk) that was never written, or that a copy has lost, reads as zeros. The values and indices of a sparse
matrix are not zero over a whole part, so a missing part of it means damage. A dense matrix may lack parts because some
writers leave out those that hold only zeros: then cells are only refused if nothing of them is stored at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from haystack_kernel.atlas.sources.chunk_layout import read_layout
from haystack_kernel.atlas.sources.zarr_store import stored_files
from haystack_kernel.errors import InvalidInputError
from inference.h5 import is_array

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_stored(node: Any, place: str, *, uri: str) -> tuple[str, ...]:  # noqa: ANN401 - h5py or zarr node
    """Check the parts of the matrix at ``place``.

    Returns
    -------
    Remarks on parts of a dense matrix that are not stored.

    Raises
    ------
    InvalidInputError
        Values are in other files, or missing.
    MissingExtraError
        Values are compressed with a filter that is not installed.
    """
    if is_array(node):
        absent = _absent(node, place, uri=uri)
        by_row = absent.reshape(absent.shape[0], -1)
        if by_row.size and by_row.all(axis=1).any():
            what = f"{int(by_row.all(axis=1).sum())} of the {len(by_row)} blocks of cells are missing"
            raise _damaged(place, what, uri)
        n_absent, how = int(absent.sum()), "are not stored and read as 0: some writers leave out chunks of zeros"
        return (f"{n_absent} of {absent.size} chunks of {place} {how}",) if n_absent else ()
    for name in ("indptr", "indices", "data"):
        part = f"{place}/{name}"
        absent = _absent(node[name], part, uri=uri)
        if name == "indptr" and absent.size:
            absent[0] = False  # the first cells may be empty; later bounds are never 0
        if absent.any():
            what = f"{int(absent.sum())} of the {absent.size} chunks are missing"
            raise _damaged(part, what, uri)
    return ()


def _damaged(place: str, what: str, uri: str) -> InvalidInputError:
    msg = f"{uri} is damaged: of {place}, {what}, which would read as 0; copy the file again"
    return InvalidInputError(msg, uri=uri, place=place)


def _absent(node: Any, path: str, *, uri: str) -> NDArray[np.bool_]:  # noqa: ANN401 - h5py or zarr array
    """For each chunk, whether it is not stored."""
    if isinstance(node, h5py.Dataset):
        layout = read_layout(node, uri=uri)
        return np.asarray(layout.sizes == 0).reshape(layout.grid)
    files = stored_files(uri)
    chunks = getattr(node, "shards", None) or node.chunks
    grid = tuple(-(-n // step) for n, step in zip(node.shape, chunks, strict=True))
    absent = np.zeros(grid, dtype=bool)
    for place in np.ndindex(grid):
        absent[place] = f"{path}/{node.metadata.encode_chunk_key(place)}" not in files
    return absent
