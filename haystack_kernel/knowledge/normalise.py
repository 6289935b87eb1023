"""Normalise writing that does not change the meaning: case, Greek letters, hyphens, plurals, British spelling.

In: text as people write it. Out: words with their place in the text, and keys under which equal names meet.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# \u03b1 and its fellows; the sharp s (\xdf) is what many keyboards offer for beta
GREEK = {
    "\u03b1": "alpha",
    "\u03b2": "beta",
    "\u03d0": "beta",
    "\xdf": "beta",
    "\u03b3": "gamma",
    "\u03b4": "delta",
    "\u03b5": "epsilon",
    "\u03ba": "kappa",
    "\u03bb": "lambda",
    "\u03c9": "omega",
}
_LETTERS = {
    "alpha": "a",
    "beta": "b",
    "gamma": "g",
    "delta": "d",
    "epsilon": "e",
    "kappa": "k",
    "lambda": "l",
    "omega": "w",
}
GREEK_NAMES = frozenset(_LETTERS)
_ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4"}
_SPELLINGS = (
    ("haem", "hem"),
    ("aemi", "emi"),
    ("leuco", "leuko"),
    ("tumour", "tumor"),
    ("oeso", "eso"),
    ("oede", "ede"),
    ("foet", "fet"),
    ("coeli", "celi"),
    ("rrhoea", "rrhea"),
    ("fibre", "fiber"),
    ("centre", "center"),
    ("caec", "cec"),
    ("sulph", "sulf"),
    ("neurone", "neuron"),
)
_GREEK_TYPOS = {"alfa": "alpha", "gama": "gamma", "betta": "beta"}
_PHRASES = (  # ways to say one thing, within the name of a cell type, a tissue or a disease
    ("natural killer", "nk"),
    ("plasmacytoid dendritic", "pdc"),
    ("dendritic", "dc"),
    ("t lymphocyte", "t"),
    ("b lymphocyte", "b"),
    ("m\u03c6", "macrophage"),
    ("mph", "macrophage"),
    ("mono", "monocyte"),
    ("smooth muscle", "smc"),
    ("renal", "kidney"),
    ("hepatic", "liver"),
    ("pulmonary", "lung"),
    ("cardiac", "heart"),
    ("cutaneous", "skin"),
    ("intestinal", "intestine"),
    ("gastric", "stomach"),
    ("pancreatic", "pancreas"),
    ("prostatic", "prostate"),
    ("ocular", "eye"),
    ("splenic", "spleen"),
    ("thymic", "thymus"),
    ("myelogenous", "myeloid"),
    ("tubular", "tubule"),
    ("disorder", "disease"),
)
_HAS_PHRASE = re.compile("|".join(said for said, _ in _PHRASES))
_WORD = re.compile(r"[^\W_]+(?:['\u2019]s\b)?\+*")
_SIGNS = {"positive": "+", "negative": "neg"}
_MARKER_GAPS = ("-", " ", "\u2010", "\u2011")  # between a marker and its sign
_NOT_PLURAL = ("ss", "us", "is", "as", "os")
STOP_WORDS = frozenset({"of", "the", "a", "an", "in", "from", "and", "with", "cell"})


@dataclass(frozen=True)
class Word:
    """One word of a text: ``norm`` is what it is compared by, ``text[start:end]`` what was written."""

    norm: str
    raw: str
    start: int
    end: int


def split_words(text: str) -> list[Word]:
    """Split a text into words, each in its normal form.

    ``CD14-positive`` and ``CD14 +`` become one word ``cd14+``; ``CD16-negative`` and ``CD16-`` become ``cd16neg``;
    ``type II`` becomes ``type 2``.
    """
    words: list[Word] = []
    for found in _WORD.finditer(text):
        word = Word(_normal(found.group()), found.group(), found.start(), found.end())
        before = words[-1] if words else None
        sign = _SIGNS.get(word.norm, "")
        # "CD14 positive" and "CD14-positive", but not "T cell positive": only a marker, which has a number, takes it.
        if before and sign and text[before.end : word.start] in _MARKER_GAPS and any(map(str.isdigit, before.norm)):
            words[-1] = Word(before.norm + sign, text[before.start : word.end], before.start, word.end)
        elif before and before.norm == "type" and word.norm in _ROMAN:
            words.append(Word(_ROMAN[word.norm], word.raw, word.start, word.end))
        elif _is_marked_negative(text, word):
            words.append(Word(word.norm + "neg", word.raw + "-", word.start, word.end + 1))
        else:
            words.append(word)
    return words


def spaced_key(words: list[Word]) -> str:
    """Return normal forms joined by blanks: equal for texts that differ in case, hyphens, plural or spelling only."""
    return " ".join(word.norm for word in words)


def compact_key(norms: Sequence[str], *, fold_greek: bool) -> str:
    """Return normal forms without blanks; ``fold_greek`` writes alpha as a, so that TGF-beta1 and TGFb1 meet."""
    return "".join(map(_fold, norms) if fold_greek else norms)


def bare_key(norms: Sequence[str], *, fold_greek: bool, generic: str = "cell") -> str:
    """Compact key without the word "cell" (``generic``) and plus signs: NK meets NK cell, CD4 T meets CD4+ T cells."""
    kept = [norm for norm in norms if norm != generic]
    return compact_key(kept, fold_greek=fold_greek).replace("+", "")


def bag_key(norms: Sequence[str], *, fold_greek: bool) -> str:
    """The bare words sorted: T cells CD4+ meets CD4+ T cells, fibroblast of lung meets lung fibroblast."""
    kept = [norm.replace("+", "") for norm in norms if norm not in STOP_WORDS]
    return " ".join(sorted(_fold(norm) if fold_greek else norm for norm in kept)) if len(kept) > 1 else ""


def phrase_key(norms: Sequence[str]) -> str:
    """Bag of words in which phrases of one meaning agree: natural killer cell CD56dim meets NK CD56dim."""
    text = " ".join(norms).replace("+", "")
    if _HAS_PHRASE.search(text):
        text = f" {text} "
        for said, short in _PHRASES:
            text = text.replace(f" {said} ", f" {short} ")
    return " ".join(sorted(norm for norm in text.split() if norm not in STOP_WORDS))


def content_words(words: list[Word]) -> frozenset[str]:
    """Return normal forms that carry meaning: without articles, prepositions and "cell"."""
    return frozenset(word.norm for word in words) - STOP_WORDS


@functools.lru_cache(maxsize=16384)
def _normal(raw: str) -> str:
    text = re.sub(r"['\u2019]s(?=\+*$)", "", raw)
    if _is_plural(text):
        text = text[:-3] + "y" if text.endswith("ies") and len(text) > 5 else text[:-1]
    text = "".join(GREEK.get(letter, letter) for letter in text.lower())
    if not text.isascii():
        text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
        text = "".join(GREEK.get(letter, letter) for letter in text)
    for british, american in _SPELLINGS:
        text = text.replace(british, american)
    return _GREEK_TYPOS.get(text, text)


def _is_plural(text: str) -> bool:
    """Whether the last s can go: monocytes, DCs, ILC2s; not pancreas, virus, AIDS."""
    if len(text) < 3 or not text.endswith("s"):
        return False
    stem = text[:-1]
    if stem[-1].isdigit() or (len(stem) > 1 and stem.isupper()):
        return True
    return len(text) > 3 and (text.endswith("mas") or not text.endswith(_NOT_PLURAL))


def _fold(norm: str) -> str:
    """Greek names as single letters, alone or at the end of a word: beta -> b, tgfbeta -> tgfb."""
    for name, letter in _LETTERS.items():
        if norm == name:
            return letter
        stem = norm.rstrip("0123456789")
        if stem.endswith(name):
            return _fold(stem.removesuffix(name)) + letter + norm[len(stem) :]
    return norm


def _is_marked_negative(text: str, word: Word) -> bool:
    """Whether a word is a marker that the cell lacks: CD16- with nothing after the hyphen."""
    after = text[word.end : word.end + 2]
    return word.norm.startswith("cd") and word.norm[-1].isdigit() and after[:1] == "-" and not after[1:].isalnum()
