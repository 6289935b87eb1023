"""Read foreign JSON: fields that are not in place count as absent, a broken document as malformed.

In: bytes. Out: dictionaries and lists that can be walked without surprise.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from haystack_kernel.literature.fetch import MalformedError

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the document, which must be an object.

    Raises
    ------
    MalformedError
        It is no JSON, or no object.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        msg = "no JSON"
        raise MalformedError(msg) from None
    if not isinstance(found, dict):
        msg = "no JSON object"
        raise MalformedError(msg)
    return found


def section(value: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object under a name; empty where there is none."""
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def entries(value: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects of the list under a name."""
    found = value.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def demand_usable(papers: list[T], entries: Sequence[object]) -> list[T]:
    """Return the papers read from entries.

    Raises
    ------
    MalformedError
        There are entries, and not one could be read: that is no search without a result.
    """
    if entries and not papers:
        msg = f"none of its {len(entries)} entries can be read (title, identifier)"
        raise MalformedError(msg)
    return papers


def names(value: object) -> list[str]:
    """Return a list of texts; one text becomes a list of one."""
    found = value if isinstance(value, list) else [value]
    return [item for item in found if isinstance(item, str)]
