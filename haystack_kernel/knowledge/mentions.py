"""Known terms named in a free text.

In: a question. Out: mentions in order of appearance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haystack_kernel.knowledge.tables import Knowledge
    from haystack_kernel.schema import Resolution, TermKind


@dataclass(frozen=True)
class Mention:
    """A stretch ``text[start:end]`` of the question that names a known term."""

    kind: TermKind
    text: str
    start: int
    end: int
    resolution: Resolution


def find_mentions(text: str, *, knowledge: Knowledge) -> list[Mention]:
    """Find the known terms."""
    return []
