"""HTML elements that cards, tables and the report share; every text is escaped here.

In: plain values. Out: :class:`Html`, which notebooks show as HTML and terminals as text.
"""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.report.plain import plain_text
from haystack_kernel.texts import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MISSING = "\N{EN DASH}"
UP, DOWN = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"
_TEMPLATES = Path(__file__).parent / "template"
STYLE = (_TEMPLATES / "parts.css").read_text(encoding="utf-8")  # of pages, which define the colours themselves
SCRIPT = (_TEMPLATES / "tables.js").read_text(encoding="utf-8")
# In notebooks the front end has rules for every table, list and paragraph: these are undone, and ours outweigh them.
CELL_STYLE = ((_TEMPLATES / "cell.css").read_text(encoding="utf-8") + STYLE).replace(".haystack", ".haystack" * 3)
_LEFT = ' style="text-align:left"'  # Lab shows untrusted outputs without our style, and cells of tables to the right
_NO_MATHEMATICS = "tex2jax_ignore mathjax_ignore"  # a name with dollar signs is a name
_SORTABLE = '<table class="sortable">'
LONG, LONGER = 24, 100  # characters; longer texts wrap, in columns with a minimum width (see parts.css)


class Html(str):
    """An HTML fragment, safe to insert as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """Return the fragment, so that template engines do not escape it again."""
        return str(self)

    def _repr_html_(self) -> str:
        script = f"<script>{SCRIPT}</script>" if _SORTABLE in self else ""
        return f'<div class="haystack {_NO_MATHEMATICS}"><style>{CELL_STYLE}</style>{self}{script}</div>'

    def __repr__(self) -> str:
        return plain_text(self)


def escape(value: object) -> str:
    """Return the text of ``value`` with all markup characters escaped, and with control characters made visible."""
    return html.escape(visible(str(value)), quote=True)


def paragraph(text: object, *, kind: str = "") -> str:
    """Return one paragraph of plain text."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def definitions(pairs: Mapping[str, object]) -> str:
    """Return names and values as a list; empty values are omitted."""
    rows = [
        f'<div class="fact"><b class="name">{escape(name)}</b> <span class="value">{_inner(value)}</span></div>'
        for name, value in pairs.items()
        if value not in ("", None)
    ]
    return f'<div class="facts">{"".join(rows)}</div>'


def items(texts: Iterable[object], *, kind: str = "") -> str:
    """Return a list of plain texts; empty for none."""
    rows = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{escape(kind)}">{rows}</ul>' if rows else ""


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str,
    kind: str = "",
    amounts: Sequence[str] = (),
) -> str:
    """Return a table of plain values; numbers are right-aligned, NaN is a dash, the first column is the row header.

    Parameters
    ----------
    caption
        What the table holds; shown above it and read out by screen readers.
    kind
        ``sortable`` lets the script of the report sort and filter the table; it can be read without.
    amounts
        Columns of numbers with their unit, as texts; they are right-aligned too.
    """
    filled = [list(row) for row in rows]
    rights = [name in amounts or _is_numeric([row[place] for row in filled]) for place, name in enumerate(columns)]
    head = "".join(
        f'<th scope="col"{_class("number") if is_right else _LEFT}>{escape(name)}</th>'
        for name, is_right in zip(columns, rights, strict=True)
    )
    body = ""
    for row in filled:
        cells = [
            _cell(value, is_first=place == 0, is_amount=columns[place] in amounts) for place, value in enumerate(row)
        ]
        body += f"<tr>{''.join(cells)}</tr>"
    name = escape(caption)
    box = f'<div class="scroll{" tall" if kind else ""}" role="group" tabindex="0" aria-label="{name}">'
    opening = f"{box}<table{_class(escape(kind))}><caption><span>{name}</span></caption>"
    return f"{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def folded(summary: object, text: object) -> Html:
    """Return a short text that unfolds to a longer one."""
    return Html(f"<details><summary>{escape(summary)}</summary>{escape(text)}</details>")


def bar(score: float) -> Html:
    """Return a score of 1 to 10 as a bar and a number; NaN as the words "not computed"."""
    if math.isnan(score):
        return Html('<span class="missing">not computed</span>')
    return Html(f'<span class="scored">{bar_picture(score)} {score:.1f}</span>')


def bar_picture(score: float) -> Html:
    """Return a bar from chance (1, left end) to 10 (right end); show the number beside it."""
    share = (min(max(score, 1.0), 10.0) - 1.0) / 9.0 * 100.0
    return Html(f'<span class="bar" aria-hidden="true"><span style="width:{share:.0f}%"></span></span>')


def number(value: float, *, digits: int = 2) -> str:
    """Format a number with few digits; small ones in powers of ten, NaN as a dash."""
    if math.isnan(value):
        return MISSING
    if value != 0 and abs(value) < 10**-digits:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.{digits}f}"


def _is_numeric(values: Sequence[object]) -> bool:
    return bool(values) and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _inner(value: object) -> str:
    return str(value) if isinstance(value, Html) else escape(value)


def _cell(value: object, *, is_first: bool, is_amount: bool) -> str:
    if isinstance(value, Html):
        inner, attributes = str(value), _LEFT
    elif isinstance(value, bool):
        inner, attributes = "yes" if value else "no", _LEFT
    elif isinstance(value, (int, float)):
        inner = f"{value:,}" if isinstance(value, int) else number(value, digits=3)
        attributes = f' class="number" data-value="{float(value):.9g}"'
    elif is_amount:
        inner, attributes = escape(value), _class("number")
    else:
        inner = escape(value).replace(f"{UP} ", f"{UP}&nbsp;").replace(f"{DOWN} ", f"{DOWN}&nbsp;")
        n_letters = len(str(value))
        attributes = _LEFT + _class("longer" if n_letters > LONGER else "long" if n_letters > LONG else "")
    return f'<th scope="row"{attributes}>{inner}</th>' if is_first else f"<td{attributes}>{inner}</td>"
