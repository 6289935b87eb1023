"""Read byte ranges of a file in a bucket: many at once, checked for length, with clear errors.

In: an address. Out: bytes, and a file object through which h5py reads the structure of an h5ad.
"""

from __future__ import annotations

import io
import struct
import sys
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import HaystackError, NotFoundError, ServiceError, StorageError
from haystack_kernel.store.files import open_filesystem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fsspec import AbstractFileSystem

MAX_GAP = 1 << 17  # bytes; a further request takes the time in which a bucket sends about ten times as many
MAX_REQUEST = 1 << 22
N_TRIES = 3  # of a range that comes back incomplete; the client library retries when the service refuses
BLOCK = 1 << 16
MAX_BLOCKS = 512


@contextmanager
def remote_errors(uri: str) -> Iterator[None]:
    """Convert errors of a file system while reading to errors of HAYSTACK with a remedy.

    Raises
    ------
    NotFoundError
        The object or the bucket does not exist.
    StorageError
        The object may not be read.
    ServiceError
        The service failed or refused (429, 5xx) after all tries of the client library.
    """
    try:
        yield
    except HaystackError:
        raise
    except FileNotFoundError as error:
        msg = f"{uri} does not exist; check the bucket and the name"
        raise NotFoundError(msg, uri=uri) from error
    except _faults() as error:
        raise _named_fault(error, uri) from error


def _named_fault(error: BaseException, uri: str) -> HaystackError:
    """The error to raise for what a storage library raised: access refused, or the service failed."""
    code = str(getattr(error, "code", "") or getattr(error, "status", ""))
    text = (str(error).splitlines() or [type(error).__name__])[0][:200]
    if isinstance(error, PermissionError) or code in {"401", "403"} or text.startswith("Forbidden"):
        msg = f"{uri} may not be read ({text}); give this account read access to the bucket"
        return StorageError(msg, uri=uri)
    retryable = not code or code in {"408", "429"} or code.startswith("5")
    again = "try again in a while" if retryable else "check the address and the service"
    msg = f"{uri}: the storage service failed ({code + ': ' if code else ''}{text}); {again}"
    return ServiceError(msg, service="storage", retryable=retryable)


def _faults() -> tuple[type[BaseException], ...]:
    """What storage libraries raise, of those that are loaded."""
    found: list[type[BaseException]] = [OSError, TimeoutError]
    for module, name in (
        ("gcsfs.retry", "HttpError"),
        ("aiohttp.client_exceptions", "ClientError"),
        ("requests.exceptions", "RequestException"),
        ("google.auth.exceptions", "GoogleAuthError"),
    ):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None:
            found.append(kind)
    return tuple(found)


