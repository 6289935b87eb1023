"""Whole ontologies as they lie in the package: read when a term or a name of theirs is first asked for.

In: ``<name>.tsv.gz`` and ``<name>.keys``, made by ``python -m tools.build_ontologies``, and their manifest. Out: tables
in which hand-written rows win, the names of all other terms, and retired ids.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge.hashed import HashedKeys, NamedRows, NameText, hash_keys, keys_from_bytes
from haystack_kernel.knowledge.readers import OntologyTerm
from haystack_kernel.knowledge.tables import read_synonyms
from haystack_kernel.knowledge.terms import CellType, Disease, Obsolete, Source, SourceKind, Tissue

if TYPE_CHECKING:
    from pathlib import Path

    from haystack_kernel.knowledge.hashed import NameLayer
    from haystack_kernel.knowledge.terms import Knowledge
    from haystack_kernel.schema import TermKind

Term = TypeVar("Term", CellType, Tissue, Disease)

MANIFEST = "ontologies.tsv"
MANIFEST_COLUMNS = ("kind", "name", "version", "terms", "licence", "origin", "sha256", "keys_sha256")
COLUMNS = ("id", "name", "rank", "parents", "synonyms")
RETIRED = "retired"
RETIRED_COLUMNS = ("id", "name", "replaced_by", "consider")
_TABLES: dict[str, tuple[str, TermKind, Callable[..., Any]]] = {  # packed file -> table, kind and record
    "cl": ("cell_types", "cell_type", CellType),
    "uberon": ("tissues", "tissue", Tissue),
    "mondo": ("diseases", "disease", Disease),
}


@dataclass(frozen=True)
class PackedSource:
    """A line of the manifest: what a packed file holds, where it comes from, and its digest."""

    kind: str
    name: str
    version: str
    n_terms: int
    licence: str
    origin: str
    digest: str
    keys_digest: str

    @property
    def source(self) -> Source:
        """Return the part that goes into the record of a run."""
        return Source(self.name, cast("SourceKind", self.kind), self.version, self.digest, self.n_terms, self.licence)


def read_manifest(folder: Path) -> dict[str, PackedSource]:
    """Return the packed files of a folder by kind; empty where it has none.

    Raises
    ------
    ContractError
        The manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = {}
    for line in lines[1:]:
        cells = line.split("\t")
        if lines[0] != "\t".join(MANIFEST_COLUMNS) or len(cells) != len(MANIFEST_COLUMNS) or not cells[3].isdigit():
            raise _damaged(path, f"the line {line!r} is not {', '.join(MANIFEST_COLUMNS)}")
        kind, name, version, n_terms, licence, origin, digest, keys_digest = cells
        found[kind] = PackedSource(kind, name, version, int(n_terms), licence, origin, digest, keys_digest)
    return found


def with_ontologies(base: Knowledge, *, folder: Path) -> Knowledge:
    """Put the packed ontologies of a folder below the tables written by hand; nothing large is read yet.

    Parameters
    ----------
    base
        Tables written by hand; their rows win.
    folder
        Contains the manifest and the files that it names.

    Returns
    -------
    Knowledge of all terms, with the ontologies among its sources and in its digest.
    """
    packed = read_manifest(folder)
    tables: dict[str, Any] = {}
    layers: dict[TermKind, tuple[NameLayer, ...]] = {}
    synonyms, written = read_synonyms(folder / "synonyms.tsv")
    for kind, (field, term_kind, make) in _TABLES.items():
        source = packed[kind]
        terms = PackedTerms(folder / f"{kind}.tsv.gz", kind=term_kind, prefix=f"{source.name}:", source=source)
        tables[field] = TermTable(getattr(base, field), terms, make)
        named = {id: names for id, names in synonyms.items() if id.startswith(terms.prefix)}
        further = NamedRows(list(named.values()), terms=list(named), keys=hash_keys(named.values(), kind=term_kind))
        further.must_be_plain = True
        layers[term_kind] = (further, terms)
    sources = tuple(packed[kind].source for kind in _TABLES)
    joined = "".join(f"\n{one.kind} {one.version} {one.digest}" for one in packed.values()) + written
    return replace(
        base,
        **tables,
        digest=hashlib.sha256((base.digest + joined).encode()).hexdigest(),
        obsolete=RetiredTerms(folder / f"{RETIRED}.tsv.gz", digest=packed[RETIRED].digest, over=base.obsolete),
        sources=(*base.sources, *sources),
        layers=layers,
    )


