"""What commands print: one JSON line, or a table for people.

In: JSON-able values. Out: text on stdout.
"""

from __future__ import annotations

import json
import math
from typing import Any


def print_json(value: dict[str, Any] | list[Any]) -> None:
    """Print ``value`` as one line of JSON; NaN becomes null."""
    print(json.dumps(_clean(value), ensure_ascii=False, default=str))


def print_rows(rows: list[dict[str, Any]], *, table: bool) -> None:
    """Print rows as one JSON line, or aligned under their headings."""
    if not table:
        print_json(rows)
        return
    print(format_rows(rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Rows aligned under their headings, one a line."""
    if not rows:
        return "(none)"
    names = list(rows[0])
    cells = [names, *[[_short(row.get(name)) for name in names] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def _clean(value: Any) -> Any:  # noqa: ANN401 - any JSON-able value
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: object) -> str:
    text = "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
