"""Helpers that read every kind of addition: bounded bytes, text, versions, licences, and one form of ontology terms.

In: a path. Out: bytes or text of bounded size; InvalidInputError says what was given and what to give instead.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from haystack_kernel.knowledge.terms import Obsolete

MAX_BYTES = 512 * 2**20  # unpacked
MAX_TERMS = 250_000
MAX_TEXT = 1000  # characters of one name or synonym
_UNSTATED = "version unstated"
_DATE = re.compile(r"(?<!\d)(20\d\d-?\d\d-?\d\d)(?!\d)")
_RELEASE = re.compile(r"(?<![a-z\d])v(\d[\w.]*\d|\d)(?=[._-]|$)", re.IGNORECASE)
_LICENCE = re.compile(
    r"(https?://creativecommons\.org/[^\s\"'>)]+|CC[ -]?BY(?:[ -](?:SA|NC|ND))*(?:[ -]\d\.\d)?|CC0(?:[ -]1\.0)?)", re.I
)
_STATED = re.compile(r"licen[cs]e\s*[:=]\s*(\S.{0,79})", re.I)  # any other, such as "licence: MIT"


@dataclass(frozen=True)
class OntologyTerm:
    """One live term as read: links are ids of the same file."""

    id: str
    name: str
    synonyms: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()
    develops_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceFile:
    """The content of a file: ontology terms, pathways or perturbations, retired ids, version and licence."""

    rows: tuple[Any, ...]
    obsolete: tuple[Obsolete, ...]
    version: str
    licence: str
    notes: tuple[str, ...] = ()


def read_bounded(path: Path, *, max_bytes: int = MAX_BYTES) -> tuple[bytes, str]:
    """Return the bytes of a file, unpacked where it is gzip, and the SHA-256 of the file itself.

    Raises
    ------
    NotFoundError
        No such file.
    InvalidInputError
        It cannot be read, is empty, is broken gzip, or holds more than ``max_bytes`` once unpacked.
    """
    try:
        if not path.is_file():
            message = f"{path} is no file. Give the path of an OBO, JSON, GMT or TSV file, plain or .gz."
            raise NotFoundError(message, path=str(path))
        if path.stat().st_size > max_bytes:
            raise _too_large(path, max_bytes)
        raw = path.read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}. Check the path and its permissions."
        raise InvalidInputError(message, path=str(path)) from error
    digest = hashlib.sha256(raw).hexdigest()
    if raw[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as stream:
                raw = stream.read(max_bytes + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            message = f"{path} is truncated or damaged gzip ({error}). Fetch the file again."
            raise InvalidInputError(message, path=str(path)) from error
        if len(raw) > max_bytes:
            raise _too_large(path, max_bytes)
    raw = _as_utf8(raw, path=path)
    if not raw.strip():
        message = f"{path} is empty. Fetch the file again, or give another."
        raise InvalidInputError(message, path=str(path))
    return raw, digest


def _as_utf8(raw: bytes, *, path: Path) -> bytes:
    """Return the bytes without a byte order mark, and what a spreadsheet saved as UTF-16 in UTF-8."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return raw.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            message = f"{path} begins as text in UTF-16 and is not ({error.reason}). Save it as UTF-8."
            raise InvalidInputError(message, path=str(path)) from error
    return raw.removeprefix(b"\xef\xbb\xbf")


def decode(raw: bytes, *, path: Path) -> str:
    """Return the text of the bytes; InvalidInputError where they are not UTF-8."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        message = (
            f"{path} is not text in UTF-8 (line {line}, byte {error.start}). Give an OBO, JSON, GMT or TSV file, saved "
            "as UTF-8."
        )
        raise InvalidInputError(message, path=str(path), line=line) from error


def lines_of(text: str) -> list[str]:
    """Return the lines, ended as on any system; other separators of Unicode end none, so that lines can be counted."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def version_in_name(path: Path) -> str:
    """Return the release that a file name states, ``2026-03-26`` or ``7.2``; else that none is stated."""
    found = _DATE.search(path.name) or _RELEASE.search(path.name)
    return found[1] if found else _UNSTATED


def comments_of(raw: bytes) -> str:
    """Return the comment lines near the head of a file."""
    return "\n".join(re.findall(r"(?m)^[#!].*$", raw[:20_000].decode("utf-8", errors="replace")))


def find_licence(text: str) -> str:
    """Return the licence named in a header, as written there; "" where none is."""
    found = _LICENCE.search(text) or _STATED.search(text)
    return found[1].strip() if found else ""


def clean_name(text: str, *, path: Path, where: str) -> str:
    """Return a name on one line, at most ``MAX_TEXT`` characters."""
    name = " ".join(text.split())
    if len(name) > MAX_TEXT:
        message = (
            f"{path.name}, {where}: a name of {len(name):,} characters; {MAX_TEXT:,} are possible. Correct the file."
        )
        raise InvalidInputError(message, path=str(path))
    return name


def check_count(n_rows: int, *, path: Path, what: str) -> None:
    """Refuse a file with more rows than any real source has."""
    if n_rows > MAX_TERMS:
        message = f"{path} has {n_rows:,} {what}; {MAX_TERMS:,} are possible. Cut it to what you need."
        raise InvalidInputError(message, path=str(path))


def check_acyclic(parents: Mapping[str, Iterable[str]], *, path: Path) -> None:
    """Refuse is_a links that lead from a term back to itself."""
    done: set[str] = set()
    for start in parents:
        trail: set[str] = set()
        stack = [(start, False)]
        while stack:
            term, is_left = stack.pop()
            if is_left:
                trail.discard(term)
                done.add(term)
            elif term in trail:
                message = f"{path}: {term} is its own ancestor along is_a. Give a released version of the ontology."
                raise InvalidInputError(message, path=str(path), id=term)
            elif term not in done:
                trail.add(term)
                stack.append((term, True))
                stack.extend((up, False) for up in parents.get(term, ()) if up not in done)


def _too_large(path: Path, max_bytes: int) -> InvalidInputError:
    message = f"{path} has more than {max_bytes / 2**20:.3g} MiB. Give a smaller release, such as the 'base' one."
    return InvalidInputError(message, path=str(path))
