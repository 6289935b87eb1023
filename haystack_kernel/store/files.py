"""Whole files on a disk or any fsspec file system: atomic writes, exclusive creation, errors in words.

In: a path, bytes. Out: bytes; readers see the old file or the new one, never half of one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import MissingExtraError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fsspec import AbstractFileSystem


_N_AT_ONCE = 8


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


class FolderFiles:
    """Files of a disk, or of any other fsspec file system, by the paths that file system knows."""

    def __init__(self, fs: AbstractFileSystem) -> None:
        self._fs = fs
        self._is_local = "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)

    def read(self, path: str) -> bytes:
        """Bytes of a file; FileNotFoundError when it is not there."""
        with storage_errors(path):
            data: bytes = self._fs.cat_file(path)
        return data

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Bytes of many small files; None for those that are not there."""

        def one(path: str) -> bytes | None:
            try:
                return self.read(path)
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(min(_N_AT_ONCE, max(len(paths), 1))) as pool:
            return list(pool.map(one, paths))

    def write(self, path: str, data: bytes) -> None:
        """Replace the file at ``path`` by ``data`` in one step."""
        with storage_errors(path, writing=True):
            if self._is_local:
                with _temporary_beside(path, data) as temporary:
                    Path(temporary).replace(path)
            else:
                self._fs.pipe_file(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Create the file at ``path``, whole, unless it exists; returns whether this call created it."""
        with storage_errors(path, writing=True):
            try:
                if self._is_local:
                    with _temporary_beside(path, data) as temporary:
                        os.link(temporary, path)
                else:
                    self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
        return True

    def write_newer(self, path: str, data: bytes, *, is_older: Callable[[bytes], bool], is_new: bool = False) -> None:
        """Write the file unless what is there is not older; writers of one machine wait for each other.

        ``is_new`` says that there is probably no such file yet, which saves a question to a bucket.
        """
        with _alone_in(path) if self._is_local else nullcontext():
            try:
                is_due = is_older(self.read(path))
            except FileNotFoundError:
                is_due = True
            if is_due:
                self.write(path, data)

    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the file by what ``change`` makes of it (None: there is no file, or it stays as it is).

        Writers of one machine wait for each other, so that no change is lost.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True) if self._is_local else None
        with _alone_in(path) if self._is_local else nullcontext():
            try:
                found: bytes | None = self.read(path)
            except FileNotFoundError:
                found = None
            data = change(found)
            if data is not None:
                self.write(path, data)

    def stamp(self, path: str) -> str | None:
        """Return a text that every write of the file changes; None when it is not there."""
        if not self._is_local:
            return hashlib.sha256(self.read(path)).hexdigest() if self.exists(path) else None
        found = self.info(path)
        return None if found is None else found[1]

    def info(self, path: str) -> tuple[int, str] | None:
        """Size in bytes and stamp of a file; None when it is not there."""
        with storage_errors(path):
            try:
                if self._is_local:
                    found = Path(path).stat()
                    return found.st_size, _stamp_of(found)
                return int(self._fs.info(path)["size"]), str(self._fs.checksum(path))
            except FileNotFoundError:
                return None

    def read_range(self, path: str, start: int, stop: int, *, stamp: str) -> bytes:
        """Bytes ``start`` to ``stop`` (exclusive) of the file with that stamp; FileNotFoundError once replaced."""
        with storage_errors(path):
            if not self._is_local:
                if str(self._fs.checksum(path)) != stamp:
                    raise FileNotFoundError(errno.ENOENT, "the file was replaced", path)
                part: bytes = self._fs.cat_file(path, start=start, end=stop)
                return part
            with Path(path).open("rb") as handle:
                if _stamp_of(os.fstat(handle.fileno())) != stamp:
                    raise FileNotFoundError(errno.ENOENT, "the file was replaced", path)
                handle.seek(start)
                return handle.read(stop - start)

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        with storage_errors(path):
            return bool(self._fs.exists(path))

    def names(self, folder: str) -> list[str]:
        """Names directly below ``folder``; none when it is not there."""
        try:
            with storage_errors(folder):
                found: Sequence[str] = self._fs.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in found]

    def sizes(self, folder: str) -> dict[str, int]:
        """Every file below ``folder`` by its path from there, with its size in bytes; none when it is not there."""
        try:
            with storage_errors(folder):
                found = self._fs.find(folder, detail=True)
        except FileNotFoundError:
            return {}
        return {name.removeprefix(f"{folder}/"): int(info["size"] or 0) for name, info in found.items()}

    def copy(self, source: str, target: str) -> None:
        """Write the bytes of ``source`` to ``target``; FileNotFoundError when it is not there."""
        self.write(target, self.read(source))

    def remove(self, path: str) -> None:
        """Delete a file if it is there."""
        with suppress(FileNotFoundError), storage_errors(path):
            self._fs.rm_file(path)


def _stamp_of(found: os.stat_result) -> str:
    return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"


@contextmanager
def storage_errors(path: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what a file system may raise into one sentence and a remedy.

    An absent file stays FileNotFoundError while reading; while ``writing`` it means an absent folder.
    """
    try:
        yield
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        if isinstance(error, FileExistsError) or (absent and not writing):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            msg = f"no space left to write {path}; free some space or choose another --storage, then resume the run"
        elif isinstance(error, PermissionError):
            msg = f"no permission to use {path}; check its rights or choose another --storage"
        elif absent:
            msg = f"{path} lies in a folder that does not exist; create it or choose another --storage"
        else:
            msg = f"{path} cannot be used: {error}"
        raise StorageError(msg, path=path) from error


@contextmanager
def _alone_in(path: str) -> Iterator[None]:
    """Hold the lock of the folder of ``path``, where its file system has locks."""
    import fcntl

    folder = os.open(os.path.dirname(path), os.O_RDONLY)  # noqa: PTH120 - fsspec paths are str
    try:
        with suppress(OSError):  # some network file systems have none: readers tell a stale copy by its serial
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


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
