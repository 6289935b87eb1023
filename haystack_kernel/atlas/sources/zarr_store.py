"""AnnData's Zarr layout as a source: a folder on this disk or a prefix in a bucket.

In: an address that ends in ``.zarr``, or a folder that holds a Zarr group. Out: the group, its size and digest.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.atlas.sources.remote import remote_errors
from haystack_kernel.errors import HaystackError, InvalidInputError, NotFoundError, StorageError
from haystack_kernel.store.files import open_filesystem

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOTS = ("zarr.json", ".zgroup")
_BLOCK = 1 << 22


def is_zarr(uri: str) -> bool:
    """Whether the address is a Zarr store: by its ending, and for a local folder also by its files."""
    if uri.rstrip("/").endswith(".zarr"):
        return True
    return "://" not in uri and any((Path(uri) / name).is_file() for name in _ROOTS)


@contextmanager
def open_group(uri: str) -> Iterator[Any]:
    """Open the store for reading; the group has the interface of an open h5ad.

    Raises
    ------
    NotFoundError
        The store does not exist.
    InvalidInputError
        The store is damaged.
    StorageError, ServiceError
        The store may not be read, or the service fails.
    """
    import zarr

    if "://" not in uri and not Path(uri).is_dir():
        msg = f"{uri} does not exist; give the path of an .h5ad file or a .zarr folder"
        raise NotFoundError(msg, uri=uri)
    try:
        with remote_errors(uri):
            yield zarr.open_group(_remote_store(uri) if "://" in uri else uri, mode="r")
    except PermissionError as error:
        msg = f"{uri} may not be read by this user; change its permissions"
        raise StorageError(msg, uri=uri) from error
    except (HaystackError, OSError):
        raise
    except (ValueError, KeyError, TypeError, RuntimeError) as error:  # Zarr reports damage as any of these
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        msg = f"{uri} cannot be read as a Zarr store ({text}): it is none, or damaged; copy it again"
        raise InvalidInputError(msg, uri=uri) from error


def _remote_store(uri: str) -> Any:  # noqa: ANN401 - a Zarr store
    """Use the shared file system object: one that is made for Zarr's own event loop is never closed."""
    import zarr
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    fs, root = open_filesystem(uri)
    return zarr.storage.FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), read_only=True, path=root)


def store_mark(uri: str, *, with_digest: bool) -> tuple[int, float, str]:
    """Size of all files, time of the newest (0 in a bucket) and digest over names and contents.

    The digest of a store in a bucket covers what the bucket reports about its objects, not their bytes.
    """
    if "://" in uri:
        return _remote_mark(uri, with_digest=with_digest)
    root = Path(uri)
    if not root.is_dir():
        msg = f"{uri} does not exist"
        raise NotFoundError(msg, uri=uri)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    stats = [path.stat() for path in files]
    newest = max((stat.st_mtime for stat in stats), default=0.0)
    return sum(stat.st_size for stat in stats), newest, _digest(root, files) if with_digest else ""


def stored_files(uri: str) -> frozenset[str]:
    """Names of all files of the store, relative to it."""
    if "://" not in uri:
        root = Path(uri)
        return frozenset(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    with remote_errors(uri):
        fs, inner = open_filesystem(uri)
        return frozenset(path.removeprefix(inner.rstrip("/") + "/") for path in fs.find(inner))


def _remote_mark(uri: str, *, with_digest: bool) -> tuple[int, float, str]:
    with remote_errors(uri):
        fs, root = open_filesystem(uri)
        found = fs.find(root, detail=True)
    if not found:
        msg = f"{uri} does not exist; check the bucket and the name"
        raise NotFoundError(msg, uri=uri)
    facts = {}
    for path, info in sorted(found.items()):
        facts[path] = [str(info[key]) for key in ("size", "crc32c", "md5Hash", "generation", "etag") if key in info]
    digest = "store:" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return sum(int(info["size"]) for info in found.values()), 0.0, digest if with_digest else ""


def _digest(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"
