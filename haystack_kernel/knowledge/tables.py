"""The packaged tables of biology, read once and checked line by line.

In: nine tab-separated files of one folder. Out: a frozen ``Knowledge`` with its version and digest.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast, get_args

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge.terms import (
    CellType,
    Disease,
    Edge,
    EdgeKind,
    Knowledge,
    Pathway,
    PerturbationEntry,
    PerturbationType,
    ShortForm,
    Tissue,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

PACKAGED = Path(__file__).parent / "data"

_COLUMNS = {
    "actions.tsv": ("family", "action", "source"),
    "cell_lines.tsv": ("id", "name", "models", "line", "synonyms", "source"),
    "cell_types.tsv": ("id", "name", "parents", "synonyms", "markers", "tissues", "develops_from"),
    "diseases.tsv": ("id", "name", "synonyms"),
    "network.tsv": ("regulator", "kind", "targets", "source"),
    "pathways.tsv": ("name", "synonyms", "genes", "source"),
    "perturbations.tsv": (
        *("name", "type", "family", "synonyms", "targets", "pathways", "response", "external_ids", "source"),
    ),
    "short_forms.tsv": ("form", "terms", "sure"),
    "tissues.tsv": ("id", "name", "synonyms", "genes"),
}
_ID_FORMS = {
    "cell_lines.tsv": r"CVCL_[A-Z0-9]{4}",
    "cell_types.tsv": r"CL:\d{7}",
    "tissues.tsv": r"UBERON:\d{7}",
    "diseases.tsv": r"MONDO:\d{7}|PATO:0000461",
}
_SYNONYMS = {"synonyms.tsv": ("id", "name", "synonyms", "source")}  # for terms of whole ontologies
_SIGNS = {"+": 1, "-": -1}
_PACKAGED_EDGES = ("ligand", "signalling", "transcription")


def load_knowledge_from(folder: Path) -> Knowledge:
    """Read and check the nine tables of a folder.

    Parameters
    ----------
    folder
        Contains ``actions.tsv``, ``cell_lines.tsv``, ``cell_types.tsv``, ``diseases.tsv``, ``network.tsv``,
        ``pathways.tsv``, ``perturbations.tsv``, ``short_forms.tsv`` and ``tissues.tsv``: UTF-8, tab separated, ``#``
        comment lines (one says ``version <x>``), then a header; lists joined by ``;``, signed lists written
        ``GENE+;GENE-``, pairs ``key=value;key=value``.

    Returns
    -------
    What the tables hold.

    Raises
    ------
    ContractError
        A file is missing, or a line is not as described; the message names file and line.
    """
    tables = {file: _read_table(folder / file) for file in _COLUMNS}
    rows = {file: table.rows for file, table in tables.items()}
    tissues = {
        row.id: Tissue(row.id, row["name"], row.items("synonyms"), row.items("genes")) for row in rows["tissues.tsv"]
    }
    diseases = {row.id: Disease(row.id, row["name"], row.items("synonyms")) for row in rows["diseases.tsv"]}
    pathways = {
        row.id: Pathway(row.id, row.signs("genes"), row.items("synonyms"), row["source"])
        for row in rows["pathways.tsv"]
    }
    cell_types = _cell_types(rows["cell_types.tsv"], tissues=tissues)
    cell_types.update(_cell_lines(rows["cell_lines.tsv"], cell_types=cell_types))
    perturbations = {row.id: _perturbation(row, pathways=pathways) for row in rows["perturbations.tsv"]}
    kinds: dict[str, Mapping[str, object]] = {
        "cell_type": cell_types,
        "perturbation": perturbations,
        "tissue": tissues,
        "disease": diseases,
    }
    version, digest = _version_and_digest(tables)
    return Knowledge(
        cell_types=cell_types,
        perturbations=perturbations,
        pathways=pathways,
        tissues=tissues,
        diseases=diseases,
        version=version,
        digest=digest,
        short_forms={row.id: _short_form(row, kinds=kinds) for row in rows["short_forms.tsv"]},
        network=_network(rows["network.tsv"]),
        actions={row.id: row.sign("action") for row in rows["actions.tsv"]},
    )


def read_synonyms(path: Path) -> tuple[dict[str, tuple[str, ...]], str]:
    """Read further names of terms of whole ontologies.

    Returns
    -------
    Id of a term -> names, and the SHA-256 of the file.

    Raises
    ------
    ContractError
        The file is missing, or a line is not as its header says.
    """
    table = _read_table(path)
    return {row.id: row.items("synonyms") for row in table.rows}, hashlib.sha256(table.raw).hexdigest()


# --- one row of each table ----------------------------------------------------------------------------------------


def _cell_types(rows: tuple[_Row, ...], *, tissues: Mapping[str, Tissue]) -> dict[str, CellType]:
    ids = {row.id for row in rows}
    types = {}
    for row in rows:
        parents, homes = row.items("parents"), row.items("tissues")
        row.check_known(parents, known=ids, column="parents")
        row.check_known(homes, known=tissues, column="tissues")
        origins = row.items("develops_from")
        row.check_known(origins, known=ids, column="develops_from")
        types[row.id] = CellType(
            row.id, row["name"], parents, row.items("synonyms"), row.items("markers"), homes, develops_from=origins
        )
    # Parents stand in any order, so cycles can be found only once all rows are read.
    done = set[str]()
    for row in rows:
        above, frontier = set[str](), set(types[row.id].parents)
        while frontier:
            above |= frontier
            frontier = {up for term in frontier if term not in done for up in types[term].parents} - above
        if row.id in above:
            row.fail(f"{row.id} is its own ancestor")
        done.add(row.id)
    return types


def _cell_lines(rows: tuple[_Row, ...], *, cell_types: Mapping[str, CellType]) -> dict[str, CellType]:
    """Return cell lines: each a kind of the cell type that it models, and never that type itself."""
    lines = {}
    for row in rows:
        models = row.items("models")
        row.check_known(models, known=cell_types, column="models")
        if not models or not row["line"]:
            row.fail("models and line must not be empty")
        synonyms, source = row.items("synonyms"), row["source"]
        lines[row.id] = CellType(row.id, row["name"], models, synonyms, source=source, line=row["line"])
    return lines


def _perturbation(row: _Row, *, pathways: Mapping[str, Pathway]) -> PerturbationEntry:
    kind = row["type"]
    kinds = [one for one in get_args(PerturbationType) if one != "unspecified"]
    if kind not in kinds:
        row.fail(f"type {kind!r} is not one of {', '.join(kinds)}")
    signed_pathways = row.signs("pathways")
    row.check_known(signed_pathways, known=pathways, column="pathways")
    return PerturbationEntry(
        name=row.id,
        type=cast("PerturbationType", kind),
        synonyms=row.items("synonyms"),
        targets=row.items("targets"),
        pathways=signed_pathways,
        response=row.signs("response"),
        external_ids=row.pairs("external_ids"),
        family=row["family"],
        source=row["source"],
    )


def _network(rows: tuple[_Row, ...]) -> tuple[Edge, ...]:
    edges: dict[tuple[str, str], Edge] = {}
    for row in rows:
        if row["kind"] not in _PACKAGED_EDGES:
            row.fail(f"kind {row['kind']!r} is not one of {', '.join(_PACKAGED_EDGES)}")
        for target, sign in row.signs("targets").items():
            if target == row.id or (row.id, target) in edges:
                row.fail(f"the edge from {row.id} to {target} leads to itself or is defined twice")
            edges[row.id, target] = Edge(row.id, target, sign, cast("EdgeKind", row["kind"]), row["source"])
    return tuple(edges.values())


def _short_form(row: _Row, *, kinds: Mapping[str, Mapping[str, object]]) -> ShortForm:
    kind, _, form = row.id.partition(":")
    if kind not in kinds or not form:
        row.fail(f"{row.id!r} must be <kind>:<form>, the kind one of {', '.join(kinds)}")
    terms = row.items("terms")
    row.check_known(terms, known=kinds[kind], column="terms")
    if row["sure"] not in ("yes", "no") or not terms:
        row.fail("terms must not be empty and sure must be yes or no")
    return ShortForm(form, terms, is_sure=row["sure"] == "yes")


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """One data line; every error about it names file and line."""

    path: Path
    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    @property
    def id(self) -> str:
        return next(iter(self.cells.values()))

    def items(self, column: str) -> tuple[str, ...]:
        if not self.cells[column]:
            return ()
        parts, framed = tuple(self.cells[column].split(";")), f";{self.cells[column]};"
        if ";;" in framed or "; " in framed or " ;" in framed or len(set(parts)) < len(parts):
            self.fail(f"{column} has an empty, padded or repeated item: {self.cells[column]!r}")
        return parts

    def sign(self, column: str) -> int:
        if self.cells[column] not in _SIGNS:
            self.fail(f"{column} must be + or -, not {self.cells[column]!r}")
        return _SIGNS[self.cells[column]]

    def signs(self, column: str) -> dict[str, int]:
        signed: dict[str, int] = {}
        for item in self.items(column):
            name, sign = item[:-1], item[-1]
            if sign not in _SIGNS or not name or name in signed:
                self.fail(f"{column} must list each name once with + or - behind it, not {item!r}")
            signed[name] = _SIGNS[sign]
        return signed

    def pairs(self, column: str) -> dict[str, str]:
        pairs = [item.partition("=") for item in self.items(column)]
        if any(not key or not value for key, _, value in pairs):
            self.fail(f"{column} must be key=value pairs, not {self.cells[column]!r}")
        return {key: value for key, _, value in pairs}

    def check_known(self, names: Iterable[str], *, known: Container[str], column: str) -> None:
        unknown = [name for name in names if name not in known]
        if unknown:
            self.fail(f"{column} names {', '.join(unknown)}, which no row defines")

    def fail(self, what: str) -> NoReturn:
        message = f"{self.path.name} line {self.line}: {what}. Correct the line, or reinstall haystack-kernel."
        raise ContractError(message, path=str(self.path), line=self.line)


@dataclass(frozen=True)
class _Table:
    rows: tuple[_Row, ...]
    version: str
    raw: bytes


def _read_table(path: Path) -> _Table:
    try:
        raw = path.read_bytes()
        lines = raw.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path.name} cannot be read from {path.parent} ({error}). Reinstall haystack-kernel."
        raise ContractError(message, path=str(path)) from error
    start = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    columns = (_COLUMNS | _SYNONYMS)[path.name]
    top = _Row(path, start + 1, {})
    if lines[start : start + 1] != ["\t".join(columns)]:
        top.fail(f"the header must be the columns {', '.join(columns)}, tab separated")
    version = re.search(r"version[ :=]+([\w.-]*\w)", "\n".join(lines[:start]))
    if version is None:
        top.fail("a comment line above the header must say 'version <x>'")
    rows = []
    taken: set[str] = set()
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if not line:
            continue
        row = _row(path, number, line)
        name = row.cells.get("name", row.id)
        if path.name != "network.tsv":  # there a regulator has a row for each kind of edge
            if row.id in taken or name in taken - {row.id}:
                row.fail(f"{row.id} ({name}) is defined twice")
            taken |= {row.id, name}
        rows.append(row)
    return _Table(tuple(rows), version[1], raw)


def _row(path: Path, number: int, line: str) -> _Row:
    columns, cells = (_COLUMNS | _SYNONYMS)[path.name], line.split("\t")
    row = _Row(path, number, dict(zip(columns, cells, strict=False)))
    if len(cells) != len(columns):
        row.fail(f"{len(cells)} columns where {len(columns)} are needed")
    if not row.id or not row.cells.get("name", row.id):
        row.fail("id and name must not be empty")
    form = _ID_FORMS.get(path.name)
    if form and not re.fullmatch(form, row.id):
        row.fail(f"{row.id!r} is not an id of the form {form}")
    return row


def _version_and_digest(tables: Mapping[str, _Table]) -> tuple[str, str]:
    """Return the one version of all tables, or else that of each; and the SHA-256 of their names and bytes."""
    versions = {table.version for table in tables.values()}
    version = ", ".join(f"{file.removesuffix('.tsv')} {table.version}" for file, table in tables.items())
    if len(versions) == 1:
        version = versions.pop()
    digest = hashlib.sha256()
    for file, table in sorted(tables.items()):
        digest.update(f"{file} {len(table.raw)}\n".encode())
        digest.update(table.raw)
    return version, digest.hexdigest()
