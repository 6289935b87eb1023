"""The thin front: a part as a live view, which sends what changed and hands over what was pressed.

In: a part. Out: widgets; only this module needs the packages for them.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from haystack_kernel.report.html import CELL_STYLE
from haystack_kernel.widgets.desk import Desk
from haystack_kernel.widgets.exploring import Explore
from haystack_kernel.widgets.markup import LIVE_STYLE, split_ticks

if TYPE_CHECKING:
    from haystack_kernel.widgets.part import Part

_FOLDER = Path(__file__).parent / "template"


class LiveView(anywidget.AnyWidget):
    """The live picture of one part; it sends what changed, and hands clicks and fields to the part."""

    _esm = _FOLDER / "live.js"
    html = traitlets.Unicode().tag(sync=True)
    ticks = traitlets.Dict().tag(sync=True)
    css = traitlets.Unicode().tag(sync=True)

    def __init__(self, part: Part, *, hides: str = "") -> None:
        super().__init__(css=f"{CELL_STYLE}{LIVE_STYLE}{hides}")
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


def view_of(part: Part, *, hides: str) -> ipywidgets.Widget:
    """The live view of a part; ``hides`` is the style that hides its still picture."""
    return DeskView(part, hides=hides) if isinstance(part, Desk) else LiveView(part, hides=hides)
