from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from inference.h5_write import write_frame
from inference.outputs import write_cells

NAMES = ["c1", "c2", "c2", "c4"]


def _frame():
    return pd.DataFrame(
        {
            "text": ["x", "y", "", "ü"],
            "kind": pd.Categorical(["u", "v", None, "u"]),
            "rank": pd.Categorical([3, 1, 3, 1], ordered=True),
            "flag": pd.Categorical([True, False, True, True]),
            "n": [1, 2, 3, 4],
            "share": np.array([1.5, np.nan, 2.0, 0.0], dtype=np.float32),
            "is": [True, False, True, False],
            "n_gaps": pd.array([1, None, 2, 3], dtype="Int64"),
            "is_gaps": pd.array([True, None, False, True], dtype="boolean"),
            "text_gaps": pd.array(["p", None, "q", ""], dtype="string"),
        },
        index=pd.Index(NAMES, name="barcode"),
    )


def _members(path):
    """Every member of a file: its kind, values and attributes."""
    found = {}

    def look(name, node):
        values = (
            (str(node.dtype), node.compression, np.asarray(node[()]).tolist())
            if isinstance(node, h5py.Dataset)
            else "group"
        )
        attrs = {key: np.asarray(value).tolist() for key, value in node.attrs.items()}
        found[name] = str((values, attrs))

    with h5py.File(path) as h5:
        look("/", h5)
        h5.visititems(look)
    return found


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_files_are_those_that_anndata_writes(tmp_path):
    obs, var = _frame(), pd.DataFrame(index=["A", "B", "C"])
    counts = sparse.csr_matrix(np.arange(12, dtype=np.float32).reshape(4, 3))
    parts = {"layers": {"means": counts.toarray()}, "obsm": {"X_stack": np.eye(4)}, "uns": {"record": '{"é": 1}'}}
    write_cells(tmp_path / "ours.h5ad", obs=obs, var=var, X=counts, **parts)
    with ad.settings.override(allow_write_nullable_strings=True):
        adata = ad.AnnData(X=counts, obs=obs, var=var, **parts)
        with h5py.File(tmp_path / "theirs.h5ad", "w") as h5:
            ad.io.write_elem(h5, "/", adata, dataset_kwargs={"compression": "gzip", "compression_opts": 1})
    ours, theirs = (_members(tmp_path / f"{name}.h5ad") for name in ("ours", "theirs"))
    assert {name: item for name, item in ours.items() if theirs.get(name) != item} == {}
    assert set(theirs) - set(ours) <= {"raw"}
    found = ad.read_h5ad(tmp_path / "ours.h5ad")
    pd.testing.assert_frame_equal(found.obs, obs)
    assert np.array_equal(found.X.toarray(), counts.toarray())


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_without_values_and_an_index_named_like_a_column_are_read_again(tmp_path):
    obs = pd.DataFrame({"cell": ["p", "q"]}, index=pd.Index(["a", "a"], name="cell"))
    write_cells(tmp_path / "a.h5ad", obs=obs, var=pd.DataFrame(index=["A"]), X=sparse.csr_matrix((2, 1)), uns={})
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    assert (list(found.obs_names), list(found.obs["cell"]), found.X.nnz) == (["a", "a"], ["p", "q"], 0)


@pytest.mark.parametrize("values", [["x", 3], ["x", None], [1j, 2j]], ids=str)
def test_values_that_no_file_holds_are_refused(tmp_path, values):
    column = np.array(values, dtype=object if isinstance(values[0], str) else None)
    with h5py.File(tmp_path / "a.h5", "w") as h5, pytest.raises(TypeError, match="no h5ad file can"):
        write_frame(h5, "obs", pd.DataFrame({"odd": column}, index=["a", "b"]))
