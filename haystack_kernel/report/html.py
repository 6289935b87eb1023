"""The few HTML forms that cards, tables and the report share; every text is escaped here.

In: plain values. Out: :class:`Html`, which notebooks show as HTML and terminals as text.
"""

from __future__ import annotations

import html
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MISSING = "\N{EN DASH}"
STYLE = (Path(__file__).parent / "template" / "parts.css").read_text(encoding="utf-8")


class Html(str):
    """An HTML fragment, safe to insert as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """Tell template engines that this is escaped already."""
        return str(self)

    def _repr_html_(self) -> str:
        return f'<div class="haystack"><style>{STYLE}</style>{self}</div>'

    def __repr__(self) -> str:
        text = re.sub(r"</(?:tr|p|h\d|li|dd|div)>", "\n", str(self))
        lines = [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", line)).split()) for line in text.splitlines()]
        return "\n".join(line for line in lines if line)


def escape(value: object) -> str:
    """Text of ``value`` with everything that HTML could read as markup made harmless."""
    return html.escape(str(value), quote=True)


def paragraph(text: object, *, kind: str = "") -> str:
    """One paragraph of plain text."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def definitions(pairs: Mapping[str, object]) -> str:
    """Names and values; empty values are left out."""
    rows = [
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items() if value not in ("", None)
    ]
    return f"<dl>{''.join(rows)}</dl>"


def items(texts: Iterable[object], *, kind: str = "") -> str:
    """A list of plain texts; empty for none."""
    rows = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{escape(kind)}">{rows}</ul>' if rows else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str, kind: str = "") -> str:
    """A table of plain values; numbers are right-aligned, NaN shows as a dash.

    Parameters
    ----------
    caption
        What the table holds, for everybody and for screen readers.
    kind
        ``sortable`` lets the report's script sort and filter it; it is readable without.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    opening = f'<div class="scroll"><table class="{escape(kind)}"><caption>{escape(caption)}</caption>'
    return f"{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def bar(score: float) -> Html:
    """A score of 1 to 10 as a bar whose left end is chance; NaN as the words "not computed"."""
    if math.isnan(score):
        return Html('<span class="missing">not computed</span>')
    share = (min(max(score, 1.0), 10.0) - 1.0) / 9.0 * 100.0
    label = f"{score:.1f}"
    return Html(f'<span class="bar" aria-hidden="true"><span style="width:{share:.0f}%"></span></span> {label}')


def number(value: float, *, digits: int = 2) -> str:
    """A number for people: few digits, small ones in powers of ten, NaN as a dash."""
    if math.isnan(value):
        return MISSING
    if value != 0 and abs(value) < 10**-digits:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def _cell(value: object) -> str:
    if isinstance(value, Html):
        return f"<td>{value}</td>"
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, (int, float)):
        shown = str(value) if isinstance(value, int) else number(value, digits=3)
        return f'<td class="number" data-value="{float(value):.9g}">{escape(shown)}</td>'
    return f"<td>{escape(value)}</td>"
