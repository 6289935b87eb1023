"""Queries that a signal cannot hurt: DuckDB never sees Ctrl-C, and what asked still does.

In: a function that queries. Out: the same, whose work is done in a thread of its own. DuckDB 2.0 looks for signals of
the main thread while it works there: it then ends the query with a bare RuntimeError, and at times waits for ever for
its own tasks. Queries of an atlas take less than a second, so a request to stop waits for their end.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def shielded(query: Callable[P, T]) -> Callable[P, T]:
    """Have ``query`` work where no signal comes; KeyboardInterrupt is raised once it has ended."""

    @functools.wraps(query)
    def ask(*args: P.args, **kwargs: P.kwargs) -> T:
        if threading.current_thread() is not threading.main_thread():
            return query(*args, **kwargs)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(query, *args, **kwargs).result()

    return ask
