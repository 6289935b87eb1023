"""Read tables of treatments and their targets: tab or comma separated, one header line, columns named by the user.

In: bytes of the file and the mapping of columns. Out: perturbation entries without expected responses.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.readers import (
    SourceFile,
    check_count,
    clean_name,
    comments_of,
    decode,
    find_licence,
    lines_of,
    version_in_name,
)
from haystack_kernel.knowledge.symbols import SymbolReader
from haystack_kernel.knowledge.terms import PerturbationEntry, PerturbationType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FIELDS = ("name", "target", "family", "type", "synonyms")
_ID = "id:"  # "id:ChEMBL" maps an external id
_BETWEEN = r"[|;]"  # names have commas: 1,25-dihydroxyvitamin D3
_BETWEEN_TARGETS = r"[|;,]"


def read_targets(raw: bytes, *, path: Path, columns: Mapping[str, str], separator: str | None = None) -> SourceFile:
    """Read a table; rows of one name are joined, whatever its capitals.

    Parameters
    ----------
    raw, path
        The file: comment lines begin with ``#`` or ``!``, then a header. Tabs separate the columns, or commas or
        semicolons where the header has no tab.
    columns
        Field -> column. Fields: ``name`` and ``target`` (gene symbols; both needed), ``family`` (mechanism), ``type``
        (cytokine, drug or genetic; drug where not given), ``synonyms``, and ``id:<database>`` for external ids.
    separator
        Delimiter between values in a cell, as in ``JAK1|JAK2``; None takes ``|`` and ``;``, and between targets also
        the comma.

    Returns
    -------
    Perturbation entries. Notes count the targets that are no gene symbols ("PARP family"), which are left out, and
    those that are not read as they stand, with the line of the first.

    Raises
    ------
    InvalidInputError
        A field or column is unknown or there twice, a needed one is missing, a row is broken, most targets are no
        symbols of human genes, or no target at all is one.
    """
    header, rows = _read_rows(decode(raw, path=path), path=path)
    places = _places(columns, header=header, path=path)
    reader = SymbolReader(path, wanted="a table of gene symbols, and map the column that has them")
    found: dict[str, PerturbationEntry] = {}
    split_at: dict[str, str] = {}  # delimiter -> first cell that has it
    for number, row in rows:
        if len(row) != len(header):
            message = f"{path}: line {number} has {len(row)} columns, the header has {len(header)}. Correct the line."
            raise InvalidInputError(message, path=str(path), line=number)
        cells = {field: row[place] for field, place in places.items()}
        for mark in () if separator else re.findall(_BETWEEN_TARGETS, cells["target"]):
            split_at.setdefault(mark, f"{cells['target']!r} (line {number})")
        entry = _entry(cells, separator=separator, path=path, number=number, reader=reader)
        if entry is None:
            continue
        key = entry.name.casefold()
        found[key] = _joined(found[key], entry) if key in found else entry
    reader.check(words=False, mouse=False)  # proteins in words ("PARP family") are common in columns of targets
    if not reader.n_known:
        message = (
            f"{path}: no cell of column {header[places['target']]!r} has a symbol of a human gene. Map the column that "
            "has the targets, and give --separator if it is none of | ; and the comma."
        )
        raise InvalidInputError(message, path=str(path))
    licence = find_licence(comments_of(raw))
    notes = [f"targets in a cell separated at {mark!r}; the first is {first}" for mark, first in split_at.items()]
    return SourceFile(tuple(found.values()), (), version_in_name(path), licence, (*notes, *reader.notes()))


def _joined(earlier: PerturbationEntry, entry: PerturbationEntry) -> PerturbationEntry:
    """Return the two rows as one; where both state a value, the earlier wins."""
    names = dict.fromkeys((*earlier.synonyms, entry.name, *entry.synonyms))
    names.pop(earlier.name, None)
    return replace(
        earlier,
        synonyms=tuple(names),
        targets=tuple(dict.fromkeys((*earlier.targets, *entry.targets))),
        external_ids={**entry.external_ids, **earlier.external_ids},
        family=earlier.family or entry.family,
    )


def _read_rows(text: str, *, path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each row with the number of its last line in the file."""
    kept = [(n, line) for n, line in enumerate(lines_of(text), 1) if line.strip() and line[0] not in "#!"]
    check_count(len(kept), path=path, what="lines")
    first = kept[0][1] if kept else ""
    delimiter = "\t" if "\t" in first else max(",;", key=first.count)
    reader = csv.reader((f"{line}\n" for _, line in kept), delimiter=delimiter, strict=True)
    try:
        (_, header), *rows = [(kept[reader.line_num - 1][0], row) for row in reader]
    except (csv.Error, ValueError) as error:
        at = f" line {kept[reader.line_num - 1][0]}" if reader.line_num else ""
        message = f"{path}{at}: not a table with a header line ({error}). Give a TSV or CSV file."
        raise InvalidInputError(message, path=str(path)) from error
    names = _cut(header, 0)
    return [name.strip() for name in names], [(number, _cut(row, len(names))) for number, row in rows]


