"""A report read back: what each of its sections says and shows, and where two pages differ.

In: pages. Out: sections as lists of texts, numbers and digests of figures; the first difference of each section.
"""

from __future__ import annotations

import hashlib
from html.parser import HTMLParser
from itertools import zip_longest

FIGURE = "figure "  # how the entry of a picture begins
_TELLING = ("alt", "data-value", "href", "download", "style", "content")  # attributes that say something themselves
_CHECKED = ("haystack-record", "haystack-seal")  # by themselves
_VOID = {"meta", "img", "br", "hr", "input", "wbr", "col", "link"}


def sections_of(page: str) -> dict[str, list[str]]:
    """Return what the sections of a page say, by their ids; what stands outside of them is ``page``.

    Examples
    --------
    >>> sections_of("<h1>Q</h1><section id='genes'><p>UP1 <b>6.0</b></p></section>")
    {'page': ['Q'], 'genes': ['UP1', '6.0']}
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.sections


def differences(page: str, expected: str, *, ignored: tuple[str, ...] = ()) -> dict[str, str]:
    """Return where a page says something else than expected: section -> first difference, in words."""
    shown, wanted = sections_of(page), sections_of(expected)
    found = {}
    for name in [*wanted, *(name for name in shown if name not in wanted)]:
        if name in ignored:
            continue
        if name not in shown:
            found[name] = "the section is missing"
        elif name not in wanted:
            found[name] = "the section is not of this run"
        else:
            for one, two in zip_longest(shown[name], wanted[name]):
                if one != two:
                    found[name] = f"shows {_short(one)} where the record gives {_short(two)}"
                    break
    return found


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, list[str]] = {"page": []}
        self._inside = ["page"]  # id of the section of every open section element
        self._skipping = ""
        self._is_contents = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "section":
            self._inside.append(given.get("id", self._inside[-1]))
            self.sections.setdefault(self._inside[-1], [])
        name = given.get("id") if tag == "script" else given.get("name") if tag == "meta" else None
        if name in _CHECKED:
            self._skipping = "" if tag in _VOID else tag
            return
        self._follow(tag, given)
        words = self.sections[self._inside[-1]]
        if "src" in given:
            words.append(f"{FIGURE}{hashlib.sha256(given['src'].encode()).hexdigest()[:16]}")
        for name in _TELLING:
            if name in given:
                value = given[name]
                words.append(hashlib.sha256(value.encode()).hexdigest()[:16] if value.startswith("data:") else value)

    def _follow(self, tag: str, given: dict[str, str]) -> None:
        """A link of the contents belongs to the section that it leads to."""
        self._is_contents |= tag == "nav"
        if self._is_contents and given.get("href", "").startswith("#"):
            self._inside.append(given["href"][1:])
            self.sections.setdefault(self._inside[-1], [])

    def handle_endtag(self, tag: str) -> None:
        if tag == self._skipping:
            self._skipping = ""
        if (tag == "section" or (tag == "a" and self._is_contents)) and len(self._inside) > 1:
            self._inside.pop()
        self._is_contents &= tag != "nav"

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if text and not self._skipping:
            self.sections[self._inside[-1]].append(text)
