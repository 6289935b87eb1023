"""How far a campaign is: one line of a terminal that changes, few lines of a log; and how long it may take, in words.

In: the progress events of whoever works. Out: text on a stream.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, TextIO

from haystack_kernel.progress import progress_line, stream_progress

if TYPE_CHECKING:
    from haystack_kernel.ports import Clock, Progress, ProgressEvent

_EVERY_S = 0.2
_LEAST = 0.02  # of a step, before the time that is left is told


def watch_steps(stream: TextIO, *, clock: Clock) -> Progress:
    """Listener that keeps one line of a terminal up to date, with the time that a step has taken and may still take.

    What is no share of a step, and the end of each step, stays as a line of its own. Where the stream is no terminal,
    it is a log; see :func:`one_in_ten`.
    """
    if not stream.isatty():
        return one_in_ten(stream_progress(stream))
    began: dict[str, float] = {}
    shown, last = "", -_EVERY_S

    def write(line: str, *, end: str) -> None:
        nonlocal shown
        stream.write(f"\r{line.ljust(len(shown))}{end}")
        stream.flush()
        shown = "" if end else line

    def hear(event: ProgressEvent) -> None:
        nonlocal last
        now, line = clock.monotonic(), progress_line(event)
        took = now - began.setdefault(event.phase, now)
        if event.message == "done":
            write(f"{event.phase}: done in {in_words(took)}", end="\n")
        elif event.fraction is None:
            write(line, end="\n")
        elif now - last >= _EVERY_S:
            last = now
            left = ""
            if _LEAST <= event.fraction < 1 and took >= 1:
                left = f", about {in_words(took * (1 - event.fraction) / event.fraction)} left"
            write(f"{event.fraction:4.0%} {line}{left}"[: shutil.get_terminal_size().columns - 1], end="")

    return hear


def one_in_ten(tell: Progress) -> Progress:
    """Keep one event in ten of each phase, and the first and the last: a log of 147 x 2 questions has 60 lines."""
    told: dict[str, int] = {}

    def hear(event: ProgressEvent) -> None:
        step = -1 if event.fraction is None else int(event.fraction * 10)
        if event.fraction is None or told.get(event.phase) != step:
            told[event.phase] = step
            tell(event)

    return hear


def in_words(seconds: float) -> str:
    """A time as people say it.

    Examples
    --------
    >>> in_words(40), in_words(400), in_words(40_000)
    ('40 s', '7 min', '11.1 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
