"""A process that prepares or compares pairs of a back-test, so that several work at the same time.

In: lines on stdin: one JSON object with settings, plan and step, then the number of one pair after the other. Out: the
files of the pairs; on stdout the number of each pair when it is done. It starts no job and spends nothing. It ends with
the program that asked it, so that whoever goes on with a killed back-test finds nobody at its pairs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Literal, TextIO

from haystack_kernel.backtest.folder import CampaignFolder, campaign_id
from haystack_kernel.backtest.judge import judge_pair
from haystack_kernel.backtest.prepare import Sources, prepare_pair
from haystack_kernel.backtest.tasks import pair_tasks
from haystack_kernel.config.connect import connect
from haystack_kernel.schema import BacktestPlan, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from haystack_kernel.ports import Ports

Step = Literal["prepare", "judge"]


def do_step(
    step: Step, numbers: Iterable[int], plan: BacktestPlan, *, ports: Ports, tell: Callable[[int], object]
) -> None:
    """Prepare or compare pairs, one after the other; ``tell`` is called with the number of each."""
    folder = CampaignFolder(ports.settings, campaign_id(plan), clock=ports.clock)
    sources = Sources.open(plan, ports) if step == "prepare" else None
    for number in numbers:
        if sources is not None:
            prepare_pair(number, plan, sources=sources, folder=folder)
        else:
            judge_pair(number, plan, tasks=pair_tasks(number, plan, folder=folder), folder=folder)
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
        """Say that a pair is done."""
        self._n_open -= 1
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


def main() -> None:
    """Do what stdin says."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
    lines = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - standard input, to the end of the program
    asked = json.loads(lines.readline())
    plan = BacktestPlan.model_validate(asked["plan"])
    desk = Desk(lines)
    Thread(target=desk.listen, daemon=True).start()
    ports = connect(Settings.model_validate(asked["settings"]))
    do_step(asked["step"], desk.numbers(), plan, ports=ports, tell=desk.tell)


if __name__ == "__main__":
    main()
