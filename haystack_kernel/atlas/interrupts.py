"""A request to stop that comes while DuckDB works stops what asked, as one at any other moment does.

In: a query that runs. Out: KeyboardInterrupt where DuckDB says no more than that its query was interrupted.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAID = "Query interrupted"  # the words of DuckDB 2.0, whose error is a bare RuntimeError


@contextmanager
def stoppable() -> Iterator[None]:
    """Query within this block, or in a function with this decorator.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C or the stop button ended the query.
    """
    try:
        yield
    except (RuntimeError, duckdb.InterruptException) as error:
        if isinstance(error, RuntimeError) and _SAID not in str(error):
            raise
        raise KeyboardInterrupt from None
