"""How the programs load modules: without collecting garbage meanwhile, and with threads that will wait passively.

In: names of modules. Out: nothing; they are in ``sys.modules``.
"""

from __future__ import annotations

import atexit
import gc
import os
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


def wait_passively() -> None:
    """Keep waiting threads from spinning, which takes the processor from those they wait for on a busy machine.

    Each program does this first of all: it has no effect once torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # noqa: TID251 - read once, when torch is first imported
