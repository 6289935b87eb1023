"""Work of fixed shapes recorded once and replayed: a GPU then starts all its kernels by one call.

In: the layers of the model, and a recorder. Out: the same results; where nothing can be recorded, a note that says why.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Layers = Callable[..., Tensor]  # (rows, *, n_ctx, n_keep)

_WORTH = 3  # the use of a shape from which on it is recorded: recording takes about as long as two runs
_MOST = 16  # shapes; each keeps the memory of one run


class Recorder(Protocol):
    """Records work on a device."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Return what repeats ``work`` over the same memory, and where its result then lies."""


class CudaRecorder:
    """:class:`Recorder` by CUDA graphs."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Run once on a stream of its own, as recording asks for, and record."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()
        return graph.replay, result


class Replayed:
    """The layers of a model, recorded for each shape that comes often.

    Parameters
    ----------
    layers
        Computes ``layers(rows, n_keep=…)``; may change ``rows``.
    recorder
        Of the device.
    """

    def __init__(self, layers: Layers, recorder: Recorder) -> None:
        self._layers = layers
        self._recorder = recorder
        self._uses: Counter[tuple[object, ...]] = Counter()
        self._recorded: dict[tuple[object, ...], tuple[Tensor, Callable[[], None], Tensor]] = {}
        self.note: str | None = None  # why nothing is recorded

    def __call__(self, rows: Tensor, *, n_keep: int) -> Tensor:
        """Compute the layers; the result holds until the next call."""
        key = (tuple(rows.shape), rows.dtype, n_keep)
        self._uses[key] += 1
        is_often = self._uses[key] >= _WORTH and (key in self._recorded or len(self._recorded) < _MOST)
        if self.note is not None or not is_often:
            return self._layers(rows, n_keep=n_keep)
        if key not in self._recorded:
            given = rows.clone()

            def work() -> Tensor:
                return self._layers(given.clone(), n_keep=n_keep)

            try:
                self._recorded[key] = (given, *self._recorder.record(work))
            except (
                RuntimeError
            ) as error:  # of CUDA and of torch: something in it waits for the host, or memory is short
                self._recorded.clear()
                self.note = (
                    f"no CUDA graph could be recorded ({error}): each kernel is started by itself, which is slower"
                )
                return self._layers(rows, n_keep=n_keep)
        given, replay, result = self._recorded[key]
        given.copy_(rows)
        replay()
        return result
