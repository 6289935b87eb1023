"""Correct typing errors in long words: the known words that a misspelt one may stand for.

In: words and an index. Out: the words with errors corrected, in every plausible reading.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from rapidfuzz.distance import OSA

if TYPE_CHECKING:
    from collections.abc import Container

    from haystack_kernel.knowledge.index import Index
    from haystack_kernel.knowledge.normalise import Word

MAX_READINGS = 8
MIN_SAFE = 8  # letters of a treatment that may be misspelt without doubt
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_SOUNDS = frozenset(
    {"ck", "sz", "sc", "mn", "gj", "vw", "vf", "dt", "bp", "iy", "qk", "xs"}
)  # pairs that sound similar


def correct_words(words: list[Word], *, index: Index, min_length: int, known: Container[str] = ()) -> list[list[Word]]:
    """Return the words with typing errors corrected, in every reading that turns unknown long words into known ones.

    A word keeps its first letter and changes by one edit (two from twelve letters on, never two in a drug or cytokine).
    A letter is exchanged only for one beside it on the keyboard, or for one that sounds similar. Empty where nothing
    can or need be corrected.
    """
    readings: list[list[Word]] = [[]]
    changed = False
    for word in words:
        options: list[str] = []
        if word.norm not in index.by_word and word.norm not in known:
            options = _spellings(word.norm, index=index, min_length=min_length)
        changed = changed or bool(options)
        variants = [replace(word, norm=norm) for norm in options or [word.norm]]
        readings = [[*read, variant] for read in readings for variant in variants]
    return readings if changed and len(readings) <= MAX_READINGS else []


def are_safe_slips(words: list[Word], reading: list[Word]) -> bool:
    """Whether every word that a reading changes differs by a safe slip."""
    pairs = [(said.norm, read.norm) for said, read in zip(words, reading, strict=True)]
    return all(said == read or is_safe_slip(said, read) for said, read in pairs)


def is_safe_slip(written: str, known: str) -> bool:
    """Whether two letters changed places, or one was doubled or left single: no two drugs are known to differ so."""
    if min(len(written), len(known)) < MIN_SAFE or written[0] != known[0]:
        return False
    if len(written) == len(known):
        places = [place for place, (a, b) in enumerate(zip(written, known, strict=True)) if a != b]
        return len(places) == 2 and places[1] == places[0] + 1 and sorted(written) == sorted(known)
    return abs(len(written) - len(known)) == 1 and _singled(written) == _singled(known)


def _singled(word: str) -> str:
    return re.sub(r"(.)\1+", r"\1", word)


def _spellings(norm: str, *, index: Index, min_length: int) -> list[str]:
    """Return the known words one slip of the keyboard away from this one, the closest only."""
    is_drug_like = index.kind == "perturbation"
    if is_drug_like:  # their names differ by a letter (IFN-alpha and -gamma, tofacitinib and baricitinib)
        min_length = max(min_length, MIN_SAFE)
    if not norm.isalpha() or len(norm) < min_length:
        return []
    allowed = 2 if len(norm) >= 12 and not is_drug_like else 1
    near: dict[int, list[str]] = {}
    for length in range(len(norm) - allowed, len(norm) + allowed + 1):
        for known in index.spelling.get((norm[0], length), ()):
            near.setdefault(OSA.distance(norm, known, score_cutoff=allowed), []).append(known)
    best = min(near, default=allowed + 1)  # beyond the cutoff every distance is allowed + 1
    if best > allowed or index.knows_word(norm):
        return []
    return sorted(known for known in near[best] if _is_slip(norm, known))


def _is_slip(written: str, known: str) -> bool:
    """Whether the letters exchanged, if any, are easily confused."""
    if len(written) != len(known):
        return True
    pairs = [(a, b) for a, b in zip(written, known, strict=True) if a != b]
    if len(pairs) == 2 and pairs[0] == pairs[1][::-1]:
        return True  # two letters changed places
    return all(_are_confused(a, b) for a, b in pairs) or len(pairs) > 2


def _are_confused(a: str, b: str) -> bool:
    if a in "aeiouy" and b in "aeiouy":
        return True
    if "".join(sorted(a + b)) in _SOUNDS:
        return True
    places = {letter: (row, column) for row, letters in enumerate(_ROWS) for column, letter in enumerate(letters)}
    if a not in places or b not in places:
        return False
    (row_a, column_a), (row_b, column_b) = places[a], places[b]
    return abs(row_a - row_b) <= 1 and abs(column_a - column_b) <= 1
