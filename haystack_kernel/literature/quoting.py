"""Find the sentence that somebody claims to quote, and refuse a quotation that its paper does not hold.

In: a paper, words. Out: the whole sentences around them, with their place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from haystack_kernel.literature.sentences import split_sentences

if TYPE_CHECKING:
    from haystack_kernel.schema import Paper

MIN_WORDS = 4  # fewer are in any text
_PLAIN = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2010: "-", 0x2011: "-", 0x2013: "-", 0x2212: "-"}


class Proof(NamedTuple):
    """Sentences of a paper, and where they stand in its title or abstract."""

    quote: str
    where: Literal["title", "abstract"]
    start: int
    end: int


def prove(paper: Paper, words: str) -> Proof | None:
    """Find quoted words in the title or the abstract of a paper.

    Parameters
    ----------
    paper
        Plain text without markup.
    words
        At least four words; capitals, blanks, and the forms of quotes and hyphens make no difference, anything else
        does.

    Returns
    -------
    The sentence that holds the words, or the sentences from the first to the last of them; None where the paper does
    not hold them.

    Examples
    --------
    >>> prove(paper, "IFN-beta raises STAT1").where  # doctest: +SKIP
    'abstract'
    """
    parts = [re.escape(part) for part in _key(words).split()]
    if len(parts) < MIN_WORDS:
        return None
    wanted = re.compile(r"(?<!\w)" + r"\s+".join(parts) + r"(?!\w)")
    texts: tuple[tuple[Literal["title", "abstract"], str], ...] = (("title", paper.title), ("abstract", paper.abstract))
    for where, text in texts:
        found = wanted.search(_key(text))
        if found is None:
            continue
        touched = [span for span in split_sentences(text) if span[0] < found.end() and found.start() < span[1]]
        if touched:
            start, end = touched[0][0], touched[-1][1]
            return Proof(text[start:end], where, start, end)
    return None


def _key(text: str) -> str:
    """The same text in one form, letter for letter in the same place."""
    lowered = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
    return lowered.translate(_PLAIN)
