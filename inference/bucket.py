"""Whole objects in Cloud Storage: verified by checksum, tried again while it fails, replaced only as agreed.

In: ``gs://`` addresses with bytes or local files. Out: the same on the other side, or :class:`BucketError` in words.
The container and the kernel's run folders share it; the byte ranges of atlases go through fsspec.
"""

from __future__ import annotations

import base64
import errno
import functools
import io
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from inference.errors import BucketError
from inference.patience import Attempts, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from google.auth.transport.urllib3 import AuthorizedHttp
    from google.cloud.storage import Blob, Client

CHUNK = 8 << 20  # bytes; larger files go up in chunks of this size, each tried again by itself
_TIMEOUT_S = (10.0, 60.0)  # to connect, and between two packets
_WRITER = "haystack-writer"
_N_AT_ONCE = 64  # plain requests side by side
_UNCLEAR = b"\0unclear"  # compared by identity
_NO_TRACING = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"


class Objects:
    """The objects of all buckets this account can reach.

    Parameters
    ----------
    patience
        How long failures are waited out.

    Raises
    ------
    BucketError
        By every method: no or expired credentials, no permission, no such bucket (while writing), or a service that
        failed longer than the patience.
    ImportError
        At the first request, where google-cloud-storage is not installed.
    """

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()

    def read(self, uri: str) -> bytes:
        """Bytes of an object, verified; FileNotFoundError when it or its bucket is absent."""
        sink = io.BytesIO()
        self._fetch(uri, lambda: sink)
        return sink.getvalue()

    def read_many(self, uris: Sequence[str]) -> list[bytes | None]:
        """Bytes of many small objects, verified; None for those that are absent.

        Plain requests side by side, which cost a quarter of the client library's processor time; what such a request
        does not answer cleanly is read again as :meth:`read` does it, with its patience and its words.
        """
        http = _plain_http()

        def one(uri: str) -> bytes | None:
            found = _read_plainly(http, uri)
            if found is not _UNCLEAR:
                return found
            try:
                return self.read(uri)
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(min(_N_AT_ONCE, max(len(uris), 1))) as pool:
            return list(pool.map(one, uris))

    def download(self, uri: str, path: Path) -> None:
        """Copy an object to a local file, verified; FileNotFoundError when it or its bucket is absent."""
        try:
            with path.open("wb") as sink:
                self._fetch(uri, lambda: sink)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def write(self, uri: str, data: bytes, *, over: int | None = None) -> int | None:
        """Write an object in one step.

        Parameters
        ----------
        over
            Generation that this write may replace, 0 for none; None replaces whatever is there.

        Returns
        -------
        Its new generation; None where something else than ``over`` was there and nothing was written.
        """
        return self._put(uri, lambda: io.BytesIO(data), size=len(data), over=over)

    def upload(self, path: Path, uri: str) -> None:
        """Copy a local file to an object in one step."""
        self._put(uri, lambda: path.open("rb"), size=path.stat().st_size, over=None)

    def generation(self, uri: str) -> int | None:
        """Generation of an object, None when it or its bucket is absent."""
        found = self.info(uri)
        return None if found is None else found[1]

    def info(self, uri: str) -> tuple[int, int] | None:
        """Size in bytes and generation of an object, None when it or its bucket is absent."""
        found = self._find(uri)
        return None if found is None else (int(found.size or 0), int(found.generation))

    def read_range(self, uri: str, start: int, stop: int, *, generation: int) -> bytes:
        """Bytes ``start`` to ``stop`` (exclusive) of one generation; FileNotFoundError when that is no longer there."""
        bucket, key = _parts(uri)

        def ask() -> bytes:
            blob = _client().bucket(bucket).blob(key, generation=generation)
            data: bytes = blob.download_as_bytes(
                start=start, end=stop - 1, checksum=None, retry=None, timeout=_TIMEOUT_S
            )
            return data

        try:
            return Attempts(uri, self._patience).repeat(ask)
        except BucketError as error:
            if error.status == 404:
                raise FileNotFoundError(errno.ENOENT, "no such file, generation or bucket", uri) from error
            raise

    def names(self, folder: str) -> list[str]:
        """Names directly below ``folder``, of objects and of folders; none when nothing is there."""
        bucket, prefix = _parts(folder.rstrip("/") + "/")

        def ask() -> list[str]:
            pages = _client().list_blobs(
                bucket,
                prefix=prefix,
                delimiter="/",
                fields="items(name),prefixes,nextPageToken",
                timeout=_TIMEOUT_S,
                retry=None,
            )
            found = [blob.name for blob in pages]
            return sorted({name.removeprefix(prefix).rstrip("/") for name in (*found, *pages.prefixes)} - {""})

        return Attempts(folder, self._patience).repeat(ask)

    def sizes(self, folder: str) -> dict[str, int]:
        """Every object below ``folder`` by its name from there, with its size in bytes."""
        bucket, prefix = _parts(folder.rstrip("/") + "/")

        def ask() -> dict[str, int]:
            pages = _client().list_blobs(
                bucket, prefix=prefix, fields="items(name,size),nextPageToken", timeout=_TIMEOUT_S, retry=None
            )
            return {blob.name.removeprefix(prefix): int(blob.size or 0) for blob in pages}

        return Attempts(folder, self._patience).repeat(ask)

    def copy(self, source: str, target: str) -> None:
        """Copy an object where it is stored; FileNotFoundError when it is absent."""

        def ask() -> None:
            token: str | None = ""
            while token is not None:  # a large object may take several calls
                token, _, _ = _blob(target).rewrite(_blob(source), token=token or None, timeout=_TIMEOUT_S, retry=None)

        try:
            Attempts(source, self._patience).repeat(ask)
        except BucketError as error:
            if error.status == 404:
                raise FileNotFoundError(errno.ENOENT, "no such file or bucket", source) from error
            raise

    def remove(self, uri: str) -> None:
        """Delete an object if it is there."""
        try:
            Attempts(uri, self._patience).repeat(lambda: _blob(uri).delete(timeout=_TIMEOUT_S, retry=None))
        except BucketError as error:
            if error.status != 404:
                raise

    def _find(self, uri: str) -> Blob | None:
        bucket, key = _parts(uri)
        ask = functools.partial(_get, bucket, key)
        return Attempts(uri, self._patience).repeat(ask)

    def _fetch(self, uri: str, sink: Callable[[], BinaryIO]) -> None:
        def ask() -> None:
            target = sink()
            target.seek(0)
            target.truncate()
            # without the library's own retry: it goes on where it stopped, and then compares no checksum
            _blob(uri).download_to_file(target, checksum="crc32c", retry=None, timeout=_TIMEOUT_S)

        try:
            Attempts(uri, self._patience).repeat(ask)
        except BucketError as error:
            if error.status == 404:
                raise FileNotFoundError(errno.ENOENT, "no such file or bucket", uri) from error
            raise

    def _put(self, uri: str, source: Callable[[], BinaryIO], *, size: int, over: int | None) -> int | None:
        import google_crc32c
        from google.cloud.storage.exceptions import DataCorruption

        token, attempts = uuid.uuid4().hex, Attempts(uri, self._patience.when_saving())
        digest = google_crc32c.Checksum()
        with source() as stream:
            while part := stream.read(CHUNK):
                digest.update(part)
        crc32c = base64.b64encode(digest.digest()).decode()

        def send() -> int:
            blob = _blob(uri)
            blob.chunk_size, blob.metadata = CHUNK, {_WRITER: token}
            try:
                with source() as stream:
                    blob.upload_from_file(
                        stream,
                        size=size,
                        content_type="application/octet-stream",
                        if_generation_match=over,
                        checksum="crc32c",
                        crc32c_checksum_value=crc32c,  # lets the service refuse a damaged upload before it replaces
                        retry=attempts.each,
                        timeout=_TIMEOUT_S,
                    )
            except ValueError as error:
                if "unexpected state" not in str(error):
                    raise
                # The service kept only a part of a chunk, from where the library cannot go on: send the object anew.
                raise DataCorruption(None, str(error)) from error
            return int(blob.generation)

        try:
            return attempts.repeat(send)
        except BucketError as error:
            if error.status != 412:
                raise
        found = self._find(uri)  # it may be our own: written, and the answer lost on its way back
        is_own = found is not None and (found.metadata or {}).get(_WRITER) == token
        return int(found.generation) if found is not None and is_own else None


