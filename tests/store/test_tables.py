"""Cells as files of a run folder."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from haystack_kernel.store import RunStore, read_h5ad, write_h5ad


def test_cells_read_with_some_labels_are_the_same_but_for_the_other_labels(tmp_path):
    store = RunStore(str(tmp_path))
    adata = ad.AnnData(
        X=sparse.csr_matrix(np.array([[0.0, 1.0], [2.0, 0.0]])),
        obs=pd.DataFrame({"donor": ["a", "b"], "type": ["x", "y"]}, index=["one", "two"]),
        var=pd.DataFrame({"padded": [True, False]}, index=["G1", "G2"]),
        layers={"expected": np.array([[0.5, 1.0], [1.5, 0.5]])},
        uns={"made": "so"},
    )
    write_h5ad(store, "run-20260101t000000-abcdef", "cells.h5ad", adata)
    whole, bare = (
        read_h5ad(store, "run-20260101t000000-abcdef", "cells.h5ad", labels=labels)
        for labels in (None, ("type", "absent"))
    )
    assert list(whole.obs) == ["donor", "type"]
    pd.testing.assert_frame_equal(bare.obs, whole.obs[["type"]])
    assert list(bare.obs_names) == ["one", "two"]
    pd.testing.assert_frame_equal(bare.var, whole.var)
    assert (bare.X != whole.X).nnz == 0
    assert bare.layers["expected"] == pytest.approx(whole.layers["expected"])
    assert bare.uns["made"] == whole.uns["made"] == "so"
