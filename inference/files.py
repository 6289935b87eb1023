"""Reads and writes local paths and gs:// addresses: whole files, each published in one step.

In: addresses. Out: bytes, local copies, digests, and the shard of a Batch array that this process is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from inference.bucket import Objects
from inference.errors import StorageError, UriError
from inference.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Iterator

_GS = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/(?P<key>[^/].*)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CHUNK = 1 << 20
_DIGEST = "user.haystack.sha256"
_HEX = re.compile(r"[0-9a-f]{64}")
_LEAST_REMEMBERED = 1 << 24  # bytes; the digest of less takes no time
_SETTLED_NS = 2_000_000_000
SAVE_PATIENCE_S = 1800.0  # a bucket that fails is waited for this long before a finished prediction is given up
_FORMS = "a local path, file:///path or gs://bucket/path"


def shard() -> tuple[int, int]:
    """Index and count of this task in its Batch array; (0, 1) outside one.

    Raises
    ------
    UriError
        The two variables do not describe a shard.
    """
    index, count = (os.environ.get(name, default) for name, default in _SHARD)  # noqa: TID251
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        msg = f"BATCH_TASK_INDEX={index!r} and BATCH_TASK_COUNT={count!r}; they must be whole numbers, index < count"
        raise UriError(msg)
    return int(index), int(count)


_SHARD = (("BATCH_TASK_INDEX", "0"), ("BATCH_TASK_COUNT", "1"))


def check_uri(uri: str) -> str:
    """Return the address in its plain form: a local path or ``gs://bucket/key``.

    Raises
    ------
    UriError
        The address is empty, has another scheme, a step upwards, a control character, or a malformed bucket.
    """
    if not uri or _CONTROL.search(uri):
        msg = f"address {uri!r} is empty or holds control characters; possible: {_FORMS}"
        raise UriError(msg)
    plain = uri.removeprefix("file://")
    if ".." in re.split(r"[/\\]", plain):
        msg = f"address {uri!r} steps upwards with '..'; write the path without it"
        raise UriError(msg)
    if plain.startswith("gs://"):
        if not _GS.fullmatch(plain) or "//" in plain.removeprefix("gs://"):
            msg = f"address {uri!r} is not gs://bucket/path (bucket: 3-222 of a-z 0-9 . _ -)"
            raise UriError(msg)
    elif _SCHEME.match(plain) or plain.startswith("gs:"):
        msg = f"address {uri!r} has a scheme this program does not read; possible: {_FORMS}"
        raise UriError(msg)
    return plain


def exists(uri: str) -> bool:
    """Whether a file exists."""
    uri = check_uri(uri)
    if not _is_remote(uri):
        return Path(uri).is_file()
    with _clear_errors(uri):
        return _objects().generation(uri) is not None


def read_bytes(uri: str) -> bytes:
    """Read a whole file; raises FileNotFoundError where it is missing."""
    uri = check_uri(uri)
    with _clear_errors(uri):
        return _objects().read(uri) if _is_remote(uri) else Path(uri).read_bytes()


def local_copy(uri: str, *, folder: Path) -> Path:
    """Return a local path of the file: the file itself where it is local, otherwise a download into ``folder``.

    Raises
    ------
    FileNotFoundError
        The file, or its bucket, does not exist.
    StorageError
        The disk is full, permission is denied, or the service failed.
    """
    uri = check_uri(uri)
    if not _is_remote(uri):
        if not Path(uri).is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", uri)
        return Path(uri)
    target = folder / (hashlib.sha256(uri.encode()).hexdigest()[:24] + Path(uri).suffix)
    with _clear_errors(uri):
        _objects().download(uri, target)
    return target


def publish(path: Path, uri: str) -> None:
    """Move a finished local file to ``uri`` so that readers see either the old file or the complete new one.

    Raises
    ------
    StorageError
        The disk is full, permission is denied, the bucket does not exist, or the service failed.
    """
    uri = check_uri(uri)
    if _is_remote(uri):
        with _clear_errors(uri, missing_is_fault=True):
            _objects().upload(path, uri)
        return
    target = Path(uri)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    with _clear_errors(uri, missing_is_fault=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("rb") as source, temporary.open("wb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
                sink.flush()
                os.fsync(sink.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(text: str, uri: str, *, folder: Path) -> None:
    """Publish a small text file through a temporary one in ``folder``."""
    path = folder / f"{uuid.uuid4().hex}.txt"
    with _clear_errors(uri, missing_is_fault=True):
        path.write_text(text, encoding="utf-8")
    publish(path, uri)
    path.unlink()


def remove(uri: str) -> None:
    """Delete a file where it exists."""
    uri = check_uri(uri)
    with suppress(FileNotFoundError), _clear_errors(uri):
        if _is_remote(uri):
            _objects().remove(uri)
        else:
            Path(uri).unlink()


def sha256_of(path: Path) -> str:
    """Hex digest of a local file."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def remembered_sha256(path: Path) -> str:
    """Hex digest of a local file, computed once: it is kept in an attribute of the file with its size and time.

    A file system without such attributes, or a file of somebody else, has it computed each time.
    """
    stat = path.stat()
    stamp = f"{stat.st_size} {stat.st_mtime_ns} "
    if stat.st_size < _LEAST_REMEMBERED or not hasattr(os, "getxattr"):
        return sha256_of(path)
    with suppress(OSError):
        kept = os.getxattr(path, _DIGEST).decode("ascii", "replace")
        if kept.startswith(stamp) and _HEX.fullmatch(kept.removeprefix(stamp)):
            return kept.removeprefix(stamp)
    digest = sha256_of(path)
    after = path.stat()
    is_settled = time.time_ns() - after.st_mtime_ns > _SETTLED_NS  # a change within the clock's tick would not show
    if is_settled and (after.st_size, after.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        with suppress(OSError):
            os.setxattr(path, _DIGEST, (stamp + digest).encode())
    return digest


@contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed local write (disk full, no permission) into a :class:`StorageError`."""
    with _clear_errors(str(path), missing_is_fault=True):
        yield


def _is_remote(uri: str) -> bool:
    return uri.startswith("gs://")


def _objects() -> Objects:
    return Objects(Patience(saving_s=SAVE_PATIENCE_S, tell=_say))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def _clear_errors(uri: str, *, missing_is_fault: bool = False) -> Iterator[None]:
    """Raise :class:`StorageError` with one sentence per cause; FileNotFoundError passes unless ``missing_is_fault``."""
    try:
        yield
    except StorageError:
        raise
    except ImportError as error:
        msg = "gs:// addresses need google-cloud-storage: pip install google-cloud-storage, or give local paths"
        raise StorageError(msg) from error
    except FileNotFoundError as error:
        if not missing_is_fault:
            raise FileNotFoundError(errno.ENOENT, "no such file or bucket", uri) from error
        msg = f"cannot write {uri}: its folder does not exist; create it first"
        raise StorageError(msg) from error
    except OSError as error:
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            msg = f"{uri}: the disk is full; free space and run again, finished tasks are kept"
        elif isinstance(error, PermissionError) or error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            msg = f"{uri}: permission denied ({text}); give this account read and write access there"
        elif isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
            msg = f"{uri}: part of the path is a folder where a file is needed, or the reverse; give another path"
        else:
            msg = f"{uri}: storage failed ({type(error).__name__}: {text}); run again, finished tasks are kept"
        raise StorageError(msg) from error
