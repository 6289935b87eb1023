"""Prompt and control cells of equal composition, so that their difference is the effect and not the mixture.

In: pooled prompt and control cells, each with its group. Out: a subset of both, with equal shares of every group.

A group is one control cell set with the prompts it belongs to. If 60 % of the prompt cells but 40 % of the control
cells were monocytes, every monocyte gene would appear as an effect, and so would every gene that one study lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells

if TYPE_CHECKING:
    from haystack_kernel.schema import CellSet, RunConfig

GROUP = "control_group"
MAX_PER_CONTROL = 3  # prompt cells per control cell of a group; prompt cells beyond that are left out


def group_of(control: CellSet) -> str:
    """Name of the group of a control cell set; candidates that share dataset and control cell type share the group."""
    return "|".join((control.atlas, control.dataset, *(control.cell_type_ids or control.cell_type_names)))


def balance(
    prompt: pd.DataFrame, *, control: pd.DataFrame, config: RunConfig, round_number: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sample both sides so that every group has the same share of the prompt and of the control cells.

    Parameters
    ----------
    prompt, control
        One row per cell with ``control_group``.
    config
        Its ``n_prompt`` also limits the control cells.
    round_number
        Becomes part of the seed.

    Returns
    -------
    Prompt and control cells. Of several groups, each keeps at most 3 prompt cells per control cell, and a group without
    control cells is left out of the prompt; a single group is kept whole. The control is empty where no group has both.
    """
    held, asked = _sizes(control), _sizes(prompt)
    if len(asked) > 1:
        asked = {one: min(n, MAX_PER_CONTROL * held.get(one, 0)) for one, n in asked.items()}
        asked = {one: n for one, n in asked.items() if n}
    if not set(asked) <= set(held) or not asked:  # no group has both prompt and control cells
        return prompt, control.iloc[:0]
    ratio = min([config.n_prompt / sum(asked.values()), *(held[one] / n for one, n in asked.items())])
    wanted = {one: max(1, int(n * ratio + 1e-9)) for one, n in asked.items()}
    return (
        _take(prompt, asked, role=f"{keys.PROMPT}/{round_number}", config=config),
        _take(control, wanted, role=f"{keys.CONTROL}/{round_number}", config=config),
    )


def _sizes(cells: pd.DataFrame) -> dict[str, int]:
    return {str(one): len(rows) for one, rows in cells.groupby(GROUP, sort=True)}


def _take(cells: pd.DataFrame, sizes: dict[str, int], *, role: str, config: RunConfig) -> pd.DataFrame:
    parts = [
        sample_cells(cells[cells[GROUP] == one], n=n, rng=make_rng(config.seed, role=f"{role}/{one}"))
        for one, n in sizes.items()
    ]
    return pd.concat(parts).sort_values(keys.CELL_ID, kind="stable")
