"""Prepares the next task in a thread while the program works on the current one.

In: a function that prepares a task. Out: the prepared task.
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
    """Prepares at most one item ahead.

    Two items at most are held at once: the current one and the next one. The thread is a daemon, so that a program that
    is asked to end does not wait for a slow download.

    Parameters
    ----------
    prepare
        Prepares an item; called in the thread, or by :meth:`take` for an item that was not begun.
    """

    def __init__(self, prepare: Callable[[Item], Made]) -> None:
        self._prepare = prepare
        self._begun: tuple[Item, Future[Made]] | None = None

    def begin(self, item: Item) -> None:
        """Start to prepare ``item``; an item begun before must have been taken."""
        if self._begun is not None:
            msg = "one item is prepared already; take it first"
            raise RuntimeError(msg)
        future: Future[Made] = Future()
        self._begun = item, future
        threading.Thread(target=self._fill, args=(item, future), name="ahead", daemon=True).start()

    def take(self, item: Item) -> Made:
        """Return the prepared ``item``, or raise the error of its preparation."""
        if self._begun is None or self._begun[0] != item:
            return self._prepare(item)
        future, self._begun = self._begun[1], None
        return future.result()

    def _fill(self, item: Item, future: Future[Made]) -> None:
        try:
            future.set_result(self._prepare(item))
        except BaseException as error:  # noqa: BLE001 - raised again where the item is taken
            future.set_exception(error)
