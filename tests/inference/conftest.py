"""Small designed cells shared by the inference tests."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

N_GENES = 40


def _rates(cell_type, *, is_treated):
    """Treatment raises genes 0-4 five-fold and lowers 5-9 to a fifth; 10-12 mark type a, 13-15 type b."""
    rates = np.linspace(2.0, 30.0, N_GENES)
    rates[10:13] *= 8.0 if cell_type == "a" else 1.0
    rates[13:16] *= 8.0 if cell_type == "b" else 1.0
    if is_treated:
        rates[:5] *= 5.0
        rates[5:10] /= 5.0
    return rates


@pytest.fixture
def make_adata():
    def make(seed, *, is_treated=False, cell_types=("a",), n_each=30):
        rng = np.random.default_rng(seed)
        blocks = [
            rng.poisson(_rates(name, is_treated=is_treated) * rng.uniform(0.5, 2.0, (n_each, 1))) for name in cell_types
        ]
        counts = np.vstack(blocks).astype(np.float32)
        obs = pd.DataFrame(
            {"cell_type": np.repeat(cell_types, n_each), "donor_id": [f"d{i % 3}" for i in range(len(counts))]},
            index=[f"cell{seed}-{i}" for i in range(len(counts))],
        )
        var = pd.DataFrame({"note": "x"}, index=[f"GENE{i}" for i in range(N_GENES)])
        return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)

    return make


@pytest.fixture
def roles(tmp_path, make_adata):
    """prompt.h5ad, control.h5ad and query.h5ad in a folder; returns their paths by role."""
    cells = {
        "prompt": make_adata(1, is_treated=True, cell_types=("a", "b")),
        "control": make_adata(2, cell_types=("a", "b")),
        "query": make_adata(3, n_each=20),
    }
    paths = {}
    for role, adata in cells.items():
        paths[role] = tmp_path / f"{role}.h5ad"
        adata.write_h5ad(paths[role], convert_strings_to_categoricals=False)
    return paths
