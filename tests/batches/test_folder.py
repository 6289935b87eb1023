"""Cells in the folder of a campaign: what is written without anndata is what anndata reads."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.config.settings import load_settings
from tests.conftest import FakeClock


def test_cells_are_read_by_anndata_as_they_were(tmp_path):
    folder = CampaignFolder(load_settings(storage=str(tmp_path)), "screen-0", clock=FakeClock())
    obs = pd.DataFrame(
        {"donor_id": ["a", "b", "a"], "is_control": [True, False, True], "n": [1, 2, 3], "x": [0.5, np.nan, 1.0]},
        index=["c1", "c2", "c3"],
    )
    var = pd.DataFrame({"query_mean": [0.1, 0.2]}, index=["ISG15", "CD3D"])
    cells = ad.AnnData(sparse.csr_matrix(np.array([[0, 2], [1, 0], [0, 0]], dtype=np.float32)), obs=obs, var=var)
    folder.write_cells("cells.h5ad", cells)
    found = ad.read_h5ad(folder.uri("cells.h5ad"))
    pd.testing.assert_frame_equal(found.obs.astype({"donor_id": object}), obs)
    pd.testing.assert_frame_equal(found.var, var)
    assert (found.X != cells.X).nnz == 0
    assert found.X.dtype == np.float32
    few = folder.read_cells("cells.h5ad", ["donor_id"])
    assert list(few.obs["donor_id"]) == ["a", "b", "a"]
    folder.write_cells("few.h5ad", cells, labels=("donor_id", "is_control", "absent"))
    few = ad.read_h5ad(folder.uri("few.h5ad"))
    assert list(few.obs) == ["donor_id", "is_control"]
    assert list(few.obs_names) == ["c1", "c2", "c3"]
    assert list(cells.obs) == list(obs)
