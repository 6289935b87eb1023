"""HTML of the parts as plain text, for terminals and logs.

In: HTML of this package. Out: text with aligned tables.
"""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

_WIDTH = 60  # characters of one column; longer texts are cut
_LINES = {"p", "div", "li", "tr", "h3", "h4", "caption", "summary", "details", "blockquote"}
_OMITTED = {"style", "script", "img"}


def plain_text(markup: str) -> str:
    """Return the text of ``markup`` line by line; the columns of tables are aligned, numbers to the right."""
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    return "\n".join(line for line in reader.lines() if line.strip())


class _Reader(HTMLParser):
    """Collects lines; rows of a table are kept as lists of cells until the table ends."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = []
        self._text: list[str] = []
        self._rows: list[list[tuple[str, bool]]] | None = None
        self._is_number = False
        self._omitted = 0

    def lines(self) -> list[str]:
        self._end_line()
        return self._lines

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kinds = (dict(attrs).get("class") or "").split()
        if tag in _OMITTED - {"img"}:
            self._omitted += 1
        elif tag == "table":
            self._end_line()
            self._rows = []
        elif tag == "tr" and self._rows is not None:
            self._end_line()
            self._rows.append([])
        elif tag in ("td", "th"):
            self._text, self._is_number = [], "number" in kinds
        elif "value" in kinds and self._text:
            self._text.append(": ")
        elif tag in _LINES and not self._in_cell():
            self._end_line()
            self._text += ["- "] if tag == "li" else []

    def handle_endtag(self, tag: str) -> None:
        if tag in _OMITTED:
            self._omitted -= 1
        elif tag in ("td", "th") and self._rows:
            self._rows[-1].append((self._taken(), self._is_number))
        elif tag == "table" and self._rows is not None:
            rows, self._rows = self._rows, None
            self._lines += _aligned(rows)
        elif tag in _LINES and not self._in_cell():
            self._end_line()
        elif tag == "summary":
            self._text.append(": ")

    def handle_data(self, data: str) -> None:
        if not self._omitted:
            self._text.append(data)

    def _in_cell(self) -> bool:
        return bool(self._rows)

    def _taken(self) -> str:
        text, self._text = " ".join("".join(self._text).split()), []
        return text.replace(" : ", ": ")

    def _end_line(self) -> None:
        self._lines.append(self._taken())


def _aligned(rows: list[list[tuple[str, bool]]]) -> list[str]:
    """The rows as lines of columns, two spaces between them; the last column is never padded."""
    n_columns = max((len(row) for row in rows), default=0)
    cut = [[_cut(text) if place < n_columns - 1 else text for place, (text, _) in enumerate(row)] for row in rows]
    widths = [
        max((_n_columns_of(row[place]) for row in cut if place < len(row)), default=0) for place in range(n_columns)
    ]
    lines = []
    for row, texts in zip(rows, cut, strict=True):
        padded = []
        for (_, is_number), text, width in zip(row, texts, widths, strict=False):
            space = " " * (width - _n_columns_of(text))
            padded.append(space + text if is_number else text + space)
        lines.append("  ".join(padded).rstrip())
    return lines


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}\N{HORIZONTAL ELLIPSIS}"


def _n_columns_of(text: str) -> int:
    """Columns that a terminal gives a text: two for wide letters, none for combining marks."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) != 0 for letter in text)
