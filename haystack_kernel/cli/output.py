"""What commands print: a readable answer on a terminal, one JSON line everywhere else.

In: JSON-able values. Out: text on stdout, in whatever encoding it has.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from haystack_kernel.texts import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_UNLIMITED = 100_000  # width of a table in a pipe: one line per row, for grep and sort
_NARROWEST = 16  # columns are not cut below this
_form = {"json": False, "readable": False}  # what the options of this call asked for


def choose_form(*, json: bool, table: bool) -> None:
    """Remember what ``--json`` and ``--table`` of this call asked for."""
    _form.update(json=json, readable=table and not json)


def is_readable() -> bool:
    """Whether the answer is for a person: on a terminal unless ``--json`` was given."""
    return _form["readable"] or (sys.stdout.isatty() and not _form["json"])


def prepare_streams() -> None:
    """Let stdout and stderr take every character: what their encoding lacks is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test or an embedding program may have put something simpler there
            stream.reconfigure(errors="backslashreplace")


def show(value: dict[str, Any] | list[Any], readable: Callable[[], str]) -> None:
    """Print ``value`` as JSON, or what ``readable`` makes of it for a person."""
    if is_readable():
        print(readable())
    else:
        print_json(value)


def print_json(value: dict[str, Any] | list[Any]) -> None:
    """Print ``value`` as one line of JSON; NaN becomes null."""
    has_all_characters = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(_clean(value), ensure_ascii=not has_all_characters, default=str))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Rows aligned under their headings, numbers to the right.

    A table wider than the terminal has its last column on a line of its own below each row; if that is not enough, the
    widest column is cut.
    """
    if not rows:
        return "(none)"
    texts = [{name: as_text(value) for name, value in row.items()} for row in rows]
    columns, below = _layout(texts)
    numeric = set()
    for row in rows:
        numeric |= {
            name for name, value in row.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
    lines = [_aligned({name: name for name in columns}, columns, numeric)]
    for text in texts:
        lines.append(_aligned(text, columns, numeric))
        if text.get(below):
            lines.append(wrap(text[below], indent="    "))
    return "\n".join(lines)


def _layout(texts: list[dict[str, str]]) -> tuple[dict[str, int], str]:
    """The columns side by side with their widths, and the one that goes below each row (empty: none does)."""
    columns = {name: max(len(name), *(len(text[name]) for text in texts)) for name in texts[0]}
    below = list(columns)[-1] if len(columns) > 1 and _total(columns) > _width() else ""
    columns.pop(below, None)
    widest = max(columns, key=lambda name: columns[name])
    columns[widest] = max(min(_NARROWEST, columns[widest]), columns[widest] - max(0, _total(columns) - _width()))
    return columns, below


def _aligned(texts: dict[str, str], columns: dict[str, int], numeric: set[str]) -> str:
    cells = []
    for name, width in columns.items():
        cell = texts[name] if len(texts[name]) <= width else f"{texts[name][: width - 3]}..."
        cells.append(cell.rjust(width) if name in numeric else cell.ljust(width))
    return "  ".join(cells).rstrip()


def _total(columns: dict[str, int]) -> int:
    return sum(columns.values()) + 2 * (len(columns) - 1)


def format_fields(fields: Iterable[tuple[str, object]]) -> str:
    """Named values one below the other, long ones wrapped beside their name; empty values are left out."""
    shown = [(name, as_text(value)) for name, value in fields]
    shown = [(name, text) for name, text in shown if text]
    margin = max((len(name) for name, _ in shown), default=0) + 2
    lines = []
    for name, text in shown:
        value = "\n".join(wrap(line, indent=" " * margin) for line in text.splitlines())
        lines.append(f"{name:<{margin}}{value[margin:]}")
    return "\n".join(lines)


def wrap(text: str, *, indent: str = "") -> str:
    """Text broken at spaces to the width of the terminal; words, such as paths and commands, stay whole."""
    width = min(_width(), 100) if _width() < _UNLIMITED else _UNLIMITED
    return textwrap.fill(
        text,
        width=max(width, len(indent) + _NARROWEST),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def as_text(value: object) -> str:
    """A value as a person reads it: no braces, no quotes, two decimals, thousands apart; empty where there is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if math.isfinite(value) else ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        value = [f"{key} {as_text(item)}" for key, item in value.items() if as_text(item)]
    if isinstance(value, (list, tuple)):
        return ", ".join(as_text(item) for item in value)
    return "" if value is None else visible(str(value))


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED


def _clean(value: Any) -> Any:  # noqa: ANN401 - any JSON-able value
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
