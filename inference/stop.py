"""A request to end the program, delayed until writes in progress are finished.

In: SIGTERM. Out: an exception at a moment when no file is half written.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class StoppedError(BaseException):
    """The program was asked to end. It is no ``Exception``, so that no task reports it as a failure."""


class Stop:
    """Records a request to end, and lets a publication in progress finish first."""

    def __init__(self) -> None:
        self.is_asked = False
        self._is_writing = False

    def handle(self, _signum: int, _frame: FrameType | None) -> None:
        """Signal handler: raise at once, or at the end of the publication in progress."""
        is_first, self.is_asked = not self.is_asked, True
        if is_first and not self._is_writing:
            raise StoppedError

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM inside the block."""
        before = signal.signal(signal.SIGTERM, self.handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Delay a stop until the block has finished."""
        self._is_writing = True
        try:
            yield
        finally:
            self._is_writing = False
        if self.is_asked:
            raise StoppedError

    def check(self) -> None:
        """Raise in another thread where the program was asked to end; its first thread waits for what goes on here."""
        if self.is_asked:
            raise StoppedError
