"""The thin front: a part becomes a live view in a notebook, beside a still picture that stays when it is saved.

The still picture and the live view are two outputs of one cell. While the live view lives it hides the picture; in a
notebook that was saved, reopened, converted or is not trusted, the picture is what there is.

In: a part. Out: outputs of the cell that shows it.
"""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from haystack_kernel.report.html import STYLE
from haystack_kernel.widgets.desk import Desk
from haystack_kernel.widgets.exploring import Explore
from haystack_kernel.widgets.markup import split_ticks

if TYPE_CHECKING:
    from haystack_kernel.widgets.part import Part

_FOLDER = Path(__file__).parent / "template"
_CSS = (_FOLDER / "live.css").read_text(encoding="utf-8")
_STILL_S = 2.0  # the still picture of what moves is not drawn more often
_VIEW = "application/vnd.jupyter.widget-view+json"


class LiveView(anywidget.AnyWidget):
    """The live picture of one part; it sends what changed, and hands clicks and fields to the part."""

    _esm = _FOLDER / "live.js"
    html = traitlets.Unicode().tag(sync=True)
    ticks = traitlets.Dict().tag(sync=True)
    css = traitlets.Unicode().tag(sync=True)

    def __init__(self, part: Part, *, hides: str = "") -> None:
        super().__init__(css=f"{STYLE}{_CSS}{hides}")
        self._part, self._drawing = part, threading.Lock()
        self.on_msg(self._hear)
        part.listen(self.draw)
        self.draw()

    def draw(self) -> None:
        """Send the picture where it changed; texts that tick travel apart from it."""
        with self._drawing:
            page, texts = split_ticks(self._part.picture(live=True))
            self.ticks, self.html = texts, page

    def _hear(self, _widget: object, content: Any, _buffers: object) -> None:  # noqa: ANN401 - from a browser
        if isinstance(content, dict) and isinstance(content.get("do"), str):
            values = content.get("values")
            given = {str(name): value for name, value in values.items()} if isinstance(values, dict) else {}
            self._part.act(content["do"], str(content.get("arg", "")), given)
        self.send({"heard": True})


class DeskView(ipywidgets.VBox):
    """The live views of a desk's parts, and the explorer of each finished run."""

    def __init__(self, desk: Desk, *, hides: str = "") -> None:
        super().__init__()
        self._desk, self._hides = desk, hides
        self._views: dict[int, ipywidgets.Widget] = {}
        self._views_shown: list[ipywidgets.Widget] = []
        self._arranging = threading.Lock()
        desk.listen(self.arrange)
        self.arrange()

    def arrange(self) -> None:
        """Show the parts that there are."""
        with self._arranging:
            shown = []
            for part in self._desk.parts:
                if id(part) not in self._views:
                    self._views[id(part)] = LiveView(part, hides=self._hides)
                shown.append(self._views[id(part)])
                if isinstance(part, Explore) and part.explorer is not None:
                    shown.append(part.explorer.widget)
            if len(shown) != len(self._views_shown):
                self._views_shown = shown
                self.children = tuple(shown)


def display_part(part: Part, *, live: bool) -> None:
    """Show a part in the cell that is executed: the still picture, and with ``live`` the view that hides it."""
    from IPython.display import display

    mark = f"haystack-still-{secrets.token_hex(4)}"
    handle = display(_bundle(part, mark), raw=True, display_id=True)
    keeper = _Keeper(part, mark, handle)
    part.listen(keeper.draw)
    if live:
        hides = f".{mark},.jp-OutputArea-child:has(.{mark}){{display:none}}"
        view = DeskView(part, hides=hides) if isinstance(part, Desk) else LiveView(part, hides=hides)
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
    page = f'<div class="haystack {mark}"><style>{STYLE}{_CSS}{gone}</style>{still}</div>'
    return {"text/html": page, "text/plain": repr(still)}


def is_attended() -> bool:
    """Whether somebody sits at the notebook: programs that execute notebooks take no typed input."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))