def _cut(row: list[str], width: int) -> list[str]:
    """Return a row without the empty cells that spreadsheets save to the right of the last column."""
    while len(row) > width and not row[-1].strip():
        row = row[:-1]
    return row


def _places(columns: Mapping[str, str], *, header: list[str], path: Path) -> dict[str, int]:
    """Return where the column of each field is; without a mapping, columns are found by the names of the fields."""
    _check_fields(columns)
    given = columns or _named_columns(header)
    for field in ("name", "target"):
        if field not in given:
            message = (
                f"{path.name}: no column is mapped to {field}. Give --map {field}=COLUMN; the columns are "
                f"{', '.join(header)}."
            )
            raise InvalidInputError(message, path=str(path), missing=field)
    for column in given.values():
        n_columns = header.count(column)
        if n_columns == 0:
            message = f"{path.name} has no column {column!r}; it has {', '.join(header)}"
            raise InvalidInputError(message, path=str(path), column=column)
        if n_columns > 1:
            message = f"{path.name} has {n_columns} columns {column!r}. Give each a name of its own."
            raise InvalidInputError(message, path=str(path), column=column)
    return {field: header.index(column) for field, column in given.items()}


def _named_columns(header: list[str]) -> dict[str, str]:
    """Return field -> the column of that name, in any capitals, one or several (Target, targets)."""
    named = {name.casefold().removesuffix("s"): name for name in reversed(header)}
    found = ((field, named.get(field.removesuffix("s"))) for field in FIELDS)
    return {field: column for field, column in found if column}


def _check_fields(fields: Iterable[str]) -> None:
    for field in fields:
        is_id = field.startswith(_ID) and field.removeprefix(_ID).strip()
        if field not in FIELDS and not is_id:
            message = f"unknown field {field!r} in the mapping; possible: {', '.join(FIELDS)}, {_ID}<database>"
            raise InvalidInputError(message, given=field)


def _entry(
    cells: Mapping[str, str], *, separator: str | None, path: Path, number: int, reader: SymbolReader
) -> PerturbationEntry | None:
    name = clean_name(cells["name"], path=path, where=f"line {number}")
    if not name:
        return None
    kind = cells.get("type", "").strip().lower() or "drug"
    if kind not in get_args(PerturbationType):
        message = f"{path}: line {number}: type {kind!r} is not one of {', '.join(get_args(PerturbationType))}"
        raise InvalidInputError(message, path=str(path), line=number)
    targets = _items(cells["target"], separator, default=_BETWEEN_TARGETS)
    family = _items(cells.get("family", ""), separator)
    return PerturbationEntry(
        name=name,
        type=cast("PerturbationType", kind),
        synonyms=tuple(one for one in _items(cells.get("synonyms", ""), separator) if one != name),
        targets=tuple(dict.fromkeys(gene for item in targets for gene in reader.read(item, line=number))),
        pathways={},
        response={},
        external_ids=_external_ids(cells),
        family=clean_name(family[0], path=path, where=f"line {number}") if family else "",
        source="database",
    )


def _external_ids(cells: Mapping[str, str]) -> dict[str, str]:
    ids = ((field.removeprefix(_ID), text.strip()) for field, text in cells.items() if field.startswith(_ID))
    return {database: one for database, one in ids if one}


def _items(cell: str, separator: str | None, *, default: str = _BETWEEN) -> tuple[str, ...]:
    """Return the items of a cell, each once and in order."""
    parts = (part.strip() for part in (cell.split(separator) if separator else re.split(default, cell)))
    return tuple(dict.fromkeys(part for part in parts if part))
