"""Several processes that prepare or compare the pairs of a back-test, each taking the next pair when it has done one.

In: a step and the numbers of pairs. Out: the files of the pairs. A process that ends before its time costs the pair in
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

from haystack_kernel.errors import JobFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from haystack_kernel.backtest.worker import Step
    from haystack_kernel.schema import BacktestPlan, Settings

_COMMAND = (sys.executable, "-m", "haystack_kernel.backtest.worker")


def share_step(
    step: Step,
    numbers: Sequence[int],
    plan: BacktestPlan,
    *,
    settings: Settings,
    n: int,
    tell: Callable[[int], object],
) -> None:
    """Do a step for all pairs in ``n`` processes; ``tell`` is called with the number of each pair that is done.

    Raises
    ------
    JobFailedError
        A process ended with a pair in its hands; the other pairs are done.
    """
    left = deque(numbers)
    children = [_Child(step, plan, settings=settings) for _ in range(n)]

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
        except BaseException:  # a person interrupts: no further pair is begun
            left.clear()
            for child in children:
                child.stop()
            raise
    for future in futures:
        future.result()


class _Child:
    """One process, which is told the numbers of pairs one by one."""

    def __init__(self, step: Step, plan: BacktestPlan, *, settings: Settings) -> None:
        self._step = step
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until __exit__
        self._process = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True
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
        """Have a pair prepared or compared."""
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
            f"the process that was to {self._step} pair {number} {why}. What was finished is kept: the same command "
            "goes on where it stopped; one worker needs the least memory"
        )
        return JobFailedError(msg, log_tail=trouble[-4000:])
