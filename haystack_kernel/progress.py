"""Progress events as one live display a cell, which ends as a static picture of what happened, and as lines of a log.

In: progress events. Out: a notebook display that each event updates, and lines of text for logs; the same events travel
in the display's metadata, where the papermill engine reads them.
"""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from haystack_kernel.texts import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Progress, ProgressEvent

METADATA_KEY = "haystack"
_AT_ONCE_S = 0.05  # a step that took no longer needs no line to say that it is done
_LEAST = 0.02  # of a step, before the time that is left is told


def progress_line(event: ProgressEvent) -> str:
    """One line for a log: ``[round 2] ground: scoring against known biology``; control characters are made visible."""
    where = f"[round {event.round}] " if event.round else ""
    took = f" ({event.elapsed_s:.1f} s)" if event.message == "done" else ""
    return visible(" ".join(f"{where}{event.phase}: {event.message}{took}".split()))


def tell_changes(show: Callable[[str], object]) -> Progress:
    """Listener that calls ``show`` with one line per change: a phase never says the same twice in a row."""
    last: dict[tuple[int | None, str], str] = {}

    def tell(event: ProgressEvent) -> None:
        phase, line = (event.round, event.phase), progress_line(event)
        is_news = last.get(phase) != line
        if event.message == "done" and event.elapsed_s < _AT_ONCE_S:
            is_news = False
        last[phase] = line
        if is_news:
            show(line)

    return tell


def stream_progress(stream: TextIO) -> Progress:
    """Listener that writes one line per change to ``stream``."""

    def write(line: str) -> None:
        stream.write(line + "\n")
        stream.flush()

    return tell_changes(write)


def notebook_progress() -> Progress | None:
    """Listener for the notebook that calls, or None outside one."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return CellDisplay(shell) if shell is not None and hasattr(shell, "kernel") else None


@dataclass
class _Row:
    """A phase as the display shows it: when it began, what it says, and how much of it is done."""

    began: datetime
    event: ProgressEvent
    ended: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it has told its end: by a word, or by a share of 1 where the message is to stand."""
        return self.event.message == "done" or self.event.fraction == 1.0

    def text(self, now: datetime) -> str:
        """``12:03:11 [round 1] collect: job running, 40%, 12 s so far, about 18 s left``."""
        line = f"{self.began:%H:%M:%S} {progress_line(self.event)}"
        if self.is_over:
            return line
        if self.ended:
            return f"{line}, {self.ended}"
        passed = (now - self.began).total_seconds()
        if passed >= 1:
            told = f"{_span(passed)} so far"
            share = self.event.fraction or 0.0
            if _LEAST <= share < 1:
                told = f"{share:.0%}, {told}, about {_span(passed * (1 - share) / share)} left"
            line = f"{line}, {told}"
        elif self.event.usual_s >= 1:
            line = f"{line}, about {_span(self.event.usual_s)} by earlier runs"
        return line

    def html(self, now: datetime) -> str:
        """The same with a bar while the phase goes on and its share is known."""
        share, bar = self.event.fraction, ""
        if share is not None and not self.ended and not self.is_over:
            style = "display:inline-block;width:120px;height:8px;border:1px solid currentColor;border-radius:3px"
            filled = f"display:block;height:100%;width:{min(max(share, 0.0), 1.0):.0%};background:currentColor"
            bar = f' <span class="bar" aria-hidden="true" style="{style}"><span style="{filled}"></span></span>'
        return f"<li>{html.escape(self.text(now))}{bar}</li>"


class CellDisplay:
    """One display per executed cell; all events of the cell update it, and its last state stands without the kernel.

    Parameters
    ----------
    shell
        IPython's; its ``post_run_cell`` event tells that a cell ended.
    now
        Tells the time; None: this machine's clock.
    """

    def __init__(self, shell: Any, *, now: Callable[[], datetime] | None = None) -> None:  # noqa: ANN401 - untyped
        self._shell = shell
        self._now = now or _local_time
        self._cell = -1
        self._handle: Any = None
        self._rows: dict[tuple[int | None, str], _Row] = {}
        shell.events.register("post_run_cell", self._end)

    def __call__(self, event: ProgressEvent) -> None:
        """Show ``event`` in the display of the cell that runs."""
        if self._cell != self._shell.execution_count:
            self._cell, self._handle, self._rows = self._shell.execution_count, None, {}
        row = self._rows.setdefault((event.round, event.phase), _Row(self._now(), event))
        row.event = event
        self._show({METADATA_KEY: asdict(event)})

    def _end(self, result: Any = None) -> None:  # noqa: ANN401 - IPython's result, or nothing
        """Say of what was not finished that it stopped, so that a saved notebook does not go on for ever."""
        left = [row for row in self._rows.values() if not row.is_over and not row.ended]
        if self._handle is None or not left:
            return
        failed = getattr(result, "error_in_exec", None)
        for row in left:
            reason = f"stopped by {type(failed).__name__}" if failed is not None else "not finished in this cell"
            row.ended = f"{reason} after {_span((self._now() - row.began).total_seconds())}"
        self._show({METADATA_KEY: {}})  # no news for who listens

    def _show(self, metadata: dict[str, Any]) -> None:
        from IPython.display import display

        now = self._now()
        rows = "".join(row.html(now) for row in self._rows.values())
        style = "color:var(--jp-ui-font-color2,#555);margin:0;padding-left:1.2em;font-size:90%"  # follows the theme
        page = f'<ul class="haystack-progress" style="{style}">{rows}</ul>{self._age(now)}'
        bundle = {"text/plain": "\n".join(row.text(now) for row in self._rows.values()), "text/html": page}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True, metadata=metadata)
        else:
            self._handle.update(bundle, raw=True, metadata=metadata)

    def _age(self, now: datetime) -> str:
        """When it was drawn, while something goes on: a page that was loaded again gets no newer one."""
        going = [row.event for row in self._rows.values() if not row.is_over and not row.ended]
        if not going:
            return ""
        run_id = html.escape(going[-1].run_id)
        newer = f' haystack.attach("{run_id}") shows the run as it is.' if run_id.startswith("run-") else ""
        style = "color:var(--jp-ui-font-color2,#555);margin:2px 0 0;font-size:85%"
        return f'<p class="haystack-age" style="{style}">Drawn at {now:%H:%M:%S}.{newer}</p>'


def _local_time() -> datetime:
    return datetime.now().astimezone()


def _span(seconds: float) -> str:
    """``42 s`` or ``3 min 20 s``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
