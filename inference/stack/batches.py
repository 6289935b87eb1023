"""How much is computed at once: halved, for good, where the memory of a device does not suffice.

In: work on consecutive parts. Out: its results, in smaller parts where needed, and a note that says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.stack.config import GenerationSettings

_CELLS = {"cpu": 128, "cuda": 1024}  # cells whose profiles are computed at once
# torch has a class of its own for a GPU's memory alone; a processor's, and that of cuBLAS, are told by these words
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


class Batches:
    """How many of a kind are computed at once.

    Parameters
    ----------
    size
        How many to begin with.
    unit
        Name of the kind in notes, plural.
    """

    def __init__(self, size: int, *, unit: str) -> None:
        self.size = size
        self._unit = unit
        self._asked = size

    @property
    def note(self) -> str | None:
        """What the memory did not allow; None where it sufficed."""
        if self.size == self._asked:
            return None
        return (
            f"the memory did not hold {self._asked} {self._unit} at once: computed {self.size} at a time, which is "
            f"slower (a smaller --batch-size avoids the attempts)"
        )

    def run(self, total: int, work: Callable[[range], None]) -> None:
        """Call ``work`` on parts of ``range(total)``, in order.

        Parameters
        ----------
        total
            Number of items.
        work
            Called on one part; called again on a smaller one that begins at the same item where memory ran out.

        Raises
        ------
        EngineError
            The memory does not hold a single item.
        """
        start = 0
        while start < total:
            part = range(start, min(start + self.size, total))
            if self._fits(part, work):
                start = part.stop

    def _fits(self, part: range, work: Callable[[range], None]) -> bool:
        try:
            work(part)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                msg = (
                    f"the memory does not hold one of the {self._unit} ({error}); choose device cpu, precision bf16, "
                    "or a machine with more memory"
                )
                raise EngineError(msg) from error
        else:
            return True
        self.size = len(part) // 2  # outside the handler: what failed is let go by now
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return False


@dataclass(frozen=True)
class Limits:
    """How much one engine computes at once; what it learns in one task holds for the next."""

    windows: Batches
    cells: Batches

    @classmethod
    def of(cls, device: torch.device, settings: GenerationSettings) -> Limits:
        """Begin with the batch size that was asked for.

        A processor computes windows one by one, so that rounding does not depend on the batch size.
        """
        n_windows = 1 if device.type == "cpu" else settings.batch_size
        n_cells = _CELLS.get(device.type, _CELLS["cpu"])
        return cls(Batches(n_windows, unit="windows"), Batches(n_cells, unit="cells"))

    @property
    def notes(self) -> list[str]:
        """Notes for the results."""
        return [note for note in (self.windows.note, self.cells.note) if note]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a processor or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
