"""Read networks and regulons in their published forms, told apart by their columns.

In: bytes of a table of OmniPath, STRING, CollecTRI or DoRothEA. Out: edges with a direction and a sign.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.readers import (
    SourceFile,
    check_count,
    comments_of,
    decode,
    find_licence,
    lines_of,
    version_in_name,
)
from haystack_kernel.knowledge.symbols import SymbolReader
from haystack_kernel.knowledge.terms import Edge

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from haystack_kernel.knowledge.terms import SourceKind

MIN_COMBINED = 0.7  # STRING calls it high confidence
_STRING_ID = re.compile(r"(?:\d+\.)?ENSP\d+")
_TRUE = ("1", "true", "True", "TRUE")


@dataclass(frozen=True)
class Form:
    """One published form: the columns that mark it and those that are read; ``score_one`` is a full score."""

    name: str
    kind: SourceKind
    regulator: str
    target: str
    marks: tuple[str, ...]
    score_one: float = 1.0


FORMS = (
    Form(
        "OmniPath",
        "network",
        "source_genesymbol",
        "target_genesymbol",
        ("is_directed", "consensus_stimulation", "consensus_inhibition"),
    ),
    Form(
        "OmniPath",
        "network",
        "source_genesymbol",
        "target_genesymbol",
        ("is_directed", "is_stimulation", "is_inhibition"),
    ),
    Form("STRING", "network", "node1", "node2", ("combined_score",)),
    Form("STRING", "network", "preferredName_A", "preferredName_B", ("score",)),
    Form("STRING", "network", "protein1", "protein2", ("combined_score",), score_one=1000.0),
    Form("DoRothEA", "regulons", "tf", "target", ("confidence", "mor")),
    Form("DoRothEA", "regulons", "source", "target", ("confidence", "weight")),
    Form("CollecTRI", "regulons", "source", "target", ("weight",)),
    Form("CollecTRI", "regulons", "source", "target", ("mor",)),
)


def find_form(raw: bytes) -> Form | None:
    """Return the form whose columns a table has; None for another table."""
    header = set(_cells(_header(raw[:20_000].decode("utf-8", errors="replace"))))
    return next((form for form in FORMS if header.issuperset((form.regulator, form.target, *form.marks))), None)


def read_edges(raw: bytes, *, path: Path, kind: str) -> SourceFile:
    """Read a network or regulons; of two rows about the same pair the later one counts.

    Parameters
    ----------
    raw, path
        The file: a header line, then rows separated by tabs, commas or (STRING's links) spaces.
    kind
        "network" or "regulons".

    Returns
    -------
    OmniPath: directed edges with one sign; STRING: associations of combined score 0.7 or more, both ways, as
    activating, with the score as weight; regulons: the sign of the weight, which is also kept as weight. Notes count
    what was left out. A gene is never a target of itself.

    Raises
    ------
    InvalidInputError
        The columns are of no known form, a value is not a number, proteins are Ensembl ids, or no edge remains.
    """
    text = decode(raw, path=path)
    first = _header(text)
    columns = _cells(first)
    form = _checked_form(raw, columns=columns, path=path, kind=kind)
    lines = [
        (number, line)
        for number, line in enumerate(lines_of(text), 1)
        if line.strip() and line != first and not line.startswith("#")
    ]
    check_count(len(lines), path=path, what="edges")
    edges: dict[tuple[str, str], Edge] = {}
    n_left_out = 0
    reader = SymbolReader(path, wanted="a table of gene symbols")
    rows = csv.reader((line for _, line in lines), delimiter=_delimiter(first))
    for cells, (number, _) in zip(rows, lines, strict=False):
        if len(cells) != len(columns):
            message = f"{path}: line {number} has {len(cells)} columns, the header has {len(columns)}. Correct it."
            raise InvalidInputError(message, path=str(path), line=number)
        row = dict(zip(columns, cells, strict=True))
        found = _edges(row, form=form, path=path, number=number, reader=reader)
        n_left_out += not found
        edges.update({(edge.regulator, edge.target): edge for edge in found})
    reader.check(words=False)
    if not edges:
        message = f"{path}: no row of this {form.name} table gives an edge between two genes. Give a larger export."
        raise InvalidInputError(message, path=str(path))
    notes = []
    if n_left_out:
        notes.append(f"{n_left_out:,} rows without direction, sign or symbols, or below the score, left out")
    if form.name == "STRING":
        notes.append("associations state no sign: they are walked both ways, as activating")
    licence = find_licence(comments_of(raw))
    return SourceFile(tuple(edges.values()), (), version_in_name(path), licence, (*notes, *reader.notes()))


def _checked_form(raw: bytes, *, columns: list[str], path: Path, kind: str) -> Form:
    form = find_form(raw)
    if form is None or form.kind != kind:
        known = "; ".join(f"{one.name}: {', '.join((one.regulator, one.target, *one.marks))}" for one in FORMS)
        message = (
            f"{path} has the columns {', '.join(columns[:12])}, which are not those of a {kind} table. Known forms are "
            f"{known}."
        )
        raise InvalidInputError(message, path=str(path), kind=kind)
    return form


def _edges(row: Mapping[str, str], *, form: Form, path: Path, number: int, reader: SymbolReader) -> list[Edge]:
    one, two = row[form.regulator].strip(), row[form.target].strip()
    if _STRING_ID.fullmatch(one):
        message = (
            f"{path}: line {number}: {one} is an Ensembl protein. Give STRING's export with gene names (columns node1 "
            "and node2, or preferredName_A and preferredName_B)."
        )
        raise InvalidInputError(message, path=str(path), line=number)
    regulators, targets = reader.read(one, line=number), reader.read(two, line=number)
    if len(regulators) != 1 or len(targets) != 1 or regulators == targets:  # a complex, another molecule, or itself
        return []
    (one,), (two,) = regulators, targets
    if form.name == "OmniPath":
        sign = _omnipath_sign(row, form=form)
        return [Edge(one, two, sign, "signalling", form.name)] if sign else []
    value = _weight(row[form.marks[-1]], column=form.marks[-1], path=path, number=number)
    if form.name == "STRING":
        return _associations(one, two, score=value / form.score_one)
    sign = 1 if value > 0 else -1
    return [Edge(one, two, sign, "transcription", form.name, abs(value))] if value else []


def _associations(one: str, two: str, *, score: float) -> list[Edge]:
    """Return an edge each way, because an association has no direction; none below the score."""
    pairs = ((one, two), (two, one)) if score >= MIN_COMBINED else ()
    return [Edge(regulator, target, 1, "association", "STRING", score) for regulator, target in pairs]


def _weight(text: str, *, column: str, path: Path, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        message = f"{path}: line {number}: {column} {text!r} is not a number. Correct the line."
        raise InvalidInputError(message, path=str(path), line=number)
    return value


def _omnipath_sign(row: Mapping[str, str], *, form: Form) -> int:
    """Return +1 or -1; 0 for an edge without direction, or with both signs or none."""
    rises, falls = (row[name] in _TRUE for name in form.marks[1:])
    if row["is_directed"] not in _TRUE or rises == falls:
        return 0
    return 1 if rises else -1


def _header(text: str) -> str:
    """Return the first line that is not a comment; STRING's own begins with "#node1"."""
    lines = (line for line in lines_of(text) if line.strip())
    return next((line for line in lines if not line.startswith(("#", "!")) or line.startswith("#node1")), "")


def _delimiter(header: str) -> str:
    return next((mark for mark in "\t, " if mark in header), "\t")


def _cells(header: str) -> list[str]:
    return [cell.strip().lstrip("#").strip('"') for cell in header.split(_delimiter(header))]