class PackedTerms:
    """Terms of one ontology; a layer of names for an index, and a source of rows for a table."""

    is_packaged = must_be_plain = True

    def __init__(self, path: Path, *, kind: TermKind, prefix: str, source: PackedSource) -> None:
        self.path, self.kind, self.prefix, self.source = path, kind, prefix, source

    @functools.cached_property
    def _lines(self) -> list[str]:
        return read_packed(self.path, columns=COLUMNS, digest=self.source.digest)

    @functools.cached_property
    def _row_of_id(self) -> dict[str, int]:
        return {line[: line.index("\t")]: row for row, line in enumerate(self._lines)}

    @functools.cached_property
    def keys(self) -> HashedKeys:
        """Hashes of all names; computed anew where the packaged ones were made by other rules."""
        path = self.path.with_name(self.path.name.replace(".tsv.gz", ".keys"))
        try:
            known = keys_from_bytes(path.read_bytes(), where=path.name)
        except OSError as error:
            raise _damaged(path, f"it cannot be read ({error})") from error
        return known or hash_keys(map(self.names_of, range(len(self._lines))), kind=self.kind)

    @functools.cached_property
    def names(self) -> NameText:
        """Every name in lower case."""
        return NameText([name.lower() for line in self._lines for name in _names(line)])

    @functools.cached_property
    def _rows(self) -> list[int]:
        return [row for row, line in enumerate(self._lines) for _ in _names(line)]

    def row_of(self, place: int) -> int:
        """Return the row of a name of ``names``."""
        return self._rows[place]

    def term_of(self, row: int) -> str:
        """Return the id of a row."""
        return self._lines[row].split("\t", 1)[0]

    def names_of(self, row: int) -> Sequence[str]:
        """Return name and synonyms of a row."""
        return _names(self._lines[row])

    def rank_of(self, row: int) -> int:
        """Return 0 for terms of common use, 1 for others, 2 for those of other species."""
        return int(self._lines[row].split("\t", 3)[2])

    def __contains__(self, id: str) -> bool:
        return id.startswith(self.prefix) and id in self._row_of_id

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_of_id)

    def __len__(self) -> int:
        return self.source.n_terms

    def parents_of(self, id: str) -> tuple[str, ...]:
        """Return the terms directly above an id, at a third of the cost of its row; KeyError where there is none."""
        above = self._lines[self._row_of_id[id]].split("\t", 4)[3]
        return tuple(f"{self.prefix}{one}" for one in above.split(";")) if above else ()

    def term(self, id: str) -> OntologyTerm:
        """Return the row of an id; KeyError where there is none."""
        cells = self._lines[self._row_of_id[id]].split("\t")
        parents = tuple(f"{self.prefix}{one}" for one in cells[3].split(";")) if cells[3] else ()
        synonyms = tuple(cells[4].split("|")) if cells[4] else ()
        return OntologyTerm(cells[0], cells[1], synonyms, parents)


class TermTable(Mapping[str, Term]):
    """Terms by id: the rows of ``over`` win, all others are made from the packed ontology when asked for."""

    def __init__(self, over: Mapping[str, Term], packed: PackedTerms, make: Callable[..., Term]) -> None:
        self.over: dict[str, Term] = dict(over)
        self.packed: PackedTerms = packed
        self.make: Callable[..., Term] = make
        self._made: dict[str, Term] = {}

    def __getitem__(self, id: str) -> Term:
        known = self.over.get(id) or self._made.get(id)
        if known is None:
            if id not in self.packed:
                raise KeyError(id)
            row = self.packed.term(id)
            known = self.make(row.id, row.name, synonyms=row.synonyms, parents=row.parents, source="ontology")
            self._made[id] = known
        return known

    def __contains__(self, id: object) -> bool:
        return id in self.over or (isinstance(id, str) and id in self.packed)

    def __iter__(self) -> Iterator[str]:
        yield from self.over
        yield from (id for id in self.packed if id not in self.over)

    def __len__(self) -> int:
        return len(self.over) + sum(id not in self.over for id in self.packed)

    def with_rows(self, over: Mapping[str, Term]) -> TermTable[Term]:
        """Return the same table with other rows above the ontology."""
        return TermTable(over, self.packed, self.make)


class RetiredTerms(Mapping[str, Obsolete]):
    """Ids that the packed ontologies have retired, read when the first is asked for."""

    def __init__(self, path: Path, *, digest: str, over: Mapping[str, Obsolete] | None = None) -> None:
        self.path, self.digest, self.over = path, digest, dict(over or {})

    @functools.cached_property
    def _lines(self) -> dict[str, str]:
        lines = read_packed(self.path, columns=RETIRED_COLUMNS, digest=self.digest)
        return {line[: line.index("\t")]: line for line in lines}

    def __getitem__(self, id: str) -> Obsolete:
        if id in self.over:
            return self.over[id]
        cells = self._lines[id].split("\t")
        replaced, consider = (tuple(one.split(";")) if one else () for one in cells[2:])
        return Obsolete(cells[0], cells[1], replaced, consider)

    def __contains__(self, id: object) -> bool:
        return id in self.over or (isinstance(id, str) and ":" in id and id in self._lines)

    def __iter__(self) -> Iterator[str]:
        yield from self.over
        yield from (id for id in self._lines if id not in self.over)

    def __len__(self) -> int:
        return len(self.over) + sum(id not in self.over for id in self._lines)

    def with_rows(self, over: Mapping[str, Obsolete]) -> RetiredTerms:
        """Return the same table with other rows above the packed ones."""
        return RetiredTerms(self.path, digest=self.digest, over=over)


def read_packed(path: Path, *, columns: Sequence[str], digest: str) -> list[str]:
    """Return the lines of a packed table below its header.

    Raises
    ------
    ContractError
        The file is missing, or is not the one that the manifest names.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if hashlib.sha256(raw).hexdigest() != digest:
        raise _damaged(path, "its digest is not that of the manifest")
    lines = gzip.decompress(raw).decode("utf-8").split("\n")
    start = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    if lines[start] != "\t".join(columns):
        raise _damaged(path, f"its header must be {', '.join(columns)}")
    return lines[start + 1 : -1]


def _names(line: str) -> list[str]:
    cells = line.split("\t")
    return [cells[1], *cells[4].split("|")] if cells[4] else [cells[1]]


def _damaged(path: Path, what: str) -> ContractError:
    return ContractError(f"{path.name} is damaged: {what}. Reinstall haystack-kernel.", path=str(path))
