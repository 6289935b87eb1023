"""Widgets: ask, watch, list, compare and fork runs in a notebook; each is plain state, and a picture that stays.

In: a question, a run id, or a storage. Out: parts that a notebook shows live where somebody sits at it, and as still
pictures elsewhere. Nothing here needs ipywidgets until a part is shown live.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {"ask": "verbs", "monitor": "verbs", "runs": "verbs", "fork": "verbs", "Desk": "desk"}
__all__ = [*_WHERE]  # noqa: PLE0604 - all are strings


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a function or a class
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    msg = f"haystack_kernel.widgets has no {name!r}; it has {', '.join(__all__)}"
    raise AttributeError(msg)
