"""The processes of a campaign: the one that asks for it, and others that live over all of its steps.

In: a step and the numbers of items. Out: the files of the items. Each process takes the next item when one is done. A
process that ends before its time costs the item in its hands; the others do the rest, and the error comes last.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, Self

from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.batches.kind import P
from haystack_kernel.errors import JobFailedError
from haystack_kernel.grounding.embedding import one_thread
from haystack_kernel.ports import ProgressEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from haystack_kernel.batches.kind import Kind, Step
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import Settings


class Pool(Generic[P]):
    """Does steps to the items of a campaign.

    Further processes start when the pool is made, so that they load their packages while the plan is made. Leaving the
    ``with`` block ends them.

    Parameters
    ----------
    kind
        Whose steps they are.
    ports
        Where atlases and files are, and who hears of progress.
    workers
        Number of processes, this one among them.
    """

    def __init__(self, kind: Kind[P], *, ports: Ports, workers: int) -> None:
        self._kind, self._ports = kind, ports
        self._children = [_Child(kind, settings=ports.settings) for _ in range(workers - 1)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for child in self._children:
            child.close()

    def do(self, step: Step[P], numbers: list[int], plan: P) -> None:
        """Do a step to every item that still needs it.

        Raises
        ------
        JobFailedError
            A process ended with an item in its hands; the other items are done.
        """
        kind, name = self._kind, self._kind.id_of(plan)
        folder = CampaignFolder(self._ports.settings, name, clock=self._ports.clock)
        left = deque(number for number in numbers if step.leaves not in folder.names(kind.folder_of(number)))
        done, lock = len(numbers) - len(left), Lock()

        def say(message: str, share: float | None = None) -> None:
            self._ports.progress(ProgressEvent(run_id=name, phase=step.name, message=message, fraction=share))

        def work(do: Callable[[int], object]) -> None:
            nonlocal done
            while True:
                try:
                    number = left.popleft()
                except IndexError:
                    return
                do(number)
                with lock:
                    done += 1
                    say(f"{step.words}: {kind.item} {number}", done / len(numbers))

        say(f"{step.words}: {len(left)} of {len(numbers)} to do")
        if left:
            beside = self._children[: len(left) - 1]
            with ThreadPoolExecutor(max(len(beside), 1)) as threads:
                asking = [threads.submit(work, child.asker(step.name, plan)) for child in beside]
                try:
                    steps = Steps(kind, plan, self._ports)
                    with one_thread():
                        work(lambda number: steps.do(step.name, number))
                    wait(asking)
                except BaseException:  # a person interrupts: no further item is begun
                    left.clear()
                    for child in beside:
                        child.stop()
                    raise
            for one in asking:
                one.result()
        say("done", 1.0)


class Steps(Generic[P]):
    """The steps of a campaign in one process, which opens what a step needs once."""

    def __init__(self, kind: Kind[P], plan: P, ports: Ports) -> None:
        self._kind, self._plan, self._ports = kind, plan, ports
        self._folder = CampaignFolder(ports.settings, kind.id_of(plan), clock=ports.clock)
        self._opened: tuple[str, Callable[[int], object]] | None = None

    def do(self, step: str, number: int) -> None:
        """Do a step to an item."""
        if self._opened is None or self._opened[0] != step:
            self._opened = step, self._kind.steps[step].open(self._plan, self._ports, self._folder)
        self._opened[1](number)


class _Child:
    """One process, which is told the items one by one; see :mod:`haystack_kernel.batches.worker`."""

    def __init__(self, kind: Kind[Any], *, settings: Settings) -> None:
        self._item = kind.item
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until closed
        self._process = subprocess.Popen(
            [sys.executable, "-m", "haystack_kernel.batches.worker", kind.place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self._has_plan = False
        self._tell(settings.model_dump_json())

    def asker(self, step: str, plan: P) -> Callable[[int], object]:
        """Return a function that has the step done to an item."""

        def ask(number: int) -> None:
            if not self._has_plan:
                self._tell(plan.model_dump_json())
                self._has_plan = True
            self._tell(f"{step} {number}")
            answer = "" if self._process.stdout is None else self._process.stdout.readline()
            if answer.strip() != str(number):
                raise self._fault(step, number)

        return ask

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """End the process, which has nothing in its hands."""
        self.stop()
        with self._stderr:
            self._process.communicate()

    def _tell(self, line: str) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended, which its silence and its exit code tell
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()

    def _fault(self, step: str, number: int) -> JobFailedError:
        code = self._process.wait()
        self._stderr.seek(0)
        trouble = self._stderr.read()
        lines = [line for line in trouble.splitlines() if line.strip()]
        why = f"ended with code {code}: {lines[-1]}" if lines else f"ended with code {code}"
        if code < 0:
            why = f"was ended by {signal.Signals(-code).name}, which the system does where memory is short"
        msg = (
            f"the process that was to {step} {self._item} {number} {why}. What was finished is kept: the same "
            "command goes on where it stopped; one worker needs the least memory"
        )
        return JobFailedError(msg, log_tail=trouble[-4000:])
