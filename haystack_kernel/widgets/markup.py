"""Fields, buttons and other elements of live pictures; every text is escaped here.

In: plain values. Out: HTML. ``live.js`` reads the ``data-`` attributes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.report.html import Html, escape, items, paragraph

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LIVE_STYLE = (Path(__file__).parent / "template" / "live.css").read_text(encoding="utf-8")
_TICK = re.compile(r'(<span class="tick" data-tick="([\w-]+)">)([^<]*)(</span>)')


def button(text: str, do: str, *, arg: str = "", kind: str = "", label: str = "", off: bool = False) -> str:
    """Return a button; one that is off keeps the focus, so that the keyboard does not lose its place."""
    more = f' data-arg="{escape(arg)}"' if arg else ""
    more += f' class="{escape(kind)}"' if kind else ""
    more += f' aria-label="{escape(label)}"' if label else ""
    more += ' aria-disabled="true"' if off else ""
    return (
        f'<button type="button" data-key="{escape(f"{do} {arg}")}" data-do="{escape(do)}"{more}>{escape(text)}</button>'
    )


def pressed(text: str, do: str, *, arg: str, is_on: bool, label: str) -> str:
    """Return a button that is on or off."""
    made = button(text, do, arg=arg, kind="chip", label=label)
    return made.replace("<button ", f'<button aria-pressed="{str(is_on).lower()}" ', 1)


def field(label: str, name: str, value: object = "", *, kind: str = "", enter: str = "", hint: str = "") -> str:
    """Return a line to type in, under its label."""
    more = f' data-enter="{escape(enter)}"' if enter else ""
    more += f' placeholder="{escape(hint)}"' if hint else ""
    more += ' inputmode="decimal"' if kind == "number" else ""
    opening = f'<label class="field" data-key="field {escape(name)}"><span>{escape(label)}</span>'
    return f'{opening}<input name="{escape(name)}" value="{escape(value)}" autocomplete="off"{more}></label>'


def text_area(label: str, name: str, value: str, *, enter: str = "", hint: str = "", rows: int = 2) -> str:
    """Return several lines to type in, under their label."""
    more = f' data-enter="{escape(enter)}"' if enter else ""
    area = (
        f'<textarea name="{escape(name)}" rows="{rows}" placeholder="{escape(hint)}"{more}>{escape(value)}</textarea>'
    )
    return f'<label class="field wide" data-key="field {escape(name)}"><span>{escape(label)}</span>{area}</label>'


def select(label: str, name: str, options: Mapping[str, str], value: str, *, change: str = "") -> str:
    """Return a choice of one; ``options`` maps values to words."""
    rows = "".join(
        f'<option value="{escape(key)}"{" selected" if key == value else ""}>{escape(words)}</option>'
        for key, words in options.items()
    )
    more = f' data-change="{escape(change)}"' if change else ""
    opening = f'<label class="field" data-key="field {escape(name)}"><span>{escape(label)}</span>'
    return f'{opening}<select name="{escape(name)}"{more}>{rows}</select></label>'


def checks(legend: str, name: str, options: Mapping[str, str], chosen: Iterable[str]) -> str:
    """Return a choice of several."""
    on = set(chosen)
    boxes = "".join(
        f'<label class="check"><input type="checkbox" name="{escape(name)}" value="{escape(key)}"'
        f"{' checked' if key in on else ''}> {escape(words)}</label>"
        for key, words in options.items()
    )
    return f'<fieldset data-key="field {escape(name)}"><legend>{escape(legend)}</legend>{boxes}</fieldset>'


def tick(name: str, text: str) -> str:
    """Return a text that changes all the time, which the front end gets apart from the rest."""
    return f'<span class="tick" data-tick="{escape(name)}">{escape(text)}</span>'


def split_ticks(picture: str) -> tuple[str, dict[str, str]]:
    """Part a picture into what changes seldom, and the texts of its ticks by name (escaped ones are read back)."""
    import html

    texts = {found[2]: html.unescape(found[3]) for found in _TICK.finditer(picture)}
    return _TICK.sub(r"\1\4", picture), texts


def section(key: str, heading: str, *parts: str, kind: str = "") -> str:
    """Return a part of the page under its heading."""
    head = f"<h3>{escape(heading)}</h3>" if heading else ""
    return f'<section data-key="{escape(key)}" class="part {escape(kind)}">{head}{"".join(parts)}</section>'


def folded_part(key: str, heading: str, *parts: str, is_open: bool = False) -> str:
    """Return a part that unfolds; whether it is open is the reader's choice after it was first shown."""
    state = " open" if is_open else ""
    opening = f'<details data-key="{escape(key)}" class="part"{state}><summary>{escape(heading)}</summary>'
    return f"{opening}{''.join(parts)}</details>"


def problem_box(text: str) -> str:
    """Return a problem, which screen readers say at once; empty for none."""
    return f'<div class="problem" role="alert" data-key="problem">{paragraph(text)}</div>' if text else ""


def status_line(busy: str, *, said: str = "") -> str:
    """Return what is being done, or what was said last, in a place that screen readers follow."""
    text, kind = (f"{busy} …", "busy") if busy else (said, "said")
    return f'<div class="{kind}" role="status" data-key="status">{escape(text)}</div>'


def warnings(texts: Iterable[str]) -> str:
    """Return remarks that a reader must not miss; empty for none."""
    return items(texts, kind="warning")


def page(*parts: str, kind: str) -> Html:
    """Return the parts of one widget."""
    return Html(f'<div class="desk {escape(kind)}" data-key="{escape(kind)}">{"".join(parts)}</div>')
