"""Gene symbols in the files that users add: ids translated, capitals mended, everything else named or refused.

In: cells of a file with their lines. Out: symbols, notes on what was read as what, and errors that name the line.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.genes import load_genes
from inference.genes import FOREIGN_IDS

if TYPE_CHECKING:
    from pathlib import Path

MAX_STRANGE = 0.2  # share of entries that are no gene symbols, above which a file is refused
_SYMBOL = re.compile(r"[A-Za-z0-9][\w.@-]{0,49}")
_MOUSE_LIKE = re.compile(r"[A-Z][a-z]+\d*[a-z]?\d*(?:-\w+)?")
_EMPTY = frozenset({"", "-", "--", ".", "na", "n/a", "#n/a", "nan", "none", "null", "unknown", "not available"})
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec)"
_DATE = re.compile(
    rf"\d{{1,2}}[-/ ]{_MONTH}(?:[-/ ]\d{{2,4}})?|{_MONTH}[-/ ]\d{{1,2}}|\d{{4}}-\d\d-\d\d(?:[ T].*)?"
    r"|\d{1,2}/\d{1,2}/\d{2,4}",
    re.IGNORECASE,
)
_FOREIGN = (
    ("Entrez gene numbers", re.compile(r"\d+(?:\.0)?")),
    ("Ensembl genes of another species", re.compile(r"ENS[A-Z]{3,4}G\d{11}(?:\.\d+)?")),
    *FOREIGN_IDS,
)
_ENSEMBL = re.compile(r"ENSG\d{11}(?:\.\d+)?(?:_PAR_Y)?", re.IGNORECASE)
_TRANSLATED = "Ensembl ids read as the gene's symbol"
_CAPITALS = "symbols in other capitals read as the gene's symbol"
_FORMER = "former symbols or aliases, kept as written"
_SEVERAL = "cells with several genes read as each of them"
_READ = frozenset({_TRANSLATED, _CAPITALS, _FORMER, _SEVERAL})
_NO_SYMBOLS = "not gene symbols"
_UNKNOWN_IDS = "Ensembl ids of no gene in the table"


class SymbolReader:
    """Reads the gene cells of one file, and remembers what it read as what.

    Parameters
    ----------
    path
        The file, for messages.
    wanted
        What to give instead, as in "a GMT file of symbols".
    """

    def __init__(self, path: Path, *, wanted: str) -> None:
        self._path, self._wanted, self._genes = path, wanted, load_genes()
        self.n_entries = 0
        self._seen = Counter[str]()
        self._first: dict[str, str] = {}  # what -> "'7157' (line 3)"
        self._distinct: set[str] = set()

    def is_gene(self, text: str) -> bool:
        """Whether a text is a symbol in use, in any capitals, or an Ensembl id of a human gene."""
        return text in self._genes.by_symbol or self._genes.find(text).how in ("case", "ensembl")

    def read(self, text: str, *, line: int) -> tuple[str, ...]:
        """Return the symbols of one cell; none where it is empty or no symbol.

        Raises
        ------
        InvalidInputError
            The cell is a date, which a spreadsheet has made of a symbol.
        """
        entry = text.strip().strip("\"'").strip()
        if entry in self._genes.by_symbol:
            self._count_entry(entry)
            return (entry,)
        if entry.casefold() in _EMPTY:
            return ()
        if _DATE.fullmatch(entry):
            message = (
                f"{self._path} line {line}: {entry!r} is a date: a spreadsheet has changed a gene symbol (1-Mar was "
                "MARCHF1 or MTARC1, 7-Sep was SEPTIN7). Write the symbol again."
            )
            raise InvalidInputError(message, path=str(self._path), line=line)
        several = [part for part in re.split(r"[\s,;|/&+]+|\band\b", entry) if part]
        if len(several) > 1 and all(map(self.is_gene, several)):
            self._count(_SEVERAL, entry, line)
            return tuple(symbol for part in several for symbol in self.read(part, line=line))
        self._count_entry(entry)
        return self._translated(entry, line=line)

    def _translated(self, entry: str, *, line: int) -> tuple[str, ...]:
        """Return the symbol that is meant by an id or by other capitals, or the entry as it stands."""
        if _ENSEMBL.fullmatch(entry):
            symbol = self._genes.find(entry).symbol
            if symbol is None:
                self._count(_UNKNOWN_IDS, entry, line)
                return ()
            self._count(_TRANSLATED, entry, line)
            return (symbol,)
        found = self._genes.find(entry)
        if found.how == "case" and found.symbol:
            self._count(_CAPITALS, entry, line)
            return (found.symbol,)
        if found.how:  # an atlas of that time has the same one
            self._count(_FORMER, entry, line)
            return (entry,)
        foreign = next((what for what, form in _FOREIGN if form.fullmatch(entry)), None)
        if foreign or not _SYMBOL.fullmatch(entry):
            self._count(foreign or _NO_SYMBOLS, entry, line)
            return ()
        self._count(f"symbols that {self._genes.version} does not have, kept as written", entry, line)
        return (entry,)

    @property
    def n_known(self) -> int:
        """How many entries are symbols or ids of human genes, former symbols and aliases included."""
        return self.n_entries - sum(count for what, count in self._seen.items() if what not in _READ)

    @property
    def left_out(self) -> dict[str, int]:
        """What was left out -> how many entries."""
        strange = (_NO_SYMBOLS, _UNKNOWN_IDS, *(what for what, _ in _FOREIGN))
        return {what: self._seen[what] for what in strange if self._seen[what]}

    def check(self, *, words: bool = True, mouse: bool = True) -> None:
        """Refuse a file in which more than a fifth of the entries are no symbols, or most are those of the mouse.

        Parameters
        ----------
        words
            Whether words count as such entries; ids of other things always do.
        mouse
            Whether symbols written as in the mouse are refused, not only read in other capitals.

        Raises
        ------
        InvalidInputError
            Says what the entries are, with the first of them and its line.
        """
        strange = {what: count for what, count in self.left_out.items() if words or what != _NO_SYMBOLS}
        if sum(strange.values()) > MAX_STRANGE * self.n_entries:
            what = max(strange, key=strange.__getitem__)
            message = (
                f"{self._path}: {strange[what]:,} of {self.n_entries:,} entries, such as {self._first[what]}, are "
                f"{what}. Give {self._wanted}."
            )
            raise InvalidInputError(message, path=str(self._path), n_strange=sum(strange.values()))
        distinct = self._distinct
        n_mouse = sum(_MOUSE_LIKE.fullmatch(entry) is not None for entry in distinct - self._genes.by_symbol.keys())
        if mouse and n_mouse > len(distinct) / 2:
            message = (
                f"{self._path}: {n_mouse:,} of {len(distinct):,} symbols are written like mouse symbols (Stat1). All "
                "tables are human: give the human release."
            )
            raise InvalidInputError(message, path=str(self._path))

    def notes(self) -> tuple[str, ...]:
        """Return what was not read as it stands, each with the number of entries and the first of them."""
        left_out = self.left_out
        return tuple(
            f"{count:,} {what}{', left out' if what in left_out else ''}; the first is {self._first[what]}"
            for what, count in self._seen.items()
        )

    def _count_entry(self, entry: str) -> None:
        self.n_entries += 1
        self._distinct.add(entry)

    def _count(self, what: str, entry: str, line: int) -> None:
        self._seen[what] += 1
        self._first.setdefault(what, f"{entry[:60]!r} (line {line})")
