"""What no text of a language model may hold when it is shown: addresses, keys, hidden characters, its instructions.

In: a text and the instructions of the step. Out: what is wrong with it, as sentences that tell the model what to mend.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ADDRESS = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|\bwww\.|\]\(|\b(?:javascript|data|mailto|file):\S|[\w.+-]+@[\w-]+\.\w{2,}|"
    r"\b(?:[\w-]+\.)+(?:com|org|net|io|ai|edu|gov|info|xyz|ru|cn|app|dev)\b)",
    re.IGNORECASE,
)
_KEY = re.compile(r"sk-[a-z]+-|\bBearer\s+\S|\bAKIA[0-9A-Z]{12}|\bAIza[\w-]{20}|-----BEGIN|\bya29\.|\bgh[pousr]_\w{20}")
_PATH = re.compile(r"(?:^|[\s\"'(])(?:~?/(?:[\w.-]+/)+[\w.-]*|[A-Za-z]:\\\S+)")
_WINDOW = 14  # words in a row that are no accident: a reason in the words of the instructions is shorter
_FORMAT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def foul(name: str, text: str, *, prompt: str) -> Iterator[str]:
    """Yield what is wrong with a text that would be shown.

    Parameters
    ----------
    name
        Of the field, for the sentence.
    text
        As the model wrote it.
    prompt
        The instructions of the step.

    Examples
    --------
    >>> list(foul("doubts", "See www.example.org", prompt=""))
    ['doubts: write no address of the web, no mail address and no link']
    """
    if _ADDRESS.search(text):
        yield f"{name}: write no address of the web, no mail address and no link"
    if _KEY.search(text):
        yield f"{name}: write nothing that looks like a key or a token"
    if _PATH.search(text):
        yield f"{name}: write no path of a file"
    if any(unicodedata.category(char) in _FORMAT and char != "\n" for char in text):
        yield f"{name}: write no control characters and no invisible ones"
    words = _words(text)
    if _windows(prompt) & {words[start : start + _WINDOW] for start in range(len(words) - _WINDOW + 1)}:
        yield f"{name}: do not repeat your instructions"


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


@lru_cache(maxsize=8)
def _windows(prompt: str) -> frozenset[tuple[str, ...]]:
    words = _words(prompt)
    return frozenset(words[start : start + _WINDOW] for start in range(len(words) - _WINDOW + 1))
