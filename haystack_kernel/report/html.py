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
UP, DOWN = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"
STYLE = (Path(__file__).parent / "template" / "parts.css").read_text(encoding="utf-8")
LONG, LONGER = 24, 100  # letters; longer texts may break, in a column that does not shrink to a ribbon


class Html(str):
    """An HTML fragment, safe to insert as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """Tell template engines that this is escaped already."""
        return str(self)

    def _repr_html_(self) -> str:
        return f'<div class="haystack"><style>{STYLE}</style>{self}</div>'

    def __repr__(self) -> str:
        text = re.sub(r"</(?:tr|p|h\d|li|dd|div|caption)>", "\n", str(self))
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
    return f'<dl class="facts">{"".join(rows)}</dl>'


def items(texts: Iterable[object], *, kind: str = "") -> str:
    """A list of plain texts; empty for none."""
    rows = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{escape(kind)}">{rows}</ul>' if rows else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str, kind: str = "") -> str:
    """A table of plain values; numbers are right-aligned, NaN shows as a dash, the first column names the row.

    Parameters
    ----------
    caption
        What the table holds, for everybody and for screen readers.
    kind
        ``sortable`` lets the report's script sort and filter it; it is readable without.
    """
    filled = [list(row) for row in rows]
    numeric = [bool(filled) and all(_is_number(row[place]) for row in filled) for place in range(len(columns))]
    head = "".join(
        f'<th scope="col"{_class("number" if is_number else "")}>{escape(name)}</th>'
        for name, is_number in zip(columns, numeric, strict=True)
    )
    body = "".join(f"<tr>{''.join(_cell(value, is_first=not n) for n, value in enumerate(row))}</tr>" for row in filled)
    name = escape(caption)
    box = f'<div class="scroll{" tall" if kind else ""}" role="region" tabindex="0" aria-label="{name}">'
    opening = f"{box}<table{_class(escape(kind))}><caption><span>{name}</span></caption>"
    return f"{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def folded(summary: object, text: object) -> Html:
    """A short text that opens to a longer one."""
    return Html(f"<details><summary>{escape(summary)}</summary>{escape(text)}</details>")


def bar(score: float) -> Html:
    """A score of 1 to 10 as a bar and a number; NaN as the words "not computed"."""
    if math.isnan(score):
        return Html('<span class="missing">not computed</span>')
    return Html(f'<span class="scored">{bar_picture(score)} {score:.1f}</span>')


def bar_picture(score: float) -> Html:
    """A bar whose left end is chance (1) and whose right end is 10; the number belongs beside it."""
    share = (min(max(score, 1.0), 10.0) - 1.0) / 9.0 * 100.0
    return Html(f'<span class="bar" aria-hidden="true"><span style="width:{share:.0f}%"></span></span>')


def number(value: float, *, digits: int = 2) -> str:
    """A number for people: few digits, small ones in powers of ten, NaN as a dash."""
    if math.isnan(value):
        return MISSING
    if value != 0 and abs(value) < 10**-digits:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.{digits}f}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _cell(value: object, *, is_first: bool) -> str:
    if isinstance(value, Html):
        inner, attributes = str(value), ""
    elif isinstance(value, bool):
        inner, attributes = "yes" if value else "no", ""
    elif isinstance(value, (int, float)):
        inner = f"{value:,}" if isinstance(value, int) else number(value, digits=3)
        attributes = f' class="number" data-value="{float(value):.9g}"'
    else:
        inner = escape(value)
        n_letters = len(str(value))
        attributes = _class("longer" if n_letters > LONGER else "long" if n_letters > LONG else "")
    return f'<th scope="row"{attributes}>{inner}</th>' if is_first else f"<td{attributes}>{inner}</td>"
