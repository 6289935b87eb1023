"""Read and write the executor's small files, wherever the run folders are: on this disk or in a bucket.

In: an address. Out: bytes and names. A bucket that fails for a while is tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.store.buckets import BucketFiles
from haystack_kernel.store.files import FolderFiles, open_filesystem
from inference.patience import Patience

if TYPE_CHECKING:
    from haystack_kernel.ports import Clock


class Places:
    """Finds files by their addresses; no client is made before the first address in a bucket.

    Parameters
    ----------
    patience_s
        How long, in seconds, a failing bucket is tried again.
    clock
        Measures that time.
    """

    def __init__(self, patience_s: float, *, clock: Clock) -> None:
        self._patience = Patience(seconds=patience_s, sleep=clock.sleep, monotonic=clock.monotonic)
        self._bucket: BucketFiles | None = None

    def read(self, uri: str) -> bytes:
        """Return the bytes of a file; raises FileNotFoundError if it does not exist."""
        files, path = self._find(uri)
        return files.read(path)

    def write(self, uri: str, data: bytes) -> None:
        """Replace the content of the file by ``data`` in one step."""
        files, path = self._find(uri)
        files.write(path, data)

    def create(self, uri: str, data: bytes) -> bool:
        """Create the file unless it exists, and return whether this call created it."""
        files, path = self._find(uri)
        return files.create(path, data)

    def names(self, folder: str) -> list[str]:
        """Return the names directly below ``folder``; none if it does not exist."""
        files, path = self._find(folder)
        return files.names(path)

    def _find(self, uri: str) -> tuple[BucketFiles | FolderFiles, str]:
        if not uri.startswith("gs://"):
            fs, path = open_filesystem(uri)
            return FolderFiles(fs), path
        if self._bucket is None:
            self._bucket = BucketFiles(self._patience)
        return self._bucket, uri
