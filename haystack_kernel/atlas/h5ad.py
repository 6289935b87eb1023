"""One h5ad file opened without loading it: its obs and var columns, its count matrix, its fingerprint.

In: a path or ``gs://`` URI. Out: columns as categoricals, the place of the raw counts, per-cell statistics.
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

from haystack_kernel.errors import HaystackError, InvalidInputError, NotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MISSING = {"", "nan", "<na>"}
_HASH_BLOCK = 1 << 22
_TEXT_BLOCK = 500_000


@dataclass(frozen=True)
class Fingerprint:
    """Which file it was: ``mtime`` in seconds since 1970 (0 where the store has none), ``digest`` of its bytes.

    The digest of a remote file is taken over what its store says of it (checksum, generation, size), not its bytes.
    """

    uri: str
    n_bytes: int
    mtime: float
    digest: str


@contextmanager
def open_h5ad(uri: str) -> Iterator[h5py.File]:
    """Open a local or remote h5ad for reading.

    Raises
    ------
    NotFoundError
        There is no such file.
    InvalidInputError
        The file is not HDF5, is cut short, or is HDF5 without obs, var and X.
    StorageError
        The file exists and may not be read.
    """
    with _open_bytes(uri) as source:
        try:
            with h5py.File(source, "r") as h5:
                absent = [name for name in ("obs", "var") if name not in h5]
                if absent or not ("X" in h5 or "raw" in h5 or "layers" in h5):
                    msg = (
                        f"{uri} is HDF5 but not an h5ad: it has {sorted(h5)}, not obs, var and X; write it with anndata"
                    )
                    raise InvalidInputError(msg, uri=uri)
                if isinstance(h5["obs"], h5py.Dataset) or isinstance(h5["var"], h5py.Dataset):
                    msg = f"{uri} was written by anndata before 0.7; read it with anndata and write it again"
                    raise InvalidInputError(msg, uri=uri)
                yield h5
        except HaystackError:
            raise
        except (OSError, KeyError, RuntimeError) as error:  # HDF5 reports damage as any of these
            msg = f"{uri} cannot be read as h5ad ({error}): not an HDF5 file, or cut short or damaged; copy it again"
            raise InvalidInputError(msg, uri=uri) from error


@contextmanager
def _open_bytes(uri: str) -> Iterator[Any]:
    if "://" in uri:
        import fsspec

        try:
            opened = fsspec.open(uri, "rb").open()
        except FileNotFoundError as error:
            msg = f"{uri} does not exist; check the bucket and the name"
            raise NotFoundError(msg, uri=uri) from error
        with opened as handle:
            yield handle
        return
    path = Path(uri)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        msg = f"{path} {what}; give the path of an .h5ad file"
        raise NotFoundError(msg, uri=uri)
    try:
        path.open("rb").close()
    except PermissionError as error:
        msg = f"{path} may not be read by this user; change its permissions"
        raise StorageError(msg, uri=uri) from error
    yield path


def fingerprint(uri: str, *, with_digest: bool = True) -> Fingerprint:
    """Size, time and digest of a file; ``with_digest=False`` leaves the digest empty and reads no bytes."""
    if "://" in uri:
        import fsspec

        fs, path = fsspec.core.url_to_fs(uri)
        try:
            info = fs.info(path)
        except FileNotFoundError as error:
            msg = f"{uri} does not exist; check the bucket and the name"
            raise NotFoundError(msg, uri=uri) from error
        told = {key: str(info[key]) for key in ("size", "crc32c", "md5Hash", "generation", "etag") if key in info}
        digest = "store:" + hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return Fingerprint(uri, int(info["size"]), 0.0, digest if with_digest else "")
    path = Path(uri)
    if not path.is_file():
        msg = f"{path} does not exist"
        raise NotFoundError(msg, uri=uri)
    stat = path.stat()
    return Fingerprint(uri, stat.st_size, stat.st_mtime, f"sha256:{sha256_of(path)}" if with_digest else "")


def sha256_of(path: Path) -> str:
    """SHA-256 of a local file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def column_names(frame: h5py.Group) -> list[str]:
    """Columns of a stored obs or var, without its index."""
    ordered = frame.attrs.get("column-order")
    names = [str(name) for name in ordered] if ordered is not None else sorted(frame)
    hidden = {index_name(frame), "__categories"}
    return [name for name in names if name not in hidden]


def index_name(frame: h5py.Group) -> str:
    """Name of the member that holds the row names of obs or var."""
    return str(frame.attrs.get("_index", "_index"))


def n_rows(frame: h5py.Group) -> int:
    """Rows of a stored obs or var."""
    index = frame[index_name(frame)]
    return int((index if isinstance(index, h5py.Dataset) else index["codes"]).shape[0])


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
    values: Any
    node = frame[name]
    if "__categories" in frame and name in frame["__categories"]:  # anndata 0.7
        labels = pd.Index(frame["__categories"][name].asstr()[:], dtype=object)
        values = pd.Categorical.from_codes(node[:], categories=labels)
    elif isinstance(node, h5py.Dataset):
        values = _in_blocks(node, block_rows) if h5py.check_string_dtype(node.dtype) else node[:]
    else:
        import anndata as ad

        values = ad.io.read_elem(node)
    given = values if isinstance(values, pd.Categorical) else _factorized(values)
    texts = ["" if code is None else _text(code) for code in given.categories]
    return recoded(given, texts)


def recoded(labels: pd.Categorical, texts: list[str]) -> pd.Categorical:
    """Replace each category by the text at its place; equal texts become one category, missing the empty string."""
    # a missing value has code -1, which picks the last place: the empty string
    distinct, place = np.unique(np.array([*texts, ""], dtype=object).astype(str), return_inverse=True)
    return pd.Categorical.from_codes(place[labels.codes], categories=pd.Index(distinct, dtype=object))


def _in_blocks(node: h5py.Dataset, block_rows: int) -> pd.Categorical:
    """Texts that were stored one per row, as codes; never all texts at once."""
    seen: dict[str, int] = {}
    codes = np.empty(node.shape[0], dtype=np.int32)
    for first in range(0, node.shape[0], block_rows):
        place, labels = pd.factorize(node.asstr()[first : first + block_rows])
        known = np.array([seen.setdefault(str(label), len(seen)) for label in labels], dtype=np.int32)
        codes[first : first + block_rows] = known[place]
    return pd.Categorical.from_codes(codes, categories=pd.Index(list(seen), dtype=object))


def _factorized(values: Any) -> pd.Categorical:  # noqa: ANN401 - arrays of numpy or pandas
    codes, labels = pd.factorize(pd.Series(values), use_na_sentinel=True)
    return pd.Categorical.from_codes(codes, categories=pd.Index(labels, dtype=object))


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    return "" if text.casefold() in _MISSING else text
