"""Small files of the executor, wherever the run folders are: this disk or a bucket.

In: an address. Out: bytes, names; a bucket that fails for a while is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.store.buckets import BucketFiles
from haystack_kernel.store.files import FolderFiles, open_filesystem
from inference.patience import Patience

if TYPE_CHECKING:
    from haystack_kernel.ports import Clock


class Places:
    """Files by their addresses; no client is made before the first address in a bucket.

    Parameters
    ----------
    patience_s
        How long a failing bucket is waited for.
    clock
        Measures it.
    """

    def __init__(self, patience_s: float, *, clock: Clock) -> None:
        self._patience = Patience(seconds=patience_s, sleep=clock.sleep, monotonic=clock.monotonic)
        self._bucket: BucketFiles | None = None

    def read(self, uri: str) -> bytes:
        """Bytes of a file; FileNotFoundError when it is not there."""
        files, path = self._find(uri)
        return files.read(path)

    def write(self, uri: str, data: bytes) -> None:
        """Replace the file by ``data`` in one step."""
        files, path = self._find(uri)
        files.write(path, data)

    def create(self, uri: str, data: bytes) -> bool:
        """Create the file unless it exists; returns whether this call created it."""
        files, path = self._find(uri)
        return files.create(path, data)

    def names(self, folder: str) -> list[str]:
        """Names directly below ``folder``; none when it is not there."""
        files, path = self._find(folder)
        return files.names(path)

    def _find(self, uri: str) -> tuple[BucketFiles | FolderFiles, str]:
        if not uri.startswith("gs://"):
            fs, path = open_filesystem(uri)
            return FolderFiles(fs), path
        if self._bucket is None:
            self._bucket = BucketFiles(self._patience)
        return self._bucket, uri
