"""Typing errors in long words: which known words a misspelt one may stand for.

In: words and an index. Out: the words with errors mended, in every plausible reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapidfuzz.distance import OSA

from haystack_kernel.knowledge.normalise import Word

if TYPE_CHECKING:
    from collections.abc import Container

    from haystack_kernel.knowledge.index import Index

MAX_READINGS = 8
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_ALIKE = frozenset({"ck", "sz", "sc", "mn", "gj", "vw", "vf", "dt", "bp", "iy", "qk", "xs"})  # for the ear


def correct_words(words: list[Word], *, index: Index, min_length: int, known: Container[str] = ()) -> list[list[Word]]:
    """The same words with typing errors mended: every reading in which each unknown long word became a known one.

    A word keeps its first letter and changes by one edit (two from twelve letters on, never two in a drug or cytokine).
    A letter is exchanged only for one beside it on the keyboard, or for one that sounds alike. Empty where nothing can
    or need be mended.
    """
    readings: list[list[Word]] = [[]]
    changed = False
    for word in words:
        is_known = word.norm in index.by_word or word.norm in known
        options = [word.norm] if is_known else _spellings(word.norm, index=index, min_length=min_length)
        changed = changed or (not is_known and bool(options))
        readings = [
            [*read, Word(o, word.raw, word.start, word.end)] for read in readings for o in options or [word.norm]
        ]
    return readings if changed and len(readings) <= MAX_READINGS else []


def _spellings(norm: str, *, index: Index, min_length: int) -> list[str]:
    """Known words one slip of the keyboard away from this one, the nearest only."""
    is_drug_like = index.kind == "perturbation"
    if not norm.isalpha() or len(norm) < max(min_length, 9 if is_drug_like else 0):
        return []
    allowed = 2 if len(norm) >= 12 and not is_drug_like else 1
    lengths = range(len(norm) - allowed, len(norm) + allowed + 1)
    near = [
        (OSA.distance(norm, known, score_cutoff=allowed), known)
        for length in lengths
        for known in index.spelling.get((norm[0], length), ())
    ]
    best = min((edits for edits, _ in near), default=allowed + 1)
    if best > allowed:
        return []
    return sorted(known for edits, known in near if edits == best and _is_slip(norm, known))


def _is_slip(written: str, known: str) -> bool:
    """Whether the letters exchanged, if any, are easily taken for each other."""
    if len(written) != len(known):
        return True
    pairs = [(a, b) for a, b in zip(written, known, strict=True) if a != b]
    if len(pairs) == 2 and pairs[0] == pairs[1][::-1]:
        return True  # two letters changed places
    return all(_are_alike(a, b) for a, b in pairs) or len(pairs) > 2


def _are_alike(a: str, b: str) -> bool:
    if a in "aeiouy" and b in "aeiouy":
        return True
    if "".join(sorted(a + b)) in _ALIKE:
        return True
    places = {letter: (row, column) for row, letters in enumerate(_ROWS) for column, letter in enumerate(letters)}
    if a not in places or b not in places:
        return False
    (row_a, column_a), (row_b, column_b) = places[a], places[b]
    return abs(row_a - row_b) <= 1 and abs(column_a - column_b) <= 1
