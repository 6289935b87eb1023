"""The compact form of an addition: one file of a header, rows and the keys of their names, written atomically.

In: an ``Addition``. Out: ``<folder>/<name>.json``, and the same addition again.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import ContractError, StorageError
from haystack_kernel.knowledge.hashed import HashedKeys, hash_keys, keys_from_bytes
from haystack_kernel.knowledge.readers import OntologyTerm
from haystack_kernel.knowledge.terms import Edge, Obsolete, Pathway, PerturbationEntry, Source, SourceKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.schema import TermKind

FORMAT = 2
ADDED = "added"  # source of treatments from a user's file
READ = (1, 2)  # format 1 has no keys of names: they are computed when it is read
TERM_KINDS: dict[str, TermKind] = {  # additions that name terms -> kind of term
    "cl": "cell_type",
    "uberon": "tissue",
    "mondo": "disease",
    "targets": "perturbation",
}
ROWS: dict[str, type] = {
    "cl": OntologyTerm,
    "uberon": OntologyTerm,
    "mondo": OntologyTerm,
    "genesets": Pathway,
    "targets": PerturbationEntry,
    "network": Edge,
    "regulons": Edge,
}


@dataclass(frozen=True)
class Header:
    """The header of an addition, read without its rows; ``order`` grows, and later ones override earlier ones."""

    name: str
    kind: SourceKind
    version: str
    digest: str
    n_terms: int
    licence: str
    file: str
    order: int
    n_obsolete: int = 0
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> Source:
        """Return the part that goes into the record of a run."""
        return Source(self.name, self.kind, self.version, self.digest, self.n_terms, self.licence)


@dataclass(frozen=True)
class Addition:
    """Rows of one file: terms of an ontology, pathways, perturbations or edges, as ``header.kind`` says."""

    header: Header
    rows: tuple[Any, ...]
    obsolete: tuple[Obsolete, ...] = field(default=())
    stored_keys: HashedKeys | None = field(default=None, compare=False, repr=False)

    @property
    def term_kind(self) -> TermKind | None:
        """Which terms the rows name; None for gene sets and networks."""
        return TERM_KINDS.get(self.header.kind)

    @functools.cached_property
    def keys(self) -> HashedKeys:
        """The hashes of all names of the rows: those stored with them, or else computed."""
        if self.stored_keys is not None:
            return self.stored_keys
        names = [(row.name, *row.synonyms) for row in self.rows]
        return hash_keys(names, kind=TERM_KINDS[self.header.kind])


def write_addition(addition: Addition, folder: Path) -> Path:
    """Publish an addition; a reader sees the old file or the new one, never a part.

    Raises
    ------
    StorageError
        The folder cannot be made or written.
    """
    rows = json.dumps(
        {"rows": [_flat(one) for one in addition.rows], "obsolete": [_flat(one) for one in addition.obsolete]},
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()
    keys = base64.b64encode(addition.keys.to_bytes()) if addition.term_kind else b""
    head = {"format": FORMAT, **asdict(addition.header), "rows_sha256": hashlib.sha256(rows).hexdigest()}
    path = folder / f"{addition.header.name}.json"
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".adding-", delete=False) as stream:
            temporary = Path(stream.name)
            stream.write(json.dumps(head, ensure_ascii=False).encode() + b"\n" + rows + b"\n" + keys + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        message = (
            f"knowledge cannot be written to {folder}: {error.strerror or error}. Set HAYSTACK_KNOWLEDGE to another."
        )
        raise StorageError(message, path=str(folder)) from error
    return path


def list_headers(folder: Path) -> list[Header]:
    """Return the headers of all additions, oldest first; empty where the folder does not exist."""
    headers = [read_header(path) for path in sorted(folder.glob("*.json"))]
    return sorted(headers, key=lambda one: (one.order, one.name))


def read_header(path: Path) -> Header:
    """Return the first line of an addition.

    Raises
    ------
    ContractError
        It is damaged, or was written by another version.
    """
    with path.open("rb") as stream:
        return _header(stream.readline(), path=path)[0]


def read_addition(path: Path) -> Addition:
    """Return a whole addition, checked against the digest in its header.

    Raises
    ------
    ContractError
        It is damaged, or was written by another version.
    """
    head, _, rest = path.read_bytes().partition(b"\n")
    header, digest = _header(head, path=path)
    rows, _, keys = rest.rstrip(b"\n").partition(b"\n")
    if hashlib.sha256(rows).hexdigest() != digest:
        raise _damaged(path, "its rows were changed or cut short")
    content = json.loads(rows)
    stored = None
    if keys:
        try:
            stored = keys_from_bytes(base64.b64decode(keys, validate=True), where=path.name)
        except ValueError as error:
            raise _damaged(path, "the keys of its names were changed or cut short") from error
    fixed = {"source": ADDED} if header.kind == "targets" else {}
    full = _full(ROWS[header.kind], content["rows"], **fixed)
    return Addition(header, full, _full(Obsolete, content["obsolete"]), stored)


def _header(line: bytes, *, path: Path) -> tuple[Header, str]:
    try:
        head = json.loads(line)
        if head.pop("format") not in READ:
            raise _damaged(path, "it was written by another version of HAYSTACK")
        digest = head.pop("rows_sha256")
        header = Header(**{**head, "notes": tuple(head["notes"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"its first line is no header ({type(error).__name__})") from error
    if header.kind not in ROWS or header.name != path.stem:
        raise _damaged(path, "its header belongs to another file")
    return header, digest


def _flat(row: object) -> list[Any]:
    """Return the values of a record in the order of its fields, without defaults at the end."""
    named = fields(row)  # type: ignore[arg-type]
    values = [getattr(row, one.name) for one in named]
    while values[-1] == named[len(values) - 1].default:
        values.pop()
    return values


def _full(kind: type, rows: Sequence[Sequence[Any]], **fixed: str) -> tuple[Any, ...]:
    """Return the records of rows; ``fixed`` are the values of the last fields, which rows do not state."""
    n_stated = len(fields(kind)) - len(fixed)
    return tuple(
        kind(*[tuple(value) if isinstance(value, list) else value for value in row[:n_stated]], **fixed) for row in rows
    )


def _damaged(path: Path, what: str) -> ContractError:
    message = f"the knowledge in {path} cannot be used: {what}. Add its source again, or delete the file."
    return ContractError(message, path=str(path))
