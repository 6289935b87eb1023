"""A request to stop (Ctrl-C, SIGTERM, a closed terminal) reaches the cell that runs, which can then save and say so.

In: signals of this process. Out: :class:`StopRequest`, which the papermill engine listens to.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


class StopRequest:
    """Whether this process was asked to stop, and what passes the first request on.

    Attributes
    ----------
    number
        The signal; None where there was none.
    pass_on
        Called for the first request while a cell runs. Without it, and for every further request, KeyboardInterrupt is
        raised where this process is.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.pass_on: Callable[[], object] | None = None

    @property
    def exit_code(self) -> int:
        """Exit code of a process that ended for this request, as a shell reports it."""
        return 128 + (self.number or signal.SIGINT)

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal.

        Raises
        ------
        KeyboardInterrupt
            No cell runs that could be asked to stop, or it was asked before.
        """
        is_first, self.number = self.number is None, number
        if not is_first or self.pass_on is None:
            raise KeyboardInterrupt
        self.pass_on()


@contextmanager
def listen() -> Iterator[StopRequest]:
    """Take requests to stop for the time of the block; outside the main thread Python allows none to be taken."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # a program started with nohup, or in the background of a script, has chosen not to be stopped by some of them
    taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, request.receive) for number in taken}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
