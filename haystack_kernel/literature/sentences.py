"""Split an abstract into sentences with their places.

In: plain text. Out: (start, end) offsets.
"""

from __future__ import annotations

import re

_END = re.compile(r"[.!?][)\]\"'\u201d\u2019]*\s+(?=[^\W_a-z]|[(\[\"'\u201c]|[a-z]{0,2}[A-Z0-9\u03b1-\u03c9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|vs|al|cf|ca|approx|fig|figs|ref|refs|dr|no|nos|sp|spp|resp|incl|etc|st|eq)|\b[A-Z])\.$",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Split at full stops that end a sentence: not after abbreviations and initials, not inside numbers."""
    spans, start = [], 0
    for found in _END.finditer(text):
        if found.group()[0] == "." and _ABBREVIATION.search(text[start : found.start() + 1]):
            continue
        spans.append((start, len(text[: found.end()].rstrip())))
        start = found.end()
    if text[start:].strip():
        spans.append((start, len(text.rstrip())))
    return spans
