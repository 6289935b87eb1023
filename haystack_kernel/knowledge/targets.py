"""Read tables of treatments and their targets: tab or comma separated, one header line, columns named by the user.

In: bytes of the file and the mapping of columns. Out: perturbation entries without expected responses.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.readers import check_count, clean_name, decode
from haystack_kernel.knowledge.terms import PerturbationEntry, PerturbationType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FIELDS = ("name", "target", "family", "type", "synonyms")
_SYMBOL = re.compile(r"[A-Z0-9][A-Za-z0-9@.-]{0,24}")
_ID = "id:"  # "id:ChEMBL" maps an external id


def read_targets(
    raw: bytes, *, path: Path, columns: Mapping[str, str], separator: str
) -> tuple[PerturbationEntry, ...]:
    """Read a table; rows of one name are joined.

    Parameters
    ----------
    raw, path
        The file: comment lines begin with ``#`` or ``!``, then a header. Tabs separate the columns, or commas where
        the header has no tab.
    columns
        Field -> column. Fields: ``name`` and ``target`` (gene symbols; both needed), ``family`` (mechanism), ``type``
        (cytokine, drug or genetic; drug where not given), ``synonyms``, and ``id:<database>`` for external ids.
    separator
        Delimiter between values in a cell, as in ``JAK1|JAK2``.

    Raises
    ------
    InvalidInputError
        A field or column is unknown, a needed one is missing, a row is broken, or no target at all is a gene symbol.
        Single targets that are not symbols ("PARP family") are left out.
    """
    header, rows = _read_rows(decode(raw, path=path), path=path)
    places = _places(columns, header=header, path=path)
    found: dict[str, PerturbationEntry] = {}
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            message = f"{path}: row {number} has {len(row)} columns, the header has {len(header)}. Correct the row."
            raise InvalidInputError(message, path=str(path), row=number)
        cells = {field: row[place] for field, place in places.items()}
        entry = _entry(cells, separator=separator, path=path, number=number)
        if entry is None:
            continue
        earlier = found.get(entry.name)
        if earlier is not None:  # where both rows state a value, the earlier row wins
            entry = replace(
                earlier,
                synonyms=tuple(dict.fromkeys((*earlier.synonyms, *entry.synonyms))),
                targets=tuple(dict.fromkeys((*earlier.targets, *entry.targets))),
                external_ids={**entry.external_ids, **earlier.external_ids},
                family=earlier.family or entry.family,
            )
        found[entry.name] = entry
    if not any(entry.targets for entry in found.values()):
        message = (
            f"{path}: no cell of column {columns['target']!r} has a gene symbol. Map the column that has the targets, "
            "and give --separator if it is not '|'."
        )
        raise InvalidInputError(message, path=str(path))
    return tuple(found.values())


def _read_rows(text: str, *, path: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows; tabs separate the columns, or commas where the header has no tab."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("#", "!"))]
    check_count(len(lines), path=path, what="lines")
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    try:
        header, *rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, strict=True))
    except (csv.Error, ValueError) as error:
        message = f"{path} is not a table with a header line ({error}). Give a TSV or CSV file."
        raise InvalidInputError(message, path=str(path)) from error
    return [name.strip() for name in header], rows


def _places(columns: Mapping[str, str], *, header: list[str], path: Path) -> dict[str, int]:
    """Return where the column of each field is; without a mapping, columns are found by the names of the fields."""
    _check_fields(columns)
    given = dict(columns) or {field: field for field in FIELDS if field in header}
    missing = [field for field in ("name", "target") if field not in given]
    if missing:
        message = (
            f"{path.name}: no column is mapped to {missing[0]}. Give --map {missing[0]}=COLUMN; the columns are "
            f"{', '.join(header)}."
        )
        raise InvalidInputError(message, path=str(path), missing=missing)
    absent = [column for column in given.values() if column not in header]
    if absent:
        message = f"{path.name} has no column {absent[0]!r}; it has {', '.join(header)}"
        raise InvalidInputError(message, path=str(path), column=absent[0])
    return {field: header.index(column) for field, column in given.items()}


def _check_fields(fields: Iterable[str]) -> None:
    for field in fields:
        is_id = field.startswith(_ID) and field.removeprefix(_ID).strip()
        if field not in FIELDS and not is_id:
            message = f"unknown field {field!r} in the mapping; possible: {', '.join(FIELDS)}, {_ID}<database>"
            raise InvalidInputError(message, given=field)


def _entry(cells: Mapping[str, str], *, separator: str, path: Path, number: int) -> PerturbationEntry | None:
    name = clean_name(cells["name"], path=path, where=f"row {number}")
    if not name:
        return None
    kind = cells.get("type", "").strip().lower() or "drug"
    if kind not in get_args(PerturbationType):
        message = f"{path}: row {number}: type {kind!r} is not one of {', '.join(get_args(PerturbationType))}"
        raise InvalidInputError(message, path=str(path), row=number)
    ids = {field.removeprefix(_ID): text.strip() for field, text in cells.items() if field.startswith(_ID)}
    return PerturbationEntry(
        name=name,
        type=cast("PerturbationType", kind),
        synonyms=tuple(one for one in _items(cells, "synonyms", separator) if one != name),
        targets=tuple(gene for gene in _items(cells, "target", separator) if _SYMBOL.fullmatch(gene)),
        pathways={},
        response={},
        external_ids={database: one for database, one in ids.items() if one},
        family=clean_name(cells.get("family", "").split(separator)[0], path=path, where=f"row {number}"),
    )


def _items(cells: Mapping[str, str], field: str, separator: str) -> tuple[str, ...]:
    """Return the items of a cell, each once and in order."""
    parts = (part.strip() for part in cells.get(field, "").split(separator))
    return tuple(dict.fromkeys(part for part in parts if part))
