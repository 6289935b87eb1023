"""An atlas that keeps the rows of cell sets: many items of a campaign have the same control cells, or the same prompt.

In: an atlas. Out: the same atlas.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from haystack_kernel.ports import Atlas
    from haystack_kernel.schema import CellSet

MOST_ROWS = 500_000  # that are kept, some 100 MB: of 100 million cells one set may have many


class Remembering:
    """Implements :class:`haystack_kernel.ports.Atlas`; what :meth:`select` returns must not be changed.

    Parameters
    ----------
    atlas
        Where the cells are.
    most_rows
        Rows that are kept at most, the least recently used sets dropped first; a larger set is not kept.
    """

    def __init__(self, atlas: Atlas, *, most_rows: int = MOST_ROWS) -> None:
        self._atlas = atlas
        self._most_rows = most_rows
        self._n_rows = 0
        self._rows: OrderedDict[str, pd.DataFrame] = OrderedDict()

    def conditions(self) -> pd.DataFrame:
        """As of the atlas."""
        return self._atlas.conditions()

    def select(self, cell_set: CellSet) -> pd.DataFrame:
        """As of the atlas."""
        key = cell_set.model_dump_json(exclude={"n_cells", "label"})
        if key in self._rows:
            self._rows.move_to_end(key)
            return self._rows[key]
        found = self._atlas.select(cell_set)
        if len(found) <= self._most_rows:
            self._rows[key] = found
            self._n_rows += len(found)
            while self._n_rows > self._most_rows:
                self._n_rows -= len(self._rows.popitem(last=False)[1])
        return found

    def fetch(self, cells: pd.DataFrame) -> ad.AnnData:
        """As of the atlas."""
        return self._atlas.fetch(cells)

    def digests(self) -> dict[str, str]:
        """As of the atlas."""
        return self._atlas.digests()
