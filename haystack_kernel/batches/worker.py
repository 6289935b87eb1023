"""A process that does one step to items of a campaign, so that several work at the same time.

In: lines on stdin: one JSON object with settings, plan and step, then the number of one item after the other. Out: the
files of the items; on stdout the number of each when it is done. It starts no job and spends nothing. It ends with the
program that asked it, so that whoever goes on with a killed campaign finds nobody at its items.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, TextIO

from pydantic import TypeAdapter

from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.config.connect import connect
from haystack_kernel.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from haystack_kernel.batches.kind import Kind, P
    from haystack_kernel.ports import Ports


def do_step(
    kind: Kind[P], step: str, numbers: Iterable[int], plan: P, *, ports: Ports, tell: Callable[[int], object]
) -> None:
    """Do a step to items, one after the other; ``tell`` is called with the number of each."""
    folder = CampaignFolder(ports.settings, kind.id_of(plan), clock=ports.clock)
    do = kind.steps[step].open(plan, ports, folder)
    for number in numbers:
        do(number)
        tell(number)


class Desk:
    """The numbers that were asked for and not yet done.

    Parameters
    ----------
    lines
        What is asked; not ``sys.stdin``, which a thread that still reads it keeps a program from closing at its end.
    """

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._n_open = 0
        self._numbers: SimpleQueue[int | None] = SimpleQueue()

    def listen(self) -> None:
        """Take numbers until there are no more; whoever closes the line while a pair is in hand is gone."""
        for line in self._lines:
            self._n_open += 1
            self._numbers.put(int(line))
        self._numbers.put(None)
        if self._n_open:
            os.kill(os.getpid(), signal.SIGINT)

    def numbers(self) -> Iterator[int]:
        """Yield one number after the other."""
        return iter(self._numbers.get, None)

    def tell(self, number: int) -> None:
        """Say that an item is done."""
        self._n_open -= 1
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


def serve(kind: Kind[P]) -> None:
    """Do what stdin says."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
    lines = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - standard input, to the end of the program
    asked = json.loads(lines.readline())
    plan = TypeAdapter(kind.plan).validate_python(asked["plan"])
    desk = Desk(lines)
    Thread(target=desk.listen, daemon=True).start()
    ports = connect(Settings.model_validate(asked["settings"]))
    do_step(kind, asked["step"], desk.numbers(), plan, ports=ports, tell=desk.tell)
