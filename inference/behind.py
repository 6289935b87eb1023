"""Finishes in a thread what the program has computed, while it computes the next.

In: a function that finishes an item. Out: what that function does, one item after the other, in order.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

Item = TypeVar("Item")


class Behind(Generic[Item]):
    """Finishes one item at a time; no other waits, so that memory holds two at most: this one and the one computed.

    Leaving the ``with`` block waits for the item in work, also where the block ends by an error.

    Parameters
    ----------
    finish
        Finishes an item; called in a thread.
    """

    def __init__(self, finish: Callable[[Item], None]) -> None:
        self._finish = finish
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._join()
        except BaseException:  # a request to end may come while it waits
            self._join()
            raise
        if error is None:
            self._raise()

    def put(self, item: Item) -> None:
        """Begin to finish ``item`` once the one before is finished; raises the error that ended that one."""
        self._join()
        self._raise()
        self._thread = threading.Thread(target=self._work, args=(item,), name="behind", daemon=True)
        self._thread.start()

    def _work(self, item: Item) -> None:
        try:
            self._finish(item)
        except BaseException as error:  # noqa: BLE001 - raised again in the program's own thread
            self._error = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
