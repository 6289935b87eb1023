"""Manage runs: submit, fork, compare and list them, free disk space, check the installation.

In: run ids and options. Out: runs, comparisons, summaries. Every module is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haystack_kernel.manage.comparison import Comparison, compare
    from haystack_kernel.manage.doctor import examine
    from haystack_kernel.manage.forking import fork
    from haystack_kernel.manage.gallery import write_gallery
    from haystack_kernel.manage.garbage import collect_garbage
    from haystack_kernel.manage.listing import list_summaries
    from haystack_kernel.manage.orphans import find_orphans
    from haystack_kernel.manage.previews import Preview, preview
    from haystack_kernel.manage.submission import submit
    from haystack_kernel.manage.verifying import verify_report

_HOMES = {
    "Comparison": "comparison",
    "collect_garbage": "garbage",
    "compare": "comparison",
    "examine": "doctor",
    "find_orphans": "orphans",
    "fork": "forking",
    "list_summaries": "listing",
    "Preview": "previews",
    "preview": "previews",
    "submit": "submission",
    "verify_report": "verifying",
    "write_gallery": "gallery",
}
__all__ = [
    "Comparison",
    "Preview",
    "collect_garbage",
    "compare",
    "examine",
    "find_orphans",
    "fork",
    "list_summaries",
    "preview",
    "submit",
    "verify_report",
    "write_gallery",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a function or a class
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    msg = f"haystack_kernel.manage has no {name!r}; it has {', '.join(__all__)}"
    raise AttributeError(msg)
