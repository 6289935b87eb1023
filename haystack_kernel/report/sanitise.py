"""HTML written by others, reduced to what a report may show.

In: any HTML text. Out: balanced HTML of an allow-list of elements and attributes; scripts, styles, handlers, addresses
of other files and unknown elements are gone, their text (unless it is code) stays.
"""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

_VOID = frozenset({"br", "col", "hr", "img", "wbr"})
_INLINE = frozenset(
    {"a", "abbr", "b", "cite", "code", "del", "em", "i", "ins", "kbd", "q", "s", "samp", "small", "span"}
)
_INLINE_TOO = frozenset({"strong", "sub", "sup", "u", "var"})
_BLOCKS = frozenset({"blockquote", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "li", "ol", "p", "pre"})
_BLOCKS_TOO = frozenset({"h1", "h2", "h3", "h4", "h5", "h6", "summary", "ul"})
_TABLES = frozenset({"caption", "colgroup", "table", "tbody", "td", "tfoot", "th", "thead", "tr"})
_ELEMENTS = _VOID | _INLINE | _INLINE_TOO | _BLOCKS | _BLOCKS_TOO | _TABLES
_CODE = frozenset({"iframe", "math", "noscript", "object", "script", "style", "svg", "template", "textarea", "title"})
_ATTRIBUTES: dict[str, frozenset[str]] = {
    "a": frozenset({"href", "title"}),
    "img": frozenset({"src", "alt", "width", "height", "title"}),
    "td": frozenset({"colspan", "rowspan", "data-value"}),
    "th": frozenset({"colspan", "rowspan", "scope", "data-value"}),
    "ol": frozenset({"start"}),
    "details": frozenset({"open"}),
}
_EVERYWHERE = frozenset({"class", "style", "role", "aria-label", "aria-hidden", "tabindex"})
_HEADING = re.compile(r"h([1-6])")
_LINK = re.compile(r"(?:https?://|mailto:|#)[^\s]*", re.IGNORECASE)
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*")
_SAFE_STYLE = re.compile(r"(?:width:\d{1,3}(?:\.\d+)?%|text-align:(?:left|right|center)|font-weight:(?:bold|[1-9]00))")


def sanitise(text: str, *, heading_shift: int | None = None, alt: str = "") -> str:
    """Reduce ``text`` to harmless, balanced HTML.

    Parameters
    ----------
    heading_shift
        Levels by which headings sink, so that they fit under those of the page; None turns them into paragraphs.
    alt
        Alternative text of images that have none.
    """
    reader = _Reader(heading_shift=heading_shift, alt=alt)
    reader.feed(text)
    reader.close()
    return reader.result()


class _Reader(HTMLParser):
    """Writes anew what it reads, so that nothing passes which was not understood."""

    def __init__(self, *, heading_shift: int | None, alt: str) -> None:
        super().__init__(convert_charrefs=True)
        self._shift, self._alt = heading_shift, alt
        self._out: list[str] = []
        self._open: list[tuple[str, str]] = []  # as read, as written
        self._silent: list[str] = []

    def result(self) -> str:
        return "".join([*self._out, *(f"</{written}>" for _, written in reversed(self._open))])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _CODE:
            self._silent.append(tag)
        if self._silent or tag not in _ELEMENTS:
            return
        written = self._named(tag)
        kept = "".join(
            f' {name}="{html.escape(value, quote=True)}"' for name, value in self._attributes(tag, dict(attrs)).items()
        )
        self._out.append(f"<{written}{kept}>")
        if tag not in _VOID:
            self._open.append((tag, written))

    def handle_endtag(self, tag: str) -> None:
        if self._silent:
            if tag in self._silent:
                while self._silent.pop() != tag:
                    pass
            return
        if tag not in (read for read, _ in self._open):
            return
        while True:
            read, written = self._open.pop()
            self._out.append(f"</{written}>")
            if read == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._out.append(html.escape(data, quote=False))

    def _named(self, tag: str) -> str:
        heading = _HEADING.fullmatch(tag)
        if heading is None:
            return tag
        return "p" if self._shift is None else f"h{min(int(heading.group(1)) + self._shift, 6)}"

    def _attributes(self, tag: str, given: dict[str, str | None]) -> dict[str, str]:
        allowed = _EVERYWHERE | _ATTRIBUTES.get(tag, frozenset())
        kept = {name: value or "" for name, value in given.items() if name in allowed}
        if "style" in kept:
            parts = ["".join(part.split()) for part in kept["style"].split(";")]
            kept["style"] = ";".join(part for part in parts if _SAFE_STYLE.fullmatch(part))
        if tag == "a" and not _LINK.fullmatch(kept.get("href", "#")):
            kept.pop("href")
        if tag == "a" and kept.get("href", "#")[:1] != "#":
            kept["rel"] = "noopener noreferrer"
        if tag == "img":
            kept["alt"] = kept.get("alt") or self._alt
            if not _PICTURE.fullmatch(kept.get("src", "")):
                kept["src"] = "data:,"
        if self._shift is None and _HEADING.fullmatch(tag):
            kept["class"] = "heading"
        return {name: value for name, value in kept.items() if value or name in ("alt", "open")}
