"""The still picture of a part in a notebook, and the live view that hides it while it lives.

Both are outputs of one cell. In a notebook that was saved, reopened, converted or is not trusted, the picture is what
there is.

In: a part. Out: outputs of the cell that shows it.
"""

from __future__ import annotations

import secrets
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import MissingExtraError
from haystack_kernel.report.html import CELL_STYLE
from haystack_kernel.widgets.markup import LIVE_STYLE, split_ticks

if TYPE_CHECKING:
    from haystack_kernel.widgets.part import Part

_STILL_S = 2.0  # the still picture of what moves is not drawn more often
_VIEW = "application/vnd.jupyter.widget-view+json"


def is_attended() -> bool:
    """Whether somebody sits at a notebook that can show live views: programs that execute one take no typed input."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False)) and find_spec("anywidget") is not None


def display_part(part: Part, *, live: bool) -> None:
    """Show a part in the cell that is executed: the still picture, and with ``live`` the view that hides it."""
    from IPython.display import display

    if live and find_spec("anywidget") is None:
        msg = "live widgets need anywidget: pip install 'haystack-kernel[lab]', or give live=False for still pictures"
        raise MissingExtraError(msg, extra="lab")
    mark = f"haystack-still-{secrets.token_hex(4)}"
    handle = display(_bundle(part, mark), raw=True, display_id=True)
    keeper = _Keeper(part, mark, handle)
    part.listen(keeper.draw)
    if live:
        from haystack_kernel.widgets.view import view_of

        hides = f".{mark},.jp-OutputArea-child:has(.{mark}){{display:none}}"
        view = view_of(part, hides=hides)
        found = {"version_major": 2, "version_minor": 0, "model_id": view.model_id}
        display({_VIEW: found, "text/plain": ""}, raw=True)


class _Keeper:
    """Keeps the still picture of a part up to date."""

    def __init__(self, part: Part, mark: str, handle: Any) -> None:  # noqa: ANN401 - IPython's is untyped
        self._part, self._mark, self._handle = part, mark, handle
        self._drawn, self._drawn_at, self._lock = "", 0.0, threading.Lock()

    def draw(self) -> None:
        with self._lock:
            page, _ = split_ticks(self._part.picture(live=False))
            is_early = self._part.is_moving and time.monotonic() - self._drawn_at < _STILL_S
            if page == self._drawn or is_early:
                return
            self._drawn, self._drawn_at = page, time.monotonic()
            self._handle.update(_bundle(self._part, self._mark), raw=True)


def _bundle(part: Part, mark: str) -> dict[str, Any]:
    """The still picture as outputs; its style hides the place of a live view that is gone."""
    still = part.still()
    gone = f".jp-OutputArea-child:has(.{mark}) + .jp-OutputArea-child:not(:has(.haystack-live)){{display:none}}"
    page = f'<div class="haystack {mark}"><style>{CELL_STYLE}{LIVE_STYLE}{gone}</style>{still}</div>'
    return {"text/html": page, "text/plain": repr(still)}
