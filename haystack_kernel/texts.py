"""Texts of users, files and services as they can be shown anywhere.

In: any text. Out: the same text without characters that act on what shows it.
"""

from __future__ import annotations

import re

# Control characters move the cursor of a terminal and end an SVG file; those of direction change how a line is read.
_MISLEADING = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def visible(text: str) -> str:
    """Return ``text`` with control characters and overrides of direction as their code points: ``⟨U+202E⟩``."""
    return _MISLEADING.sub(lambda found: f"\u27e8U+{ord(found.group()):04X}\u27e9", text)
