"""Prompt and control cells of equal composition, so that their difference is the effect and not the mixture.

In: pooled prompt and control cells, each with its group. Out: a subset of both, with equal shares.

A group is one control cell set with the prompts it belongs to: cells of one data set and type. If 60 % of the prompt
cells but 40 % of the control cells came from one study, every gene that the other lacks would appear as an effect; so
within a cell type every data set has the same share of both sides. A model sees all cells as one mixture, so for it
that holds over cell types, too. The other engines compare each cell type with itself, and there few controls of one
type are no reason to take away those of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.sample import allocate, make_rng, sample_cells

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
    """Sample both sides so that groups that are compared as a mixture have equal shares of prompt and control cells.

    Parameters
    ----------
    prompt, control
        One row per cell with ``control_group``.
    config
        Its ``n_prompt`` also limits the control cells, and its engine says what is compared as a mixture.
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
    wanted = _controls(asked, held=held, config=config)
    return (
        _take(prompt, asked, role=f"{keys.PROMPT}/{round_number}", config=config),
        _take(control, wanted, role=f"{keys.CONTROL}/{round_number}", config=config),
    )


def _controls(asked: dict[str, int], *, held: dict[str, int], config: RunConfig) -> dict[str, int]:
    """Control cells of each group: per kind of cells as many as the scarcest of its data sets allows."""
    kinds = {one: _kind(one, config) for one in asked}
    ratio = {kind: min(held[one] / n for one, n in asked.items() if kinds[one] == kind) for kind in set(kinds.values())}
    wanted = {one: max(1, int(n * ratio[kinds[one]] + 1e-9)) for one, n in asked.items()}
    if sum(wanted.values()) > config.n_prompt:
        wanted = dict(zip(wanted, allocate(list(wanted.values()), n=config.n_prompt), strict=True))
    return wanted


def _kind(group: str, config: RunConfig) -> str:
    """What must have one make-up on both sides: all cells for a model, which sees a mixture; else each cell type."""
    return "" if config.engine == "stack" else group.split("|", 2)[-1]


def _sizes(cells: pd.DataFrame) -> dict[str, int]:
    return {str(one): len(rows) for one, rows in cells.groupby(GROUP, sort=True)}


def _take(cells: pd.DataFrame, sizes: dict[str, int], *, role: str, config: RunConfig) -> pd.DataFrame:
    parts = [
        sample_cells(cells[cells[GROUP] == one], n=n, rng=make_rng(config.seed, role=f"{role}/{one}"))
        for one, n in sizes.items()
    ]
    return pd.concat(parts).sort_values(keys.CELL_ID, kind="stable")
