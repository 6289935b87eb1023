"""Whole files on any fsspec file system: atomic writes, exclusive creation, errors in words.

In: a file system, a path, bytes. Out: bytes; readers see the old file or the new one, never half of one.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import MissingExtraError, ServiceError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec import AbstractFileSystem


def open_filesystem(address: str) -> tuple[AbstractFileSystem, str]:
    """File system and root path of a local folder or a bucket address.

    Raises
    ------
    MissingExtraError
        A ``gs://`` address without gcsfs installed.
    """
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False} if "://" in address else {}
    try:
        fs, root = fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        msg = f"storage {address!r} needs gcsfs: pip install 'haystack-kernel[gcp]'"
        raise MissingExtraError(msg, extra="gcp") from error
    return fs, root.rstrip("/")


def is_local(fs: AbstractFileSystem) -> bool:
    """Whether ``fs`` is the local disk, where atomicity is ours to provide."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def write_atomically(fs: AbstractFileSystem, path: str, data: bytes) -> None:
    """Replace the file at ``path`` by ``data`` in one step."""
    with storage_errors(path, writing=True):
        if is_local(fs):
            with _temporary_beside(path, data) as temporary:
                Path(temporary).replace(path)
        else:
            fs.pipe_file(path, data)


def create_exclusively(fs: AbstractFileSystem, path: str, data: bytes) -> bool:
    """Create the file at ``path``, whole, unless it exists; returns whether this call created it.

    On a bucket the object's absence is a precondition of the upload, so of two writers one wins.
    """
    with storage_errors(path, writing=True):
        try:
            if is_local(fs):
                with _temporary_beside(path, data) as temporary:
                    os.link(temporary, path)
            else:
                fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if _http_status(error) == 412:  # precondition failed: somebody else created it
                return False
            raise
    return True


@contextmanager
def storage_errors(path: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what a file system may raise into one sentence and a remedy.

    An absent file stays FileNotFoundError while reading; while ``writing`` it means an absent bucket or folder.
    """
    try:
        yield
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        if isinstance(error, FileExistsError) or (absent and not writing):
            raise
        status = 404 if absent else _http_status(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            msg = f"no space left to write {path}; free some space or choose another --storage, then resume the run"
        elif isinstance(error, PermissionError) or status in (401, 403):
            msg = f"no permission to use {path}; check its rights or choose another --storage"
        elif status == 404:
            msg = f"{path} lies in a bucket or folder that does not exist; create it or choose another --storage"
        elif status is not None:
            msg = f"the storage service answered {status} for {path}; try again: the run resumes where it stopped"
            raise ServiceError(msg, service="storage", retryable=status == 429 or status >= 500) from error
        else:
            msg = f"{path} cannot be used: {error}"
        raise StorageError(msg, path=path) from error


@contextmanager
def _temporary_beside(path: str, data: bytes) -> Iterator[str]:
    """Write ``data`` to a new file in the same folder, flushed to disk; removed afterwards if still there."""
    folder, name = os.path.split(path)
    Path(folder).mkdir(parents=True, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")  # noqa: PTH118 - fsspec paths are str
    try:
        with open(temporary, "xb") as handle:  # noqa: PTH123
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108


def _http_status(error: OSError) -> int | None:
    """HTTP status of a gcsfs error, None for anything else."""
    code = getattr(error, "code", None)
    try:
        return int(code) if code is not None else None
    except (TypeError, ValueError):
        return None
