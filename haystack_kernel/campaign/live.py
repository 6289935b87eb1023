"""The matrix of a screen while it fills in: a line of a terminal, a display of a notebook, and what stays at the end.

In: the plan, the folder, and the progress events of whoever works. Out: lines of one glyph a question. What is shown is
read from the folder, so that it is the same whichever process does the work, and for a screen that is opened later.
"""

from __future__ import annotations

import html
import shutil
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

from haystack_kernel.batches.live import one_in_ten
from haystack_kernel.progress import progress_line, stream_progress
from haystack_kernel.store import layout
from haystack_kernel.texts import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.ports import Clock, Progress, ProgressEvent
    from haystack_kernel.schema import ScreenPlan

WAITING, READY, PREDICTED, SCORED, REFUSED = "waiting", "cells chosen", "predicted", "scored", "refused"
GLYPHS = {
    SCORED: "\N{BLACK CIRCLE}",
    PREDICTED: "\N{CIRCLE WITH LEFT HALF BLACK}",
    READY: "\N{WHITE CIRCLE}",
    WAITING: "\N{MIDDLE DOT}",
    REFUSED: "\N{MULTIPLICATION SIGN}",
}
_WIDTH = 60  # glyphs of a line
_NAME = 24
_EVERY_S = 2.0  # a bucket is asked for many names
_STYLE = "line-height:1.15;margin:2px 0;color:var(--jp-ui-font-color1,#111);background:transparent;font-size:90%"


class Matrix:
    """The state of every question of a screen, as its folder tells it.

    Parameters
    ----------
    plan
        The questions.
    folder
        The screen's files. A question that has come to its end is not looked at again.
    """

    def __init__(self, plan: ScreenPlan, folder: CampaignFolder) -> None:
        self.plan = plan
        self._folder = folder
        self.states = [REFUSED if one.refusal else WAITING for one in plan.questions]

    def look(self) -> Matrix:
        """Read what has been done since."""
        begun = self._folder.names(layout.QUESTIONS)
        for place, state in enumerate(self.states):
            own = layout.question_folder(place + 1)
            if state in (SCORED, REFUSED) or own.rpartition("/")[2] not in begun:
                continue
            names = self._folder.names(own)
            if layout.JUDGED in names:
                self.states[place] = SCORED
            elif self._folder.names(f"{own}/{layout.OUTPUTS}"):
                self.states[place] = PREDICTED
            elif layout.PREPARED in names:
                self.states[place] = READY
        return self

    @property
    def words(self) -> str:
        """``120 of 294 scored, 40 predicted, 130 waiting, 4 refused``."""
        n = len(self.states)
        counts = {state: self.states.count(state) for state in GLYPHS}
        rest = [f"{count} {state}" for state, count in counts.items() if count and state != SCORED]
        return ", ".join([f"{counts[SCORED]} of {n} scored", *rest])

    @property
    def lines(self) -> list[str]:
        """One glyph a question, in the order of the plan, in a line or more for each cell type."""
        by_type: dict[str, str] = {}
        for one, state in zip(self.plan.questions, self.states, strict=True):
            name = ", ".join(part for part in (one.cell_type or "?", one.donor) if part)
            by_type[name] = by_type.get(name, "") + GLYPHS[state]
        wide = min(max((len(name) for name in by_type), default=0), _NAME)
        lines = []
        for name, glyphs in by_type.items():
            shown = textwrap.shorten(visible(name), wide, placeholder="\N{HORIZONTAL ELLIPSIS}") or visible(name)[:wide]
            parts = [glyphs[start : start + _WIDTH] for start in range(0, len(glyphs), _WIDTH)]
            lines += [f"{shown if place == 0 else '':<{wide}} {part}" for place, part in enumerate(parts)]
        return lines

    @property
    def legend(self) -> str:
        """What the glyphs mean, of those that are there."""
        return ", ".join(f"{glyph} {state}" for state, glyph in GLYPHS.items() if state in self.states)

    def text(self, message: str = "") -> str:
        """Everything as plain text."""
        return "\n".join([*([message] if message else []), *self.lines, f"{self.words} ({self.legend})"])

    def html(self, message: str = "") -> str:
        """The same for a notebook, in the colours of its theme."""
        head = f'<div style="{_STYLE}">{html.escape(message)}</div>' if message else ""
        glyphs = html.escape("\n".join(self.lines))
        said = html.escape(f"{self.words} ({self.legend})")
        box = '<pre class="haystack-matrix" role="img" '
        label = html.escape(f"Matrix of a screen: {self.words}", quote=True)
        return f'{head}{box}aria-label="{label}" style="{_STYLE}">{glyphs}</pre><div style="{_STYLE}">{said}</div>'


def watch_in_terminal(matrix: Matrix, stream: TextIO, *, clock: Clock) -> Progress:
    """Listener that keeps one line of a terminal up to date, and writes the matrix below it when all is done.

    Where the stream is no terminal, each change is a line, as of other commands.
    """
    if not stream.isatty():
        return one_in_ten(stream_progress(stream))
    last = 0

    def write(line: str, *, end: str = "") -> None:
        nonlocal last
        stream.write("\r" + line.ljust(last) + end)
        stream.flush()
        last = 0 if end else len(line)

    def show(event: ProgressEvent, *, is_end: bool) -> None:
        share = "" if event.fraction is None else f"{event.fraction:4.0%} "
        if is_end:
            write(progress_line(event), end="\n")
            stream.write("\n".join([*matrix.lines, f"{matrix.words} ({matrix.legend})"]) + "\n")
        else:
            write(f"{share}{event.phase}: {matrix.words}"[: shutil.get_terminal_size().columns - 1])

    return _Paced(matrix, show, clock=clock)


def watch_in_notebook(matrix: Matrix, *, clock: Clock, display: Callable[..., Any] | None = None) -> Progress:
    """Listener that keeps one display of a cell up to date; its last state stays without the kernel."""
    if display is None:
        from IPython.display import display as display_in_cell

        display = display_in_cell
    show_first: Callable[..., Any] = display
    handle: Any = None

    def show(event: ProgressEvent, *, is_end: bool) -> None:
        nonlocal handle
        del is_end
        message = progress_line(event)
        bundle = {"text/plain": matrix.text(message), "text/html": matrix.html(message)}
        if handle is None:
            handle = show_first(bundle, raw=True, display_id=True)
        else:
            handle.update(bundle, raw=True)

    return _Paced(matrix, show, clock=clock)


class _Paced:
    """Looks at the folder and shows it at most every two seconds, and at the end."""

    def __init__(self, matrix: Matrix, show: Callable[..., None], *, clock: Clock) -> None:
        self._matrix, self._show, self._clock = matrix, show, clock
        self._next = 0.0

    def __call__(self, event: ProgressEvent) -> None:
        is_end = event.phase == "done"
        if is_end or self._clock.monotonic() >= self._next:
            self._matrix.look()
            self._show(event, is_end=is_end)
            self._next = self._clock.monotonic() + _EVERY_S
