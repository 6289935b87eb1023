"""The runs that one person may see, searched for words without a look at each of them.

In: rows of the index, newest first, and a person. Out: the rows that hold the words, in the same order.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from haystack_kernel.store import IndexedRun

_BETWEEN = "\0"  # two texts; no word holds it


class VisibleRuns:
    """Some rows of the index, which are not changed.

    Parameters
    ----------
    rows
        All rows of the index, newest first.
    person
        Who asks; None sees every run.
    now
        Wall time.
    """

    def __init__(self, rows: Sequence[IndexedRun], *, person: str | None, now: datetime) -> None:
        self.source = rows
        self.rows = rows
        if person is not None:
            self.rows = [row for row in rows if row.access and row.access.lets_read(person, now=now)]

    def holding(self, words: Sequence[str]) -> Sequence[IndexedRun]:
        """Rows whose texts hold the words, each in its place of :attr:`IndexedRun.words`; an empty word is in all."""
        asked = [self._places(number, word) for number, word in enumerate(words) if word]
        return [self.rows[place] for place in sorted(set.intersection(*asked))] if asked else self.rows

    def _places(self, number: int, word: str) -> set[int]:
        text, starts = self._texts[number]
        found: set[int] = set()
        at = text.find(word) if _BETWEEN not in word else -1
        while at >= 0:
            place = bisect_right(starts, at) - 1
            found.add(place)
            at = text.find(word, starts[place + 1])  # one is enough: go on behind this row
        return found

    @cached_property
    def _texts(self) -> list[tuple[str, list[int]]]:
        """The texts of all rows in one, and where each row begins; the last number is the end."""
        columns = zip(*(row.words for row in self.rows), strict=True) if self.rows else [()] * 4
        made = []
        for column in columns:
            starts = [0, *accumulate(len(text) + 1 for text in column)]
            made.append((_BETWEEN.join(column) + _BETWEEN, starts))
        return made
