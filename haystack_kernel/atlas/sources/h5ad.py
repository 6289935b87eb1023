"""Open one source without loading it: its obs and var columns, its count matrix, its fingerprint.

In: a path or ``gs://`` URI of an h5ad file or a Zarr store. Out: columns as categoricals, fingerprints.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from haystack_kernel.atlas.sources.remote import remote_errors
from haystack_kernel.atlas.sources.zarr_store import is_zarr, open_group, store_mark
from haystack_kernel.errors import HaystackError, InvalidInputError, NotFoundError, StorageError
from haystack_kernel.store.files import open_filesystem
from inference.formats import HEAD_BYTES, foreign_bytes, foreign_folder, foreign_members, locked
from inference.h5 import as_texts, is_array, read_column

if TYPE_CHECKING:
    from collections.abc import Iterator

_MISSING = {"", "nan", "<na>"}
_HASH_BLOCK = 1 << 22
_TEXT_BLOCK = 500_000


@dataclass(frozen=True)
class Fingerprint:
    """Identity of a file: ``mtime`` in seconds since 1970 (0 if the store has none), ``digest`` of its bytes.

    The digest of a remote file covers what its store reports (checksum, generation, size), not its bytes.
    """

    uri: str
    n_bytes: int
    mtime: float
    digest: str


@contextmanager
def open_h5ad(uri: str) -> Iterator[h5py.File]:
    """Open a local or remote h5ad, or a Zarr store in AnnData's layout, for reading; both have the same interface.

    Raises
    ------
    NotFoundError
        There is no such file.
    InvalidInputError
        The file is not HDF5, is truncated, or has no obs, var and X.
    StorageError, ServiceError
        The file may not be read, or its storage service fails.
    """
    if is_zarr(uri):
        with open_group(uri) as group:
            _check_members(group, uri=uri)
            yield group
        return
    with _open_bytes(uri) as source, open_h5ad_handle(source, uri=uri) as h5:
        yield h5


@contextmanager
def open_h5ad_handle(source: Any, *, uri: str) -> Iterator[h5py.File]:  # noqa: ANN401 - a path or an open binary file
    """Open an h5ad from a path or an open file; raises as :func:`open_h5ad` does."""
    try:
        with h5py.File(source, "r") as h5:
            _check_members(h5, uri=uri)
            yield h5
    except HaystackError:
        raise
    except (OSError, KeyError, RuntimeError) as error:  # HDF5 reports damage as any of these
        told = error.__cause__ or error.__context__
        if isinstance(told, HaystackError):  # the error of the file object, which HDF5 would hide
            raise told from error
        if what := locked(error):
            msg = f"{uri} {what}"
            raise StorageError(msg, uri=uri) from error
        msg = f"{uri} cannot be read as h5ad ({error}): truncated or damaged; copy it again"
        raise InvalidInputError(msg, uri=uri) from error


def _check_members(h5: Any, *, uri: str) -> None:  # noqa: ANN401 - h5py file or zarr group
    if what := foreign_members(h5):
        msg = f"{uri} {what}"
        raise InvalidInputError(msg, uri=uri)
    absent = [name for name in ("obs", "var") if name not in h5]
    if absent or not ("X" in h5 or "raw" in h5 or "layers" in h5):
        kind = "HDF5 but not an h5ad" if isinstance(h5, h5py.File) else "Zarr but not in AnnData's layout"
        msg = f"{uri} is {kind}: it has {sorted(h5)}, not obs, var and X; write it with anndata"
        raise InvalidInputError(msg, uri=uri)


@contextmanager
def _open_bytes(uri: str) -> Iterator[Any]:
    if "://" in uri:
        with remote_errors(uri):
            fs, inner = open_filesystem(uri)
            opened = fs.open(inner, "rb")
        with opened as handle:
            _check_head(handle.read(HEAD_BYTES), uri=uri)
            handle.seek(0)
            yield handle
        return
    path = _local_file(uri)
    try:
        with path.open("rb") as handle:
            _check_head(handle.read(HEAD_BYTES), uri=uri)
    except PermissionError as error:
        msg = f"{path} may not be read by this user; change its permissions"
        raise StorageError(msg, uri=uri) from error
    yield path


def _local_file(uri: str) -> Path:
    path = Path(uri)
    if path.is_dir():
        msg = f"{path} {foreign_folder(path)}; give the path of an .h5ad file or a .zarr folder"
        raise InvalidInputError(msg, uri=uri)
    if not path.is_file():
        msg = f"{path} does not exist; give the path of an .h5ad file or a .zarr folder"
        raise NotFoundError(msg, uri=uri)
    return path


def _check_head(head: bytes, *, uri: str) -> None:
    if what := foreign_bytes(head):
        msg = f"{uri} is not an h5ad file: it {what}"
        raise InvalidInputError(msg, uri=uri)


def fingerprint(uri: str, *, with_digest: bool = True) -> Fingerprint:
    """Size, time and digest of a source; ``with_digest=False`` leaves the digest empty and reads no bytes."""
    if is_zarr(uri):
        return Fingerprint(uri, *store_mark(uri, with_digest=with_digest))
    if "://" in uri:
        with remote_errors(uri):
            fs, inner = open_filesystem(uri)
            info = fs.info(inner)
        told = {key: str(info[key]) for key in ("size", "crc32c", "md5Hash", "generation", "etag") if key in info}
        digest = "store:" + hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return Fingerprint(uri, int(info["size"]), 0.0, digest if with_digest else "")
    path = _local_file(uri)
    stat = path.stat()
    return Fingerprint(uri, stat.st_size, stat.st_mtime, f"sha256:{sha256_of(path)}" if with_digest else "")


def sha256_of(path: Path) -> str:
    """SHA-256 of a local file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def remote_sha256(uri: str) -> str:
    """SHA-256 of the bytes of a remote file, which are all read."""
    digest = hashlib.sha256()
    with remote_errors(uri):
        fs, inner = open_filesystem(uri)
        with fs.open(inner, "rb", cache_type="readahead", block_size=_HASH_BLOCK) as handle:
            while block := handle.read(_HASH_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def constant_text(text: str, n_cells: int) -> pd.Categorical:
    """The same text for every cell."""
    return pd.Categorical.from_codes(np.zeros(n_cells, dtype=np.int8), categories=pd.Index([text], dtype=object))


def read_text(frame: h5py.Group, name: str, *, block_rows: int = _TEXT_BLOCK) -> pd.Categorical:
    """Read one column of obs or var as text; texts stored one per row are read ``block_rows`` at a time.

    Returns
    -------
    One entry per row; categories are distinct stripped texts, whole numbers without a decimal point, and the empty
    string where the value is missing.
    """
    node = None if is_array(frame) or name in frame.get("__categories", ()) else frame[name]
    is_text = isinstance(node, h5py.Dataset) and h5py.check_string_dtype(node.dtype)
    try:
        values = _in_blocks(node, block_rows) if is_text else read_column(frame, name)
    except (ValueError, KeyError, TypeError) as error:
        msg = f"column {name!r} of {frame.name.strip('/')} cannot be read ({error}); write the file again with anndata"
        raise InvalidInputError(msg, column=name) from error
    given = values if isinstance(values, pd.Categorical) else _factorized(values)
    texts = ["" if code is None else _text(code) for code in given.categories]
    return recoded(given, texts)


def recoded(labels: pd.Categorical, texts: list[str]) -> pd.Categorical:
    """Replace each category by the text at its place; equal texts become one category, missing the empty string."""
    # a missing value has code -1, which picks the last place: the empty string
    distinct, place = np.unique(np.array([*texts, ""], dtype=object).astype(str), return_inverse=True)
    narrow = next(kind for kind in (np.int8, np.int16, np.int32) if len(distinct) <= np.iinfo(kind).max)
    place = place.astype(narrow)  # of 100 million cells, each byte counts
    return pd.Categorical.from_codes(place[labels.codes], categories=pd.Index(distinct, dtype=object))


def _in_blocks(node: h5py.Dataset, block_rows: int) -> pd.Categorical:
    """Convert texts that are stored one per row to codes, block by block, so that memory never holds all texts."""
    seen: dict[str, int] = {}
    codes = np.empty(node.shape[0], dtype=np.int32)
    for first in range(0, node.shape[0], block_rows):
        place, labels = pd.factorize(as_texts(node[first : first + block_rows]))
        known = np.array([seen.setdefault(str(label), len(seen)) for label in labels], dtype=np.int32)
        codes[first : first + block_rows] = known[place]
    return pd.Categorical.from_codes(codes, categories=pd.Index(list(seen), dtype=object))


def _factorized(values: Any) -> pd.Categorical:  # noqa: ANN401 - arrays of numpy or pandas
    codes, labels = pd.factorize(pd.Series(values), use_na_sentinel=True)
    return pd.Categorical.from_codes(codes, categories=pd.Index(labels, dtype=object))


def _text(value: object) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    return "" if text.casefold() in _MISSING else text
