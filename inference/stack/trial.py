"""Which kernel computes a part of the model on a GPU: ours where it is right and clearly faster there, else torch's.

In: both ways of one part, at the model's sizes. Out: a verdict for each, from a trial on the device itself, because the
kernels were written without one at hand.
"""

from __future__ import annotations

import statistics
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.stack.batches import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FASTER = 1.3  # a kernel of ours that gains less is not worth its code: torch's is used

_REPEATS = 5


@dataclass(frozen=True)
class Trial:
    """Two ways to compute one part of the model."""

    name: str  # in notes
    ours: Callable[[], Tensor]
    plain: Callable[[], Tensor]
    tolerance: float  # relative error of the whole up to which both are the same


@dataclass(frozen=True)
class Verdict:
    """What came of a trial."""

    name: str
    ratio: float | None = None  # time of torch's way over that of ours
    fault: str = ""  # why ours cannot be used

    @property
    def is_ours(self) -> bool:
        """Whether our kernel is used."""
        return not self.fault and self.ratio is not None and self.ratio >= FASTER

    def __str__(self) -> str:
        if self.fault:
            return f"{self.name}: torch, because our kernel {self.fault}"
        ours, plain = (f"{self.name}: ours", "of torch's") if self.is_ours else (f"{self.name}: torch, ours only", "")
        return f"{ours} at {self.ratio:.1f} times the speed {plain}".rstrip()


def judge(trial: Trial, *, seconds_of: Callable[[Callable[[], Tensor]], float]) -> Verdict:
    """Compare the results, then the times.

    Parameters
    ----------
    trial
        What to compare.
    seconds_of
        Measures one call.
    """
    try:
        found = trial.ours().double()
    except Exception as error:  # whatever a compiler, a driver or a missing tool may raise
        if is_out_of_memory(error):
            raise
        return Verdict(trial.name, fault=f"failed: {type(error).__name__}: {_first_line(error)}")
    want = trial.plain().double()
    distance = float((found - want).norm() / want.norm().clamp_min(torch.finfo(torch.float64).tiny))
    if not distance <= trial.tolerance:  # NaN is no equality either
        return Verdict(trial.name, fault=f"differs from torch by {distance:.1e}, more than {trial.tolerance:.0e}")
    return Verdict(trial.name, ratio=seconds_of(trial.plain) / seconds_of(trial.ours))


def seconds_on_gpu(work: Callable[[], object], *, repeats: int = _REPEATS, warm_up: int = 1) -> float:
    """Median seconds of one call by the GPU's own clock, after some that compile."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def _first_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"{error.cmd[0]} ended with code {error.returncode}"
    return next(iter(str(error).splitlines()), "")
