"""Files of runs as answers: piece by piece, in part where a part is asked for, not at all where the reader has them.

In: a request and a file of a run. Out: an answer that never holds the file whole; RFC 9110 names its parts.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from fastapi import Response
from fastapi.responses import StreamingResponse

from haystack_kernel.service.problems import MEDIA_TYPE, new_problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import Request

    from haystack_kernel.store import StoredFile

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.IGNORECASE)


def has_already(request: Request, etag: str) -> bool:
    """Whether the reader says that it has what the ETag names."""
    given = [item.strip().removeprefix("W/") for item in request.headers.get("if-none-match", "").split(",")]
    return request.method in ("GET", "HEAD") and (etag in given or "*" in given)


def send_file(request: Request, found: StoredFile, *, media_type: str, headers: Mapping[str, str]) -> Response:
    """Answer with a file, or with the part of it that ``Range`` asks for.

    Several parts at once, and parts of another version of the file (``If-Range``), are answered with the whole file.
    """
    etag = f'"{hashlib.sha256(f"{found.path} {found.stamp}".encode()).hexdigest()[:24]}"'
    common = {"ETag": etag, "Cache-Control": "private, no-cache", "Accept-Ranges": "bytes", **headers}
    if has_already(request, etag):
        return Response(status_code=304, headers=common)
    start, stop, status = 0, found.n_bytes, 200
    part = _part(request.headers.get("range", ""), n_bytes=found.n_bytes)
    if part is not None and request.headers.get("if-range", etag) == etag:
        (start, stop), status = part, 206
        if start >= stop:
            problem = new_problem(416, f"the file has {found.n_bytes} bytes; the part asked for lies outside")
            common["Content-Range"] = f"bytes */{found.n_bytes}"
            text = problem.model_dump_json(exclude_none=True)
            return Response(text, status_code=416, media_type=MEDIA_TYPE, headers=common)
        common["Content-Range"] = f"bytes {start}-{stop - 1}/{found.n_bytes}"
    common["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, media_type=media_type, headers=common)
    return StreamingResponse(found.pieces(start, stop), status_code=status, media_type=media_type, headers=common)


def _part(asked: str, *, n_bytes: int) -> tuple[int, int] | None:
    """The bytes that ``Range`` asks for, from the first to before the end; None for none, or what is not one part."""
    found = _RANGE.fullmatch(asked.replace(" ", ""))
    first, last = found.groups() if found else ("", "")
    if first and last and int(last) < int(first):
        return None
    if first:
        return int(first), min(int(last) + 1, n_bytes) if last else n_bytes
    return (max(n_bytes - int(last), 0), n_bytes) if last else None
