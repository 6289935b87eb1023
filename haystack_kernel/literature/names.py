"""Find names in running text: genes by symbol or common name, and the asked perturbation.

In: a sentence. Out: spans. Short and ambiguous symbols count only where the text says that a gene is meant.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_WORD = re.compile(r"[^\W_]+")
_HYPHENS = frozenset({"", "-", "\u2010", "\u2011", "\u2013"})
_GAPS = _HYPHENS | {" ", "/", " -", "- "}
_GREEK = {
    0x3B1: "alpha",
    0x3B2: "beta",
    0x3B3: "gamma",
    0x3B4: "delta",
    0x3B5: "epsilon",
    0x3BA: "kappa",
    0x3BB: "lambda",
    0x3C9: "omega",
    0xDF: "beta",
}
MAX_WORDS = 6
_GENE_AFTER = re.compile(r"\W{0,2}(?:genes?|mRNA|proteins?|expression|transcripts?|levels?|promoter)\b", re.IGNORECASE)
_GENE_BEFORE = re.compile(r"\b(?:expression|levels?|transcription|mRNA|genes?)(?: of)?(?: the)? \W?$", re.IGNORECASE)


class Span(NamedTuple):
    """Where a name stands, and what it names."""

    start: int
    end: int
    name: str


class _NameAt(Protocol):
    def __call__(self, sentence: str, start: int, end: int, *, gaps: frozenset[str]) -> str | None: ...


class GeneNames:
    """Find genes of a list.

    Parameters
    ----------
    genes
        Upper-case symbols; common names of some of them come from ``aliases.tsv``.
    """

    def __init__(self, genes: Iterable[str]) -> None:
        self._symbols: dict[str, str] = {}
        for gene in genes:
            self._symbols[gene] = gene
            if re.search(r"[A-Z]\d", gene):
                self._symbols.setdefault(gene.replace("-", ""), gene)
        known = set(self._symbols.values())
        self._aliases = {key: gene for key, gene in _aliases().items() if gene in known}
        self._starts = _prefixes(self._symbols) | _prefixes(self._aliases)

    def find(self, sentence: str) -> list[Span]:
        """Return genes in order, the longest name at each place."""
        return _scan(sentence, self._name, may_start=self._may_start)

    def _may_start(self, word: str) -> bool:
        starts = self._starts
        return word in starts or (word[0].isupper() and word.upper() in starts) or key_of(word) in starts

    def _name(self, sentence: str, start: int, end: int, *, gaps: frozenset[str]) -> str | None:
        written = sentence[start:end]
        gene = self._symbols.get(written)
        if gene is None and gaps <= _HYPHENS:
            bare = re.sub(r"[-\u2010\u2011\u2013]", "", written)
            gene = self._symbols.get(bare)
            if gene is None and len(bare) >= 3 and re.fullmatch(r"[A-Z][a-z]+\d+[a-z]?\d*", bare):
                gene = self._symbols.get(bare.upper())  # as mouse genes are written
        if gene is None:
            return self._aliases.get(key_of(written))
        if len(gene) <= 2 or gene in _ambiguous():
            is_said = _GENE_AFTER.match(sentence, end) or _GENE_BEFORE.search(sentence[:start])
            return gene if is_said else None
        return gene


class PhraseNames:
    """Find any of a few names, whatever their case, hyphens and Greek letters."""

    def __init__(self, names: Iterable[str]) -> None:
        self._keys = {key for name in names if len(key := key_of(name)) > 2}
        self._starts = _prefixes(self._keys)

    def find(self, sentence: str) -> list[Span]:
        """Return names in order, the longest at each place."""
        return _scan(sentence, self._name, may_start=lambda word: key_of(word) in self._starts)

    def _name(self, sentence: str, start: int, end: int, *, gaps: frozenset[str]) -> str | None:
        return "asked" if key_of(sentence[start:end]) in self._keys else None


@functools.lru_cache(maxsize=50_000)
def key_of(name: str) -> str:
    """Return one form for all spellings of a name: "TGF-β 1" and "TGFbeta1"."""
    return re.sub(r"[\W_]+", "", name.casefold().translate(_GREEK))


def _prefixes(names: Iterable[str]) -> set[str]:
    return {name[:length] for name in names for length in range(1, len(name) + 1)}


def _scan(sentence: str, name_at: _NameAt, *, may_start: Callable[[str], bool]) -> list[Span]:
    words = [(found.start(), found.end()) for found in _WORD.finditer(sentence)]
    spans, place = [], 0
    while place < len(words):
        start, end = words[place]
        if not may_start(sentence[start:end]):
            place += 1
            continue
        # A name goes on as long as only a blank, a hyphen or a slash stands between its words; the longest wins.
        reach, gaps_after = place, list[str]()
        while reach + 1 < len(words) and reach - place < MAX_WORDS - 1:
            gap = sentence[words[reach][1] : words[reach + 1][0]]
            if gap not in _GAPS:
                break
            gaps_after.append(gap)
            reach += 1
        step = 1
        for last in range(reach, place - 1, -1):
            end = words[last][1]
            gaps = frozenset(gaps_after[: last - place])
            if (name := name_at(sentence, start, end, gaps=gaps)) is not None:
                spans.append(Span(start, end, name))
                step = last - place + 1
                break
        place += step
    return spans


def _lines(name: str) -> list[str]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@functools.cache
def _ambiguous() -> frozenset[str]:
    return frozenset(word for line in _lines("ambiguous.txt") for word in line.split())


@functools.cache
def _aliases() -> dict[str, str]:
    rows = [line.split("\t") for line in _lines("aliases.tsv")]
    return {key_of(name): gene for gene, names in rows for name in names.split(";")}
