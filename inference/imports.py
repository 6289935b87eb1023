"""Loads modules without collecting garbage meanwhile.

In: names of modules. Out: nothing; they are in ``sys.modules``.
"""

from __future__ import annotations

import atexit
import gc
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def load_modules(names: Iterable[str], *, for_good: bool = False) -> None:
    """Import ``names`` in order.

    The collector would look at every object of every module many times while they load, which takes a fifth of the
    time of large packages.

    Parameters
    ----------
    names
        Modules.
    for_good
        Whether the collector may leave out all objects of this process from now on, which suits a process that has only
        just started.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            import_module(name)
    finally:
        if for_good:
            gc.freeze()
            atexit.register(gc.unfreeze)  # some packages complain about what the interpreter's end leaves
        if was_on:
            gc.enable()
