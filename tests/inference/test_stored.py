from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from inference.checks import check_counts, find_counts, read_file
from inference.errors import InputError
from inference.stored import StoredCells


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("block", [64, 1 << 22])
def test_rows_are_those_of_the_matrix_however_it_is_stored(tmp_path, kind, compression, block):
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.7, (50, 30)).astype(np.float32)
    counts[10:14] = 0
    ad.AnnData(kind(counts)).write_h5ad(tmp_path / "a.h5ad", compression=compression)
    cells = StoredCells.read(tmp_path / "a.h5ad", name="a", block=block)
    assert np.array_equal(cells.X.filled, np.arange(50) if kind is np.asarray else np.flatnonzero(counts.any(axis=1)))
    for wanted in (
        np.arange(50),
        np.arange(0),
        np.array([49]),
        np.array([3, 4, 11, 30]),
        np.flatnonzero(rng.random(50) < 0.5),
    ):
        assert np.array_equal(cells.X.rows(wanted).toarray(), counts[wanted])


def test_counts_of_a_stored_file_are_those_of_the_same_file_in_memory(tmp_path, make_adata):
    adata = make_adata(0)
    adata.raw = adata
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray()))
    adata.obs.index.name, adata.var.index.name = "barcode", "id"
    adata.write_h5ad(tmp_path / "a.h5ad")
    want = check_counts(read_file(tmp_path / "a.h5ad", name="a"), name="a")
    cells = StoredCells.read(tmp_path / "a.h5ad", name="a")
    found = find_counts(cells, name="a").rows(np.arange(cells.n_obs))
    assert np.array_equal(found.counts.toarray(), want.counts.toarray())
    assert (found.genes, found.source, found.notes) == (want.genes, "raw/X", want.notes)
    pd.testing.assert_frame_equal(found.var, want.var)
    assert (cells.obs.index.name, cells.var.index.name) == ("barcode", "id")


def test_values_beyond_the_sampled_rows_are_checked_when_they_are_read(tmp_path, make_adata):
    adata = make_adata(0, n_each=900)
    dense = adata.X.toarray()
    dense[250, 0] = np.nan  # a row that is not among the sampled ones
    adata.X = sparse.csr_matrix(dense)
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = find_counts(StoredCells.read(tmp_path / "a.h5ad", name="a"), name="a")
    assert found.rows(np.arange(200)).counts.shape == (200, 40)
    with pytest.raises(InputError, match="a: no raw counts: X holds 1 NaN or infinite values"):
        found.rows(np.arange(200, 300))


def test_damage_that_shows_only_when_rows_are_read_is_said(tmp_path, make_adata):
    path = tmp_path / "a.h5ad"
    make_adata(0).write_h5ad(path)
    cells = StoredCells.read(path, name="given")
    with h5py.File(path, "r+") as file:
        del file["X/data"]
    with pytest.raises(InputError, match="given: not a readable h5ad file"):
        cells.X.rows(np.arange(3))
