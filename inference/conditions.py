"""The prompts that a column of cells defines, and the file names of their outputs.

In: cells and the name of an obs column. Out: a label per cell, the values to use, a file name per value.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from inference.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from inference.stored import StoredCells

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_N_NAMED = 8
_MAX_NAME = 150


def split_labels(base: AnnData | StoredCells, column: str, *, name: str) -> NDArray[np.str_]:
    """Value of each base cell as text, "" where it has none. Raises :class:`InputError` for an unknown column."""
    if column not in base.obs.columns:
        has = ", ".join(map(str, base.obs.columns)) or "none"
        msg = f"{name}: obs has no column {column!r}; it has {has}: name one of them with --split-column"
        raise InputError(msg)
    values = base.obs[column]
    return np.where(values.isna().to_numpy(), "", values.astype(str).to_numpy(dtype=str))


def choose_values(
    labels: NDArray[np.str_], asked: tuple[str, ...] | None, *, column: str, name: str
) -> tuple[tuple[str, ...], str]:
    """Values to predict with: those asked for, otherwise all in alphabetical order.

    Returns
    -------
    The values, and a sentence about values asked for that no cell has; empty where there are none. Raises
    :class:`InputError` where no cell has any.
    """
    there = sorted(set(labels.tolist()) - {""})
    if not there:
        msg = f"{name}: obs[{column!r}] holds no value; name a column of conditions with --split-column"
        raise InputError(msg)
    chosen = tuple(dict.fromkeys(asked)) if asked else tuple(there)
    missing = [value for value in chosen if value not in there]
    if not missing:
        return chosen, ""
    more = f" and {len(there) - _N_NAMED} more" if len(there) > _N_NAMED else ""
    told = (
        f"{name}: obs[{column!r}] holds no {', '.join(map(repr, missing[:_N_NAMED]))}; possible with "
        f"--split-values: {', '.join(map(repr, there[:_N_NAMED]))}{more}"
    )
    if len(missing) == len(chosen):
        raise InputError(told)
    return tuple(value for value in chosen if value in there), f"{told}. The others are predicted"


def output_names(labels: NDArray[np.str_]) -> dict[str, str]:
    """Value -> file name without suffix; characters other than ``A-Za-z0-9._-`` become ``_``.

    Values that would share a name, or have a very long one, get a digest appended.
    """
    names = {value: _UNSAFE.sub("_", value) for value in sorted(set(labels.tolist()) - {""})}
    uses = Counter(names.values())
    for value, name in names.items():
        if uses[name] > 1 or len(name) > _MAX_NAME:
            names[value] = f"{name[:_MAX_NAME]}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"
    return names
