"""The division of a window of cells in one step.

In: the size of a window and the ratios. Out: the numbers of prompt, context, kept and query rows; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Numbers of rows in a window: prompt rows come first, then query rows."""

    n_base: int  # prompt cells
    n_ctx: int  # rows that are context: n_base, or one less
    n_keep: int  # rows that attend only to each other
    n_test: int  # query cells


def choose_layout(n_cells: int, *, prompt_ratio: float, context_ratio: float) -> Layout:
    """Divide a window of ``n_cells`` rows; the two ratios together lie strictly between 0 and 1."""
    share = prompt_ratio + context_ratio
    n_base = n_cells - min(max(1, int(n_cells * (1 - share))), n_cells - 1)
    n_ctx = min(max(1, int(share * n_cells)), n_base)
    return Layout(n_base, n_ctx, min(int(prompt_ratio * n_cells), n_base), n_cells - n_base)
