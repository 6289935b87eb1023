"""Another draw of the same prompt: its donors and cells, drawn with replacement.

In: cells and a seed. Out: as many cells of each cell type, of donors drawn at random.

What an engine makes of such prompts shows how far its prediction depends on which donors and cells were sampled.
"""

from __future__ import annotations

import numpy as np

from inference.baselines import Cells


def resample_cells(cells: Cells, *, seed: int) -> Cells:
    """Draw donors with replacement, then each type's cells among those of the drawn donors.

    Parameters
    ----------
    cells
        Cells of one role.
    seed
        Roles with the same donors and seed get the same donors.

    Returns
    -------
    As many cells of each cell type as before. A type that no drawn donor has keeps all its donors.
    """
    rng = np.random.default_rng(seed)
    donors = np.unique(cells.donor)
    drawn = rng.choice(donors, donors.size)
    rows = []
    for name in np.unique(cells.cell_type):
        of_type = np.flatnonzero(cells.cell_type == name)
        pool = np.concatenate([of_type[cells.donor[of_type] == donor] for donor in drawn])
        rows.append(rng.choice(pool if pool.size else of_type, of_type.size))
    chosen = np.concatenate(rows)
    return Cells(cells.counts[chosen], cells.genes, cells.cell_type[chosen], cells.donor[chosen])
