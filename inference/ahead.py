"""Prepares the next task in a thread while the program works on the one before.

In: what prepares a task. Out: the task prepared, waited for or made on the spot.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Item = TypeVar("Item")
Made = TypeVar("Made")


class Ahead(Generic[Item, Made]):
    """Prepares one item ahead, never more.

    At most two items are held at once: the one in use and the next one. The thread is a daemon: a program that is
    asked to end does not wait for a slow download.

    Parameters
    ----------
    prepare
        Makes an item ready; called in the thread, or by :meth:`take` for an item that was not begun.
    """

    def __init__(self, prepare: Callable[[Item], Made]) -> None:
        self._prepare = prepare
        self._begun: tuple[Item, Future[Made]] | None = None

    def begin(self, item: Item) -> None:
        """Start on ``item``; the one begun before must have been taken."""
        if self._begun is not None:
            msg = "one item is prepared already; take it first"
            raise RuntimeError(msg)
        future: Future[Made] = Future()
        self._begun = item, future
        threading.Thread(target=self._fill, args=(item, future), name="ahead", daemon=True).start()

    def take(self, item: Item) -> Made:
        """Return ``item`` prepared, or raise what its preparation raised."""
        if self._begun is None or self._begun[0] is not item:
            return self._prepare(item)
        future, self._begun = self._begun[1], None
        return future.result()

    def _fill(self, item: Item, future: Future[Made]) -> None:
        try:
            future.set_result(self._prepare(item))
        except BaseException as error:  # noqa: BLE001 - the thread's door: raised again where the item is taken
            future.set_exception(error)
