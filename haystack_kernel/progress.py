"""Progress events as one live display a cell, which ends as a static picture of what happened.

In: progress events. Out: a notebook display that each event updates, and lines of text for logs; the same events travel
in the display's metadata, where the papermill engine reads them.
"""

from __future__ import annotations

import html
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from haystack_kernel.ports import Progress, ProgressEvent

METADATA_KEY = "haystack"


def progress_line(event: ProgressEvent) -> str:
    """One line for a log: ``[round 2] ground: scoring against known biology``."""
    where = f"[round {event.round}] " if event.round else ""
    took = f" ({event.elapsed_s:.1f} s)" if event.message == "done" else ""
    return f"{where}{event.phase}: {event.message}{took}"


def stream_progress(stream: TextIO) -> Progress:
    """Listener that writes one line an event to ``stream``, leaving out repeats."""
    last: list[str] = []

    def show(event: ProgressEvent) -> None:
        line = progress_line(event)
        if last != [line]:
            last[:] = [line]
            stream.write(line + "\n")
            stream.flush()

    return show


def notebook_progress() -> Progress | None:
    """Listener for the notebook that calls, or None outside one."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return _CellDisplay(shell) if shell is not None and hasattr(shell, "kernel") else None


class _CellDisplay:
    """One display per executed cell; all events of the cell update it."""

    def __init__(self, shell: Any) -> None:  # noqa: ANN401 - IPython's shell is untyped
        self._shell = shell
        self._cell = -1
        self._handle: Any = None
        self._lines: dict[str, str] = {}

    def __call__(self, event: ProgressEvent) -> None:
        from IPython.display import display

        if self._cell != self._shell.execution_count:
            self._cell, self._handle, self._lines = self._shell.execution_count, None, {}
        self._lines[f"{event.round}/{event.phase}"] = progress_line(event)
        rows = "".join(f"<li>{html.escape(line)}</li>" for line in self._lines.values())
        style = "color:var(--jp-ui-font-color2,#555);margin:0;padding-left:1.2em;font-size:90%"  # follows the theme
        page = f'<ul class="haystack-progress" style="{style}">{rows}</ul>'
        bundle = {"text/plain": "\n".join(self._lines.values()), "text/html": page}
        metadata = {METADATA_KEY: asdict(event)}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True, metadata=metadata)
        else:
            self._handle.update(bundle, raw=True, metadata=metadata)
