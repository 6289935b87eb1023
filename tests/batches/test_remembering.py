"""An atlas that remembers gives the same rows, asks once, and does not keep more than it may."""

import pandas as pd

from haystack_kernel.batches.remembering import Remembering
from haystack_kernel.schema import CellSet


class Asked:
    """Counts how often it was asked for each type."""

    def __init__(self):
        self.types = []

    def select(self, cell_set):
        self.types += cell_set.cell_type_names
        return pd.DataFrame({"cell_id": [f"{cell_set.cell_type_names[0]}{row}" for row in range(cell_set.n_cells)]})


def test_sets_are_kept_until_newer_ones_need_their_place():
    asked = Asked()
    atlas = Remembering(asked, most_rows=10)

    def select(name, n):
        wanted = CellSet(atlas="a", dataset="d", is_control=True, cell_type_names=(name,), n_cells=n, label=name)
        return list(atlas.select(wanted)["cell_id"])

    assert select("B", 4) == select("B", 4) == ["B0", "B1", "B2", "B3"]
    assert select("T", 5) == select("T", 5)
    assert asked.types == ["B", "T"]
    select("B", 4)  # now T is the one used least recently
    select("NK", 3)
    select("B", 4)
    assert asked.types == ["B", "T", "NK"]
    select("T", 5)
    assert asked.types[3:] == ["T"]
    assert len(select("monocyte", 11)) == 11  # more than may be kept
    select("monocyte", 11)
    assert asked.types[4:] == ["monocyte", "monocyte"]
