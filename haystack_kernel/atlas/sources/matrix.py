"""Open the count matrix of a source for reading rows; its structure is read once and kept.

In: a source file, a store or an object in a bucket. Out: ``Matrix``.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel.atlas.sources.arrays import Chunked, LocalArray, RemoteArray
from haystack_kernel.atlas.sources.chunk_layout import Layout, read_layout
from haystack_kernel.atlas.sources.h5ad import open_h5ad, open_h5ad_handle
from haystack_kernel.atlas.sources.remote import RangedReader, RemoteFile
from haystack_kernel.atlas.sources.rows import Matrix
from haystack_kernel.atlas.sources.zarr_array import ZarrArray
from haystack_kernel.atlas.sources.zarr_store import is_zarr
from inference.h5 import is_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    import h5py
    from numpy.typing import NDArray

    from haystack_kernel.atlas.sources.chunk_cache import ChunkCache

MAX_REMEMBERED = 32
_REMEMBERED: dict[tuple[str, ...], dict[str, Layout]] = {}  # of local files, by path, size, time and place


def open_matrix(  # noqa: PLR0913 - what a source is and what may be kept of it
    uri: str,
    place: str,
    *,
    encoding: str,
    shape: tuple[int, int],
    identity: str = "",
    n_bytes: int | None = None,
    folder: Path | None = None,
    cache: ChunkCache | None = None,
) -> Matrix:
    """Open ``place`` (X, raw/X, layers/…) of a source.

    Parameters
    ----------
    encoding, shape
        csr, csc or dense; cells x genes of the source.
    identity
        Digest of the source: layouts and chunks are remembered under it.
    n_bytes
        Size of a file in a bucket, if known.
    folder
        Folder in which the layout of a file in a bucket is kept; None reads it every time.
    cache
        Keeps chunks of a source in a bucket.

    Raises
    ------
    HaystackError
        As :func:`~haystack_kernel.atlas.sources.h5ad.open_h5ad` and
        :func:`~haystack_kernel.atlas.sources.chunk_layout.read_layout`.
    """
    arrays: dict[str, Chunked]
    remote = "://" in uri
    if is_zarr(uri):
        with open_h5ad(uri) as store:
            nodes = _nodes(store[place])
            key = hashlib.sha256(f"{identity}|{place}".encode()).hexdigest()[:32]
            kept = cache if remote and identity else None
            arrays = {name: ZarrArray(node, uri, f"{place}/{name}", key, kept) for name, node in nodes.items()}
            return Matrix(encoding, shape, arrays, uri)
    if not remote:
        layouts = _local_layouts(uri, place)
        arrays = {name: LocalArray(Path(uri), layout, f"{place}/{name}") for name, layout in layouts.items()}
        return Matrix(encoding, shape, arrays, uri)
    file = RemoteFile(uri, size=n_bytes)
    layouts = _remote_layouts(file, place, identity=identity, folder=folder)
    key = hashlib.sha256(f"{identity}|{place}".encode()).hexdigest()[:32]
    kept = cache if identity else None
    arrays = {name: RemoteArray(file, layout, name, key, kept) for name, layout in layouts.items()}
    return Matrix(encoding, shape, arrays, uri, file)


def _nodes(node: Any) -> dict[str, Any]:  # noqa: ANN401 - h5py or zarr node
    return {"values": node} if is_array(node) else {name: node[name] for name in ("indptr", "indices", "data")}


def _read(h5: h5py.File, place: str, *, uri: str) -> dict[str, Layout]:
    return {name: read_layout(node, uri=uri) for name, node in _nodes(h5[place]).items()}


def _local_layouts(uri: str, place: str) -> dict[str, Layout]:
    path = Path(uri)
    stat = path.stat() if path.is_file() else None
    key = (str(path.absolute()), place, str(stat.st_size), str(stat.st_mtime_ns), str(stat.st_ino)) if stat else ()
    if key in _REMEMBERED:
        return _REMEMBERED[key]
    with open_h5ad(uri) as h5:
        layouts = _read(h5, place, uri=uri)
    while len(_REMEMBERED) >= MAX_REMEMBERED:
        with suppress(KeyError, StopIteration):  # another thread may do the same
            del _REMEMBERED[next(iter(_REMEMBERED))]
    _REMEMBERED[key] = layouts
    return layouts


def _remote_layouts(file: RemoteFile, place: str, *, identity: str, folder: Path | None) -> dict[str, Layout]:
    named = hashlib.sha256(f"{file.uri}|{place}".encode()).hexdigest()[:16]
    path = folder / f"layout-{named}.npz" if folder and identity else None
    if path and (kept := _kept_layouts(path, identity)):
        return kept
    with open_h5ad_handle(RangedReader(file), uri=file.uri) as h5:
        layouts = _read(h5, place, uri=file.uri)
    if path:
        arrays = {key: value for name, layout in layouts.items() for key, value in layout.to_arrays(name).items()}
        _keep(path, {"identity": np.array(identity), "names": np.array(list(layouts)), **arrays})
    return layouts


def _kept_layouts(path: Path, identity: str) -> dict[str, Layout]:
    """Layouts that were kept for this version of the source; empty if there are none that can be used."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["identity"]) != identity:
                return {}
            return {str(name): Layout.from_arrays(arrays, str(name)) for name in arrays["names"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):  # damaged: read it again
        return {}


def _keep(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write atomically; if the folder cannot be written, nothing is kept."""
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
            temporary = handle.name
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
        Path(temporary).replace(path)
    except OSError:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
