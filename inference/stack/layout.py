"""The division of a window of cells in one step.

In: the size of a window and the ratios. Out: the numbers of prompt, context, kept and query rows; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from inference.stack.config import GenerationSettings


@dataclass(frozen=True)
class Layout:
    """Numbers of rows in a window: prompt rows come first, then query rows."""

    n_base: int  # prompt cells
    n_ctx: int  # rows that are context: n_base, or one less
    n_keep: int  # rows that attend only to each other
    n_test: int  # query cells


def context_schedule(settings: GenerationSettings) -> list[float | np.float32]:
    """Context ratio of each step.

    As in the reference, those of mode mdm are float32 and those of mode vanilla float64: where the share of context
    lies close to a whole number of rows, the rounding decides.
    """
    n_steps, last = settings.diffusion_steps, settings.context_ratio
    if settings.mode == "vanilla":
        return [last] * n_steps
    first = last if n_steps == 1 else settings.context_ratio_min
    return list(np.linspace(first, last, n_steps, dtype=np.float32))


def choose_layout(n_cells: int, *, prompt_ratio: float, context_ratio: float | np.float32) -> Layout:
    """Divide a window of ``n_cells`` rows; the two ratios together lie strictly between 0 and 1.

    With a context ratio of :func:`context_schedule` in float32, sums and products are rounded to float32, too.
    """
    share = prompt_ratio + context_ratio  # float32 if the context ratio is
    n_base = n_cells - min(max(1, int(n_cells * (1 - share))), n_cells - 1)
    n_ctx = min(max(1, int(share * n_cells)), n_base)
    return Layout(n_base, n_ctx, min(int(prompt_ratio * n_cells), n_base), n_cells - n_base)
