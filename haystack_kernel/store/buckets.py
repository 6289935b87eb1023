"""Whole files in Cloud Storage, with the same methods as those on a disk.

In: addresses and bytes. Out: the same, verified and tried again by :mod:`inference.bucket`; its failures as errors of
this package.
"""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from typing import TYPE_CHECKING

from haystack_kernel.errors import MissingExtraError, ServiceError, StorageError
from haystack_kernel.store.files import FolderFiles, open_filesystem
from inference.bucket import Objects
from inference.errors import BucketError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inference.patience import Patience


def open_files(address: str, *, patience: Patience | None = None) -> tuple[BucketFiles | FolderFiles, str]:
    """Files of a disk or of Cloud Storage, and the address as those know it."""
    if address.startswith("gs://"):
        return BucketFiles(patience), address.rstrip("/")
    fs, root = open_filesystem(address)
    return FolderFiles(fs), root


class BucketFiles:
    """Files of ``gs://`` addresses.

    Parameters
    ----------
    patience
        How long a failing service is waited for; None: five minutes by the real clock.

    Raises
    ------
    MissingExtraError
        google-cloud-storage is not installed.
    StorageError, ServiceError
        By every method: see :func:`bucket_errors`.
    """

    def __init__(self, patience: Patience | None = None) -> None:
        try:
            is_installed = importlib.util.find_spec("google.cloud.storage") is not None
        except ModuleNotFoundError:  # not even its parents
            is_installed = False
        if not is_installed:
            msg = "gs:// storage needs google-cloud-storage: pip install 'haystack-kernel[gcp]'"
            raise MissingExtraError(msg, extra="gcp")
        self._objects = Objects(patience)
        self._generations: dict[str, int] = {}  # of files that this process keeps newest

    def read(self, uri: str) -> bytes:
        """Bytes of a file, verified by checksum; FileNotFoundError when it is not there."""
        with bucket_errors(uri):
            return self._objects.read(uri)

    def read_many(self, uris: Sequence[str]) -> list[bytes | None]:
        """Bytes of many small files, verified; None for those that are not there."""
        with bucket_errors(uris[0] if uris else ""):
            return self._objects.read_many(uris)

    def write(self, uri: str, data: bytes) -> None:
        """Replace the file by ``data`` in one step."""
        with bucket_errors(uri):
            self._objects.write(uri, data)

    def create(self, uri: str, data: bytes) -> bool:
        """Create the file unless it exists; returns whether this call created it."""
        with bucket_errors(uri):
            return self._objects.write(uri, data, over=0) is not None

    def write_newer(self, uri: str, data: bytes, *, is_older: Callable[[bytes], bool], is_new: bool = False) -> None:
        """Write the file unless what is there is not older, whoever else writes it meanwhile.

        ``is_new`` says that there is probably no such file yet: the first try asks nothing.
        """
        known = self._generations.get(uri, 0 if is_new else None)
        with bucket_errors(uri):
            while True:
                if known is None:
                    known = self._objects.generation(uri) or 0
                    if known and not is_older(self._objects.read(uri)):
                        return
                made = known = self._objects.write(uri, data, over=known)
                if made is not None:
                    self._generations[uri] = made
                    return

    def update(self, uri: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the file by what ``change`` makes of it (None: there is no file, or it stays as it is).

        What somebody else writes meanwhile is read again and changed again, so that no change is lost.
        """
        with bucket_errors(uri):
            while True:
                known = self._objects.generation(uri) or 0
                try:
                    data = change(self._objects.read(uri) if known else None)
                except FileNotFoundError:  # deleted in between
                    continue
                if data is None or self._objects.write(uri, data, over=known) is not None:
                    return

    def stamp(self, uri: str) -> str | None:
        """Return a text that every write of the file changes; None when it is not there."""
        found = self.generation(uri)
        return None if found is None else str(found)

    def exists(self, uri: str) -> bool:
        """Whether the file is there."""
        with bucket_errors(uri):
            return self._objects.generation(uri) is not None

    def generation(self, uri: str) -> int | None:
        """Return the generation of a file, which every write changes; None when it is not there."""
        with bucket_errors(uri):
            return self._objects.generation(uri)

    def info(self, uri: str) -> tuple[int, str] | None:
        """Size in bytes and stamp of a file; None when it is not there."""
        with bucket_errors(uri):
            found = self._objects.info(uri)
        return None if found is None else (found[0], str(found[1]))

    def read_range(self, uri: str, start: int, stop: int, *, stamp: str) -> bytes:
        """Bytes ``start`` to ``stop`` (exclusive) of the file with that stamp; FileNotFoundError once replaced."""
        with bucket_errors(uri):
            return self._objects.read_range(uri, start, stop, generation=int(stamp))

    def names(self, folder: str) -> list[str]:
        """Names directly below ``folder``; none when nothing is there."""
        with bucket_errors(folder):
            return self._objects.names(folder)

    def sizes(self, folder: str) -> dict[str, int]:
        """Every file below ``folder`` by its path from there, with its size in bytes."""
        with bucket_errors(folder):
            return self._objects.sizes(folder)

    def copy(self, source: str, target: str) -> None:
        """Copy a file within Cloud Storage; FileNotFoundError when it is not there."""
        with bucket_errors(source):
            self._objects.copy(source, target)

    def remove(self, uri: str) -> None:
        """Delete a file if it is there."""
        with bucket_errors(uri):
            self._objects.remove(uri)


@contextmanager
def bucket_errors(uri: str) -> Iterator[None]:
    """Turn what a bucket answers into this package's errors; FileNotFoundError passes.

    Raises
    ------
    ServiceError
        The service failed for longer than it was waited for; the same may work later.
    StorageError
        No credentials, no permission, no such bucket: somebody has to act first.
    """
    try:
        yield
    except BucketError as error:
        if error.is_passing:
            raise ServiceError(str(error), service="storage", retryable=True, status=error.status) from error
        raise StorageError(str(error), path=uri, status=error.status) from error