def _read_plainly(http: AuthorizedHttp, uri: str) -> bytes | None:
    """Bytes of an object, None where it is absent, ``_UNCLEAR`` where one plain request does not tell."""
    import google_crc32c
    from google.auth.exceptions import GoogleAuthError
    from urllib3.exceptions import HTTPError

    bucket, key = _parts(uri)
    address = f"{_client().api_endpoint}/storage/v1/b/{bucket}/o/{quote(key, safe='')}?alt=media"
    try:
        answer = http.request("GET", address, timeout=_TIMEOUT_S[1], retries=False)
    except (HTTPError, GoogleAuthError, OSError):
        return _UNCLEAR
    if answer.status == 404:
        return None
    data: bytes = answer.data
    crc32c = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    is_whole = answer.status == 200 and f"crc32c={crc32c}" in answer.headers.get("x-goog-hash", "")
    return data if is_whole else _UNCLEAR


@functools.lru_cache(maxsize=2)
def _plain_http_of(_host: str) -> AuthorizedHttp:
    import urllib3
    from google.auth.transport.urllib3 import AuthorizedHttp

    return AuthorizedHttp(_client()._credentials, urllib3.PoolManager(maxsize=_N_AT_ONCE))


def _plain_http() -> AuthorizedHttp:
    return _plain_http_of(os.environ.get("STORAGE_EMULATOR_HOST", ""))  # noqa: TID251 - see _client


def _parts(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("gs://").partition("/")
    return bucket, key


def _blob(uri: str) -> Blob:
    bucket, key = _parts(uri)
    return _client().bucket(bucket).blob(key)


def _get(bucket: str, key: str) -> Blob | None:
    return _client().bucket(bucket).get_blob(key, timeout=_TIMEOUT_S, retry=None)


def _client() -> Client:
    return _client_of(os.environ.get("STORAGE_EMULATOR_HOST", ""))  # noqa: TID251 - the library reads it when it starts


@functools.lru_cache(maxsize=2)
def _client_of(_host: str) -> Client:
    """One client a process and service: it keeps connections and the token."""
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    os.environ.setdefault(_NO_TRACING, "true")  # noqa: TID251 - else a thread asks for the bucket, only for traces
    try:
        return storage.Client()
    except DefaultCredentialsError:
        return storage.Client.create_anonymous_client()  # public buckets can still be read