class RemoteFile:
    """One object in a bucket, read by ranges.

    Parameters
    ----------
    uri
        Any fsspec address with a scheme.
    size
        Size of the object in bytes; None asks the service.

    Attributes
    ----------
    n_requests
        Number of ranges requested so far.

    Raises
    ------
    NotFoundError, StorageError, ServiceError
        See :func:`remote_errors`.
    """

    def __init__(self, uri: str, *, size: int | None = None) -> None:
        self.uri, self.n_requests = uri, 0
        self._fs: AbstractFileSystem
        with remote_errors(uri):
            self._fs, self._path = open_filesystem(uri)
            self.size = int(self._fs.info(self._path)["size"]) if size is None else size

    def read_many(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Read every range, in order, concurrently; neighbouring ranges share a request.

        Raises
        ------
        ServiceError
            A range came back incomplete ``N_TRIES`` times.
        """
        requests = _merged(offsets, sizes)
        found: dict[tuple[int, int], bytes] = {}
        missing = requests
        for _ in range(N_TRIES):
            if not missing:
                break
            self.n_requests += len(missing)
            firsts, ends = zip(*missing, strict=True)
            with remote_errors(self.uri):
                answers = self._fs.cat_ranges([self._path] * len(missing), list(firsts), list(ends), on_error="raise")
            # a connection that breaks may yield fewer bytes than were asked for, without an error
            found |= {one: data for one, data in zip(missing, answers, strict=True) if len(data) == one[1] - one[0]}
            missing = [one for one in requests if one not in found]
        if missing:
            msg = (
                f"{self.uri}: {len(missing)} of {len(requests)} parts came back incomplete {N_TRIES} times; nothing of "
                "them was kept. Try again; if that fails too, the file is truncated: copy it again"
            )
            raise ServiceError(msg, service="storage", retryable=True)
        return [found[whole][offset - whole[0] :][:size] for whole, offset, size in _assigned(requests, offsets, sizes)]


def _merged(offsets: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Requests (first, end) that cover all ranges."""
    requests: list[tuple[int, int]] = []
    for first, end in sorted({(int(a), int(a) + int(n)) for a, n in zip(offsets, sizes, strict=True)}):
        if (
            requests
            and first - requests[-1][1] <= MAX_GAP
            and max(end, requests[-1][1]) - requests[-1][0] <= MAX_REQUEST
        ):
            requests[-1] = (requests[-1][0], max(end, requests[-1][1]))
        else:
            requests.append((first, end))
    return requests


def _assigned(
    requests: Sequence[tuple[int, int]], offsets: Sequence[int], sizes: Sequence[int]
) -> Iterator[tuple[tuple[int, int], int, int]]:
    """The request that covers each range."""
    from bisect import bisect_right

    firsts = [first for first, _ in requests]
    for offset, size in zip(offsets, sizes, strict=True):
        place = bisect_right(firsts, int(offset)) - 1
        while requests[place][1] < offset + size:  # a range may begin inside an earlier, longer one
            place -= 1
        yield requests[place], int(offset), int(size)


class RangedReader(io.RawIOBase):
    """A seekable file over ranges, for the many small reads of an HDF5 file's structure.

    Blocks are kept. When a node of a B-tree (version 1, the default of h5py) is read, the nodes below it are fetched
    together, so that reading a tree waits once per level and not once per node.
    """

    def __init__(self, source: RemoteFile) -> None:
        super().__init__()
        self._source, self._at = source, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to ``offset`` from the start, the place now or the end."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        return self._at

    def tell(self) -> int:
        """Place of the next byte."""
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """Read up to ``len(buffer)`` bytes."""
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._source.size)
        if end <= self._at:
            return 0
        self._load(range(self._at // BLOCK, -(-end // BLOCK)))
        data = b"".join(self._blocks[number] for number in range(self._at // BLOCK, -(-end // BLOCK)))
        skip = self._at % BLOCK
        data = data[skip : skip + end - self._at]
        view[: len(data)] = data
        self._at = end
        if children := _tree_children(data):
            ends = [min(place + len(data), self._source.size) - 1 for place in children]
            places = [place for place in (*children, *ends) if 0 <= place < self._source.size]
            self._load(sorted({place // BLOCK for place in places}))
        return len(data)

    def _load(self, numbers: Sequence[int]) -> None:
        absent = [number for number in numbers if number not in self._blocks]
        if absent:
            sizes = [min(BLOCK, self._source.size - number * BLOCK) for number in absent]
            found = self._source.read_many([number * BLOCK for number in absent], sizes)
            self._blocks |= dict(zip(absent, found, strict=True))
        for number in numbers:
            self._blocks.move_to_end(number)
        while len(self._blocks) > max(MAX_BLOCKS, len(numbers)):
            self._blocks.popitem(last=False)


def _tree_children(data: bytes) -> list[int]:
    """Addresses below an inner node of a version 1 B-tree over chunks; empty for anything else."""
    head, pointers = 24, 64  # bytes before the first key; children of a node unless the writer chose otherwise
    if data[:4] != b"TREE" or len(data) < head or data[4] != 1 or data[5] == 0:
        return []
    n_used = struct.unpack_from("<H", data, 6)[0]
    key, rest = divmod(len(data) - head - 8 * pointers, pointers + 1)
    if rest or key <= 0 or n_used > pointers:
        return []
    return [struct.unpack_from("<Q", data, head + number * (key + 8) + key)[0] for number in range(n_used)]
