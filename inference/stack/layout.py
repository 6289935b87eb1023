"""How one step divides a window of cells.

In: a window's size and the ratios. Out: which rows are prompt, context, kept and query; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How one step divides a window: prompt rows first, then query rows."""

    n_base: int  # prompt cells
    n_ctx: int  # rows that count as context: n_base, or one less
    n_keep: int  # rows that see only each other
    n_test: int  # query cells


def choose_layout(n_cells: int, *, prompt_ratio: float, context_ratio: float) -> Layout:
    """Divide a window of ``n_cells`` rows; the two ratios together lie strictly between 0 and 1."""
    share = prompt_ratio + context_ratio
    n_base = n_cells - min(max(1, int(n_cells * (1 - share))), n_cells - 1)
    n_ctx = min(max(1, int(share * n_cells)), n_base)
    return Layout(n_base, n_ctx, min(int(prompt_ratio * n_cells), n_base), n_cells - n_base)
