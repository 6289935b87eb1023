"""A step done to all items of a campaign, in this process or in several, each taking the next item when one is done.

In: a step and the numbers of items. Out: the files of the items. A process that ends before its time costs the item in
its hands; the others do the rest, and the error comes last.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.batches.worker import do_step
from haystack_kernel.errors import JobFailedError
from haystack_kernel.ports import ProgressEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from haystack_kernel.batches.kind import Kind, P, Step
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import Settings


def do_everywhere(kind: Kind[P], step: Step[P], numbers: list[int], plan: P, *, ports: Ports, workers: int) -> None:
    """Do a step to every item that still needs it.

    Parameters
    ----------
    kind, step, plan
        What is done.
    numbers
        Of the items.
    ports
        Where atlases and files are, and who hears of progress.
    workers
        Number of processes; one works in this process.
    """
    name = kind.id_of(plan)
    folder = CampaignFolder(ports.settings, name, clock=ports.clock)
    left = [number for number in numbers if step.leaves not in folder.names(kind.folder_of(number))]
    done = len(numbers) - len(left)

    def say(message: str, share: float | None = None) -> None:
        ports.progress(ProgressEvent(run_id=name, phase=step.name, message=message, fraction=share))

    def tell(number: int) -> None:
        nonlocal done
        done += 1
        say(f"{step.words}: {kind.item} {number}", done / len(numbers))

    say(f"{step.words}: {len(left)} of {len(numbers)} to do")
    n = min(workers, len(left))
    if n > 1:
        share_step(kind, step.name, left, plan, settings=ports.settings, n=n, tell=tell)
    elif left:
        do_step(kind, step.name, left, plan, ports=ports, tell=tell)
    say("done", 1.0)


def share_step(
    kind: Kind[P],
    step: str,
    numbers: Sequence[int],
    plan: P,
    *,
    settings: Settings,
    n: int,
    tell: Callable[[int], object],
) -> None:
    """Do a step to all items in ``n`` processes; ``tell`` is called with the number of each item that is done.

    Raises
    ------
    JobFailedError
        A process ended with an item in its hands; the other items are done.
    """
    left = deque(numbers)
    children = [_Child(kind, step, plan, settings=settings) for _ in range(n)]

    def serve(child: _Child) -> None:
        with child:
            while True:
                try:
                    number = left.popleft()
                except IndexError:
                    return
                child.do(number)
                tell(number)

    with ThreadPoolExecutor(n) as threads:
        futures = [threads.submit(serve, child) for child in children]
        try:
            wait(futures)
        except BaseException:  # a person interrupts: no further item is begun
            left.clear()
            for child in children:
                child.stop()
            raise
    for future in futures:
        future.result()


class _Child:
    """One process, which is told the numbers of items one by one."""

    def __init__(self, kind: Kind[P], step: str, plan: P, *, settings: Settings) -> None:
        self._step, self._item = step, kind.item
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", kind.program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self._asked = {
            "settings": settings.model_dump(mode="json"),
            "plan": plan.model_dump(mode="json"),
            "step": step,
        }

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.stop()
        with self._stderr:
            self._process.communicate()

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()

    def do(self, number: int) -> None:
        """Have the step done to an item."""
        told, said = self._process.stdin, self._process.stdout
        answer = ""
        if told is not None and said is not None:
            try:
                if self._asked:
                    told.write(json.dumps(self._asked) + "\n")
                    self._asked = {}
                told.write(f"{number}\n")
                told.flush()
                answer = said.readline()
            except BrokenPipeError:
                pass  # it has ended, which its exit code tells
        if answer.strip() != str(number):
            raise self._fault(number)

    def _fault(self, number: int) -> JobFailedError:
        code = self._process.wait()
        self._stderr.seek(0)
        trouble = self._stderr.read()
        lines = [line for line in trouble.splitlines() if line.strip()]
        why = f"ended with code {code}: {lines[-1]}" if lines else f"ended with code {code}"
        if code < 0:
            why = f"was ended by {signal.Signals(-code).name}, which the system does where memory is short"
        msg = (
            f"the process that was to {self._step} {self._item} {number} {why}. What was finished is kept: the same "
            "command goes on where it stopped; one worker needs the least memory"
        )
        return JobFailedError(msg, log_tail=trouble[-4000:])
