"""Silences warnings inside a block, also where two threads do so at once.

In: nothing. Out: a context manager.
"""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = threading.RLock()  # filters belong to the process: interleaved blocks would restore the wrong ones


@contextmanager
def no_warnings() -> Iterator[None]:
    """Ignore warnings inside the block; another thread's block waits for its end."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
