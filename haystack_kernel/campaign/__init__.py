"""Campaigns: many questions as one job, one bill and one table; what may be trusted of it, and what to measure next.

Read ``screening`` (the whole of a screen), ``plan`` (its questions), ``prepare`` (cells by role), ``judge`` (one
question scored), ``result`` (the table and the matrix of effects), ``rank`` (which rows of the table count, and how
many of them are false), ``seeking`` (which treatment moves cells toward a state), ``next`` (which experiment would
change the top of a list), ``sealing`` (predictions fixed before they are measured),
``outcome`` (what was measured of them), ``board`` (engines ranked on an atlas).

Modules are named after what they hold (``screening``), verbs after what they do (``screen``): a module with the name of
a verb would take its place here as soon as it is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_VERBS = {  # name: module of this package; imported when first used
    "Screen": "screening",
    "check_seal": "sealing",
    "leaderboard": "board",
    "drill": "drilling",
    "next_experiments": "next",
    "open_screen": "screening",
    "screen": "screening",
    "list_outcomes": "outcome",
    "record_outcome": "outcome",
    "seal": "sealing",
    "seek": "seeking",
}
__all__ = [*_VERBS]  # noqa: PLE0604 - all are strings


def __getattr__(name: str) -> Any:  # noqa: ANN401 - functions and classes
    if name in _VERBS:
        return getattr(import_module(f"{__name__}.{_VERBS[name]}"), name)
    msg = f"haystack_kernel.campaign has no {name!r}; it offers {', '.join(__all__)}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
