"""A process that does the steps of a campaign beside the program that asks for them, so that several work at once.

In: where the :class:`~haystack_kernel.batches.kind.Kind` is, as an argument; then lines on stdin: the settings and the
plan as JSON, and for each item its step and its number. Out: the files of the items; on stdout the number of each when
it is done. It starts no job and spends nothing. It ends with the program that asked it,
so that whoever goes on with a killed campaign finds nobody at its items.

It is started before the plan is made, and loads its packages in this time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TextIO

from inference.imports import load_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.batches.kind import Kind


class Desk:
    """The items that were asked for and not yet done.

    Parameters
    ----------
    lines
        What is asked; not ``sys.stdin``, which a thread that still reads it keeps a program from closing at its end.
    """

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._n_open = 0
        self._asked: SimpleQueue[tuple[str, int] | None] = SimpleQueue()

    def listen(self) -> None:
        """Take items until there are no more; whoever closes the line while an item is in hand is gone."""
        for line in self._lines:
            step, number = line.split()
            self._n_open += 1
            self._asked.put((step, int(number)))
        self._asked.put(None)
        if self._n_open:
            os.kill(os.getpid(), signal.SIGINT)

    def items(self) -> Iterator[tuple[str, int]]:
        """Yield the step and the number of one item after the other."""
        return iter(self._asked.get, None)

    def tell(self, number: int) -> None:
        """Say that an item is done."""
        self._n_open -= 1
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


def serve(kind: Kind[Any]) -> None:
    """Do what stdin says; a program that is gone before it has told its plan asks for nothing."""
    from pydantic import TypeAdapter

    from haystack_kernel.batches.pool import Steps
    from haystack_kernel.config.connect import connect
    from haystack_kernel.grounding.embedding import one_thread
    from haystack_kernel.schema import Settings

    lines = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - standard input, to the end of the program
    told = lines.readline()
    if not told:
        return
    ports = connect(Settings.model_validate_json(told))
    told = lines.readline()
    if not told:
        return
    steps = Steps(kind, TypeAdapter(kind.plan).validate_python(json.loads(told)), ports)
    desk = Desk(lines)
    Thread(target=desk.listen, daemon=True).start()
    with one_thread():
        for step, number in desk.items():
            steps.do(step, number)
            desk.tell(number)


def main() -> None:
    """Load what the kind of campaign needs, then serve."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
    module, _, name = sys.argv[1].partition(":")
    load_modules([module])
    kind: Kind[Any] = getattr(import_module(module), name)
    load_modules(kind.modules, for_good=True)
    serve(kind)


if __name__ == "__main__":
    main()
