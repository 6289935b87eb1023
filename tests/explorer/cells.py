"""Designed explorers of any size, for tests and for measuring."""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import sparse

from haystack_kernel.explorer.arms import Arm, Arms

ROLES = ("control", "prompt", "query", "predicted")


def many_cells(data, *, n, n_genes, density=0.2, seed=0):
    """``data`` with ``n`` other cells, as many of each role, in eight types and with random expression."""
    rng = np.random.default_rng(seed)
    genes = pd.Index(data.de["gene"].iloc[:n_genes], dtype=object)
    parts = []
    for place, role in enumerate(ROLES):
        size = n // len(ROLES)
        kinds = rng.integers(8, size=size)
        table = pd.DataFrame(
            {
                "cell_id": [f"{role}{i}" for i in range(size)],
                "role": role,
                "cell_type_name": [f"type {kind}" for kind in kinds],
                "donor_id": "d",
                "x": rng.normal(kinds % 4 * 3 + place * 0.8, 0.5),
                "y": rng.normal(kinds // 4 * 4, 0.7),
            }
        )
        matrix = sparse.random(size, n_genes, density=density, format="csc", dtype=np.float32, random_state=rng)
        matrix.data *= 4
        parts.append(Arm(table, matrix, genes))
    de = data.de[data.de["gene"].isin(genes)].reset_index(drop=True)
    arms = Arms(tuple(parts), genes=pd.Index(de["gene"], dtype=object))
    return replace(data, de=de, arms=arms, sides={}, notes=())
