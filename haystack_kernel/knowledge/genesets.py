"""Gene sets in the GMT format: name, description, then genes, tab separated, one set a line.

In: bytes of the file. Out: pathways, and notes on what was not read as it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from haystack_kernel.knowledge.terms import Pathway

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_GENES = 30_000  # of one set
MIN_GENES_AS_DESCRIPTIONS = 0.9  # share of lines whose second cell is a gene, from which no line has a description
_WEIGHT = re.compile(r"(.+?),\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)
_HEADER = frozenset({"gene", "genes", "gene symbol", "gene symbols", "symbol", "symbols", "members", "description"})


@dataclass(frozen=True)
class _Line:
    number: int
    name: str
    description: str
    cells: tuple[str, ...]


def read_gene_sets(raw: bytes, *, path: Path) -> SourceFile:
    """Read every set of a GMT file.

    Genes are +1, or -1 where a negative weight stands behind the gene (``STAT1,-0.5``). Ensembl ids are read as the
    symbol of their gene, and symbols in other capitals (stat1) as the symbol. Where the second cell of nearly every
    line is a gene, the file has no descriptions and that gene belongs to the set. What is no symbol is left out. Notes
    say all of this.

    Raises
    ------
    InvalidInputError
        A line has no gene, holds a date, or is a header; a set is defined twice; more than a fifth of the entries are
        no symbols of human genes (Entrez numbers, proteins, probes). The message names the line.
    """
    lines = _read_lines(decode(raw, path=path), path=path)
    reader = SymbolReader(path, wanted="a GMT file of symbols")
    has_descriptions, about_descriptions = _find_descriptions(lines, reader=reader)
    pathways: dict[str, Pathway] = {}
    for line in lines:
        if line.name in pathways:
            raise _refused(path, line.number, f"the set {line.name} is defined a second time")
        pathways[line.name] = _read_set(line, has_descriptions=has_descriptions, reader=reader, path=path)
    if not pathways:
        message = f"{path} has no gene set. Give a GMT file: name, description, genes, tab separated."
        raise InvalidInputError(message, path=str(path))
    reader.check()
    notes = [*reader.notes(), *about_descriptions, *_notes(lines, pathways=pathways)]
    kept = tuple(one for one in pathways.values() if one.genes)
    return SourceFile(kept, (), version_in_name(path), find_licence(comments_of(raw)), tuple(notes))


def _read_lines(text: str, *, path: Path) -> list[_Line]:
    lines = [
        _split(line, path=path, number=number)
        for number, line in enumerate(lines_of(text), 1)
        if line.strip() and not line.startswith("#")
    ]
    check_count(len(lines), path=path, what="lines")
    return lines


def _notes(lines: list[_Line], *, pathways: Mapping[str, Pathway]) -> list[str]:
    notes = []
    empty = [line for line in lines if not pathways[line.name].genes]
    if empty:
        first = f"{empty[0].name!r} (line {empty[0].number})"
        notes.append(f"{len(empty):,} sets without a gene left out; the first is {first}")
    n_falling = sum(sign < 0 for one in pathways.values() for sign in one.genes.values())
    if n_falling:
        notes.append(f"{n_falling:,} genes with a negative weight are read as genes that fall")
    return notes


def _find_descriptions(lines: list[_Line], *, reader: SymbolReader) -> tuple[bool, tuple[str, ...]]:
    """Return whether the second cells are descriptions, and what to say where some could be genes of the sets."""
    genes = [  # a set that is called by a gene may also be described by it
        line
        for line in lines
        if reader.is_gene(line.description) and line.description.casefold() != line.name.casefold()
    ]
    # One word behind every name, such as TF, describes all sets and belongs to none.
    if not genes or (len(lines) > 1 and len({line.description for line in lines}) == 1):
        return True, ()
    first = f"{genes[0].description!r} (line {genes[0].number})"
    if len(genes) >= MIN_GENES_AS_DESCRIPTIONS * len(lines):
        note = f"the file has no descriptions: each second cell, such as {first}, is read as a gene of the set"
        return False, (note,)
    note = (
        f"the descriptions of {len(genes):,} sets are gene symbols, the first is {first}; they are read as "
        "descriptions, not as genes"
    )
    return True, (note,)


def _split(line: str, *, path: Path, number: int) -> _Line:
    first, *rest = (_unquoted(cell) for cell in line.split("\t"))
    name = clean_name(first, path=path, where=f"line {number}")
    cells = tuple(cell for cell in rest[1:] if cell)
    if not name or not any(rest):
        missing = "" if rest else "; this line has no tab"
        what = f"a set needs a name, a description and at least one gene, tab separated{missing}"
        raise _refused(path, number, what)
    if len(cells) > MAX_GENES:
        raise _refused(path, number, f"{name} has {len(cells):,} genes; {MAX_GENES:,} are possible")
    if cells and all(cell.casefold() in _HEADER for cell in cells):
        raise _refused(path, number, f"{line.strip()[:60]!r} is a header, and a GMT file has none")
    return _Line(number, name, " ".join(rest[0].split()), cells)


def _read_set(line: _Line, *, has_descriptions: bool, reader: SymbolReader, path: Path) -> Pathway:
    cells = line.cells if has_descriptions else (line.description, *line.cells)
    genes: dict[str, int] = {}
    for cell in cells:
        weighted = _WEIGHT.fullmatch(cell)
        entry, sign = cell, 1
        if weighted:
            entry, sign = weighted[1], -1 if float(weighted[2]) < 0 else 1
        for symbol in reader.read(entry, line=line.number):
            if genes.setdefault(symbol, sign) != sign:
                raise _refused(path, line.number, f"{symbol} both rises and falls in the set {line.name}")
    if not cells:
        raise _refused(path, line.number, "a set needs a name, a description and at least one gene, tab separated")
    synonyms: tuple[str, ...] = ()
    if line.name.isupper() and "_" in line.name:  # HALLMARK_TNFA_SIGNALING_VIA_NFKB is also "tnfa signaling via nfkb"
        words = re.sub(r"^(?:HALLMARK|REACTOME|KEGG|WP|BIOCARTA|PID|GO[A-Z]{2})_", "", line.name).replace("_", " ")
        synonyms = (words.lower(),)
    return Pathway(line.name, genes, synonyms, line.description[:200] if has_descriptions else "")


def _unquoted(cell: str) -> str:
    """Return a cell without the quotation marks in which spreadsheets save it."""
    text = cell.strip()
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"').strip() if quoted else text


def _refused(path: Path, number: int, what: str) -> InvalidInputError:
    return InvalidInputError(f"{path} line {number}: {what}. Correct the line.", path=str(path), line=number)
