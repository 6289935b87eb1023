"""JSON of strangers: whatever is not where it should be counts as absent, a broken document as malformed.

In: bytes. Out: dictionaries and lists that can be walked without surprise.
"""

from __future__ import annotations

import json
from typing import Any

from haystack_kernel.literature.fetch import MalformedError


def parse_object(body: bytes) -> dict[str, Any]:
    """The document, which must be an object.

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
    """The object under a name; empty where there is none."""
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def entries(value: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects of the list under a name."""
    found = value.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def names(value: object) -> list[str]:
    """A list of texts, or one text as such a list."""
    found = value if isinstance(value, list) else [value]
    return [item for item in found if isinstance(item, str)]
