"""Reduce HTML of unknown origin to what a report may show.

In: any HTML text. Out: balanced HTML of an allow-list of elements and attributes. Scripts, styles, event handlers,
addresses of other files and unknown elements are removed; the text of unknown elements stays unless it is code.
"""

from __future__ import annotations

import html
import re
from functools import cache

import nh3

_INLINE = "a abbr b br cite code del em i img ins kbd q s samp small span strong sub sup u var wbr"
_BLOCKS = "blockquote dd details div dl dt figcaption figure h1 h2 h3 h4 h5 h6 hr li ol p pre summary ul"
_TABLES = "caption col colgroup table tbody td tfoot th thead tr"
_CODE = "iframe math noscript object script style svg template textarea title"  # removed with their content
_ATTRIBUTES = {
    "*": {"class", "style", "role", "aria-label", "aria-hidden", "tabindex"},
    "a": {"href", "title"},
    "img": {"src", "alt", "width", "height", "title"},
    "td": {"colspan", "rowspan", "data-value"},
    "th": {"colspan", "rowspan", "scope", "data-value"},
    "ol": {"start"},
    "details": {"open"},
}
_NO_PICTURE = "data:,"
_HEADING = re.compile(r"<(/?)h([1-6])(?=[\s/>])", re.IGNORECASE)
_IMAGE_WITHOUT_ALT = re.compile(r'<img(?![^>]* alt=")')
_LINK = re.compile(r"(?:https?://|mailto:|#)[^\s]*", re.IGNORECASE)
# An SVG in an image element runs no script and loads nothing.
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*")
_SAFE_STYLE = re.compile(r"(?:width:\d{1,3}(?:\.\d+)?%|text-align:(?:left|right|center)|font-weight:(?:bold|[1-9]00))")


def sanitise(text: str, *, heading_shift: int | None = None, alt: str = "") -> str:
    """Reduce ``text`` to harmless, balanced HTML.

    Parameters
    ----------
    text
        HTML of unknown origin; it need not be well formed.
    heading_shift
        Number of levels by which headings are lowered, so that they fit under those of the page. With None,
        headings become paragraphs of class ``heading``.
    alt
        Alternative text of images that have none.

    Returns
    -------
    HTML that can be placed anywhere in a page.

    Examples
    --------
    >>> sanitise('<p onclick="alert(1)">5 < 6<script>alert(2)</script>')
    '<p>5 &lt; 6</p>'
    """

    def lowered(found: re.Match[str]) -> str:
        slash, level = found.groups()
        if heading_shift is not None:
            return f"<{slash}h{min(int(level) + heading_shift, 6)}"
        return "</p" if slash else "<p class=heading "

    # Headings are renamed before the text is cleaned: whatever the pattern hits by mistake is still cleaned afterwards.
    clean = _cleaner().clean(_HEADING.sub(lowered, text))
    # Images are completed afterwards, which is safe because nh3 escapes < and > in text and in attribute values.
    return _IMAGE_WITHOUT_ALT.sub(lambda _: f'<img alt="{html.escape(alt)}"', clean)


@cache
def _cleaner() -> nh3.Cleaner:
    return nh3.Cleaner(
        tags=set(f"{_INLINE} {_BLOCKS} {_TABLES}".split()),
        clean_content_tags=set(_CODE.split()),
        attributes=_ATTRIBUTES,
        attribute_filter=_safe_value,
        url_schemes={"http", "https", "mailto", "data"},  # data only for pictures: _safe_value drops it from links
        link_rel="noopener noreferrer",
    )


def _safe_value(tag: str, name: str, value: str) -> str | None:
    """Value to write for an attribute on the allow-list; None removes the attribute."""
    if name == "style":
        parts = ["".join(part.split()) for part in value.split(";")]
        value = ";".join(part for part in parts if _SAFE_STYLE.fullmatch(part))
    elif name == "href":
        value = value if _LINK.fullmatch(value) else ""
    elif name == "src":
        return value if _PICTURE.fullmatch(value) else _NO_PICTURE
    return value if value or (tag, name) == ("details", "open") else None
