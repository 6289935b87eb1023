"""The wall between a back-test's truth and everything that predicts it.

In: an atlas, the conditions to hide, cells that are kept for the truth. Out: the same atlas without them. What stands
behind the wall cannot be found, selected or fetched, whatever the code in front of it asks for; so no strategy,
baseline, measured response or reference sees it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.errors import ContractError

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.ports import Atlas
    from haystack_kernel.schema import CellSet

_N_CELLS = "n_cells"
_GROUP = (keys.ATLAS, keys.DATASET, keys.IS_CONTROL, keys.CELL_TYPE_ID, keys.CELL_TYPE, keys.PERTURBATION, keys.DONOR)


class WalledAtlas:
    """Implements :class:`haystack_kernel.ports.Atlas` without what is hidden.

    Parameters
    ----------
    atlas
        The whole atlas.
    hidden
        Rows of its conditions that are hidden.
    kept
        Rows of :meth:`Atlas.select`: further cells that belong to the truth, such as its control cells.
    """

    def __init__(self, atlas: Atlas, *, hidden: pd.DataFrame, kept: pd.DataFrame) -> None:
        self._atlas = atlas
        self._hidden = set(_keys_of(hidden))
        self._hidden_names = {str(group[_GROUP.index(keys.PERTURBATION)]) for group in self._hidden}
        self._kept = set(kept[keys.CELL_ID])
        self._n_kept = _filled(kept).groupby(list(_GROUP), sort=False).size().to_dict() if len(kept) else {}

    def conditions(self) -> pd.DataFrame:
        """The visible conditions; cells that are kept for the truth do not count."""
        table = self._atlas.conditions()
        groups = _keys_of(table)
        left = dict(self._n_kept)
        numbers = []
        for group, n_cells in zip(groups, table[_N_CELLS].tolist(), strict=True):
            taken = min(n_cells, left.get(group, 0))  # rows may differ in what the wall does not look at
            left[group] = left.get(group, 0) - taken
            numbers.append(n_cells - taken)
        table[_N_CELLS] = numbers
        visible = [group not in self._hidden and n > 0 for group, n in zip(groups, numbers, strict=True)]
        return table[visible].reset_index(drop=True)

    def select(self, cell_set: CellSet) -> pd.DataFrame:
        """As the atlas, without hidden cells."""
        cells = self._atlas.select(cell_set)
        return cells[self._is_visible(cells)].reset_index(drop=True)

    def fetch(self, cells: pd.DataFrame) -> ad.AnnData:
        """As the atlas; raises ContractError where a hidden cell is asked for by its id."""
        visible = self._is_visible(cells)
        if n_hidden := int((~visible).sum()):
            msg = f"{n_hidden} of {len(visible)} cells are the truth of a back-test and cannot be read for a prediction"
            raise ContractError(msg, n_hidden=n_hidden)
        return self._atlas.fetch(cells)

    def digests(self) -> dict[str, str]:
        """As the atlas."""
        return self._atlas.digests()

    def _is_visible(self, cells: pd.DataFrame) -> NDArray[np.bool_]:
        visible = ~cells[keys.CELL_ID].isin(self._kept).to_numpy()
        # all labels are compared only where the treatment is one of those that are hidden: most cells have another
        names = cells[keys.PERTURBATION]
        asked = np.flatnonzero(names.isin(self._hidden_names) | names.isna())
        if asked.size:
            visible[asked] &= [group not in self._hidden for group in _keys_of(cells.iloc[asked])]
        return visible


def _filled(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that tell groups apart, missing text as the empty string, as in the conditions."""
    table = rows[list(_GROUP)].copy()
    for column in _GROUP:
        if column != keys.IS_CONTROL:
            table[column] = table[column].astype(object).where(table[column].notna(), "").astype(str)
    table[keys.IS_CONTROL] = table[keys.IS_CONTROL].astype(bool)
    return table


def _keys_of(rows: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(_filled(rows).itertuples(index=False, name=None))
