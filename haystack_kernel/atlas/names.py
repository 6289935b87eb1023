"""Names of datasets: safe in a cell id and in a file name, and never the same for two names that differ.

In: the names as a file writes them. Out: one safe name for each.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MOST = 100  # letters of a name, which leaves room for what tells it from another


def safe_name(text: str) -> str:
    """The nearest safe name: accents dropped, Greek letters spelled out, other signs as "_"; "" if nothing is left.

    Parameters
    ----------
    text
        Any name.

    Returns
    -------
    Letters A-Z, digits, ".", "-" and "_", starting with a letter or a digit.

    Examples
    --------
    >>> safe_name("β-study"), safe_name("10x 6k"), safe_name("../up"), safe_name("Müller 2021")
    ('beta-study', '10x_6k', 'up', 'Muller_2021')
    """
    spelled = "".join(_spelled(letter) for letter in unicodedata.normalize("NFKD", text))
    return _UNSAFE.sub("_", spelled).strip("_.-")[:_MOST]


def safe_names(texts: Iterable[str], *, default: str) -> dict[str, str]:
    """A safe name for each of several names; those that only differ in lost signs or in case get a digest.

    Parameters
    ----------
    texts
        Names as a file writes them.
    default
        Name for the empty text.

    Returns
    -------
    Text -> name, the same whatever other files hold unless two names of this file are alike.

    Examples
    --------
    >>> safe_names(["A b", "c"], default="d")
    {'A b': 'A_b', 'c': 'c'}
    >>> sorted(safe_names(["A b", "A_b"], default="d").values())
    ['A_b-0f1526', 'A_b-37ebd3']
    """
    texts = list(dict.fromkeys(texts))
    names = {text: safe_name(text) or ("" if text else default) for text in texts}
    often = Counter(name.casefold() for name in names.values())
    return {
        text: name if name and often[name.casefold()] == 1 else f"{name or 'dataset'}-{_digest(text)}"
        for text, name in names.items()
    }


def _spelled(letter: str) -> str:
    if letter.isascii():
        return letter
    if unicodedata.combining(letter):
        return ""
    name = unicodedata.name(letter, "")
    greek = re.match(r"GREEK (?:SMALL|CAPITAL) LETTER (?:FINAL )?(\w+)", name)
    return greek[1].lower() if greek else "_"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
