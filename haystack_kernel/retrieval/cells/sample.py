"""Seeded sampling of a cell table that keeps every cell type and donor.

In: a table of cells. Out: a subset of its rows, the same for the same seed and role.
"""

from __future__ import annotations

import hashlib
import heapq
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys

if TYPE_CHECKING:
    import pandas as pd

_STRATA = [keys.CELL_TYPE, keys.DONOR]


def make_rng(seed: int, *, role: str) -> np.random.Generator:
    """Random generator of one role, independent of the other roles and of the order in which they are sampled."""
    digest = hashlib.sha256(f"{seed}|{role}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def sample_cells(cells: pd.DataFrame, *, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Sample at most ``n`` rows, in the order of the table; which cells are taken does not depend on that order.

    Each (cell type, donor) gets its share of ``n`` by largest remainders, and at least one cell as long as there are
    no more strata than ``n``. Otherwise the ``n`` largest strata get one cell each.
    """
    if len(cells) <= n:
        return cells
    strata = _positions(cells)
    quotas = allocate([len(one) for one in strata], n=n)
    chosen = [rng.choice(one, size=quota, replace=False) for one, quota in zip(strata, quotas, strict=True)]
    return cells.iloc[np.sort(np.concatenate(chosen))]


def split_cells(cells: pd.DataFrame, *, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split every (cell type, donor) into two disjoint halves; an odd cell goes to the first half."""
    first = [rng.choice(one, size=(len(one) + 1) // 2, replace=False) for one in _positions(cells)]
    mask = np.zeros(len(cells), dtype=bool)
    mask[np.concatenate([np.empty(0, dtype=np.intp), *first])] = True
    return cells[mask], cells[~mask]


def allocate(sizes: list[int], *, n: int) -> list[int]:
    """Allocate ``n`` cells to strata by largest remainders: at least 1 each where ``n`` allows, never above the size.

    Parameters
    ----------
    sizes
        Cells per stratum, each at least 1; their sum must be at least ``n``.
    """
    if len(sizes) >= n:
        largest = sorted(range(len(sizes)), key=lambda place: (-sizes[place], place))[:n]
        return [int(place in largest) for place in range(len(sizes))]
    total = sum(sizes)
    exact = [n * size / total for size in sizes]
    quotas = [max(1, int(share)) for share in exact]
    missing = n - sum(quotas)  # negative where the minimum of 1 gave small strata more than their share
    step = 1 if missing > 0 else -1
    limits = sizes if missing > 0 else [1] * len(sizes)
    waiting = [(-step * (exact[i] - quotas[i]), i) for i, limit in enumerate(limits) if quotas[i] != limit]
    heapq.heapify(waiting)  # the furthest from its share first
    for _ in range(abs(missing)):
        _, place = heapq.heappop(waiting)
        quotas[place] += step
        if quotas[place] != limits[place]:
            heapq.heappush(waiting, (-step * (exact[place] - quotas[place]), place))
    return quotas


def _positions(cells: pd.DataFrame) -> list[np.ndarray]:
    """Row numbers of each stratum, strata in order of their labels and cells in order of their ids."""
    filled = cells[_STRATA].astype(object).where(cells[_STRATA].notna(), "").astype(str).reset_index(drop=True)
    ids = cells[keys.CELL_ID] if keys.CELL_ID in cells.columns else cells.index
    order = np.argsort(np.asarray(ids, dtype=str), kind="stable")
    return [rows.index.to_numpy() for _, rows in filled.iloc[order].groupby(_STRATA, sort=True)]
