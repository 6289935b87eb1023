"""Matrices stored by gene, rearranged by cell once."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from haystack_kernel.atlas.sources import row_store as module
from haystack_kernel.atlas.sources import rows as rows_module
from haystack_kernel.atlas.sources.matrix import open_matrix
from haystack_kernel.atlas.sources.row_store import RowStore
from haystack_kernel.atlas.sources.rows import read_rows
from haystack_kernel.errors import InvalidInputError

N_CELLS, N_GENES = 500, 30
ALL = np.arange(N_CELLS)


@pytest.fixture
def values():
    found = np.random.default_rng(1).poisson(0.4, (N_CELLS, N_GENES)).astype(np.float32)
    found[[0, 17, N_CELLS - 1]] = 0  # empty cells
    return found


@pytest.fixture
def matrix(values, tmp_path):
    ad.AnnData(X=sp.csc_matrix(values)).write_h5ad(tmp_path / "m.h5ad", compression="gzip")
    return open_matrix(str(tmp_path / "m.h5ad"), "X", encoding="csc", shape=values.shape)


@pytest.fixture
def small_steps(monkeypatch):
    """So small blocks and buckets that there are many."""
    monkeypatch.setattr(module, "BUCKET_VALUES", 700)
    monkeypatch.setattr(rows_module, "BLOCK_VALUES", 501)


@pytest.mark.usefixtures("small_steps")
def test_rearranged_rows_equal_the_matrix_and_progress_reaches_the_end(matrix, values, tmp_path):
    ticks = []
    got = RowStore(tmp_path / "rows", 10**6).by_row(matrix, identity="v1", tick=ticks.append)
    assert got.encoding == "csr"
    np.testing.assert_array_equal(read_rows(got, ALL[::-1]).toarray(), values[::-1])
    assert ticks == sorted(ticks)
    assert ticks[-1] == pytest.approx(1.0)
    assert [path.name[:5] for path in (tmp_path / "rows").iterdir()] == ["rows-"]


def test_a_second_use_reads_what_is_there(matrix, values, tmp_path):
    store = RowStore(tmp_path / "rows", 10**6)
    store.by_row(matrix, identity="v1")
    (tmp_path / "m.h5ad").unlink()  # the source is not looked at again
    np.testing.assert_array_equal(read_rows(store.by_row(matrix, identity="v1"), ALL).toarray(), values)


def test_another_version_of_the_source_is_another_file(matrix, tmp_path):
    store = RowStore(tmp_path / "rows", 10**6)
    store.by_row(matrix, identity="v1")
    store.by_row(matrix, identity="v2")
    assert len(list((tmp_path / "rows").glob("rows-*.h5"))) == 2


def test_above_the_limit_nothing_is_kept(matrix, tmp_path):
    assert RowStore(tmp_path / "rows", 1000).by_row(matrix, identity="v1") is None
    assert RowStore(tmp_path / "rows", 0).by_row(matrix, identity="v1") is None
    assert not (tmp_path / "rows").exists()


def test_the_least_recently_used_makes_room(matrix, tmp_path):
    one = int(matrix.arrays["data"].shape[0]) * 8
    store = RowStore(tmp_path / "rows", int(2.5 * one) + 20_000)
    for identity in ("v1", "v2", "v1", "v3"):
        store.by_row(matrix, identity=identity)
    left = {path.name for path in (tmp_path / "rows").glob("rows-*.h5")}
    again = RowStore(tmp_path / "rows", 0)  # makes nothing new: what it finds was kept
    assert len(left) == 2
    assert again.by_row(matrix, identity="v1") is not None
    assert again.by_row(matrix, identity="v2") is None


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_file_is_dropped_and_made_again(matrix, values, tmp_path, damage):
    store = RowStore(tmp_path / "rows", 10**6)
    store.by_row(matrix, identity="v1")
    (path,) = (tmp_path / "rows").glob("rows-*.h5")
    path.write_bytes(path.read_bytes()[:3000] if damage == "cut" else b"text")
    np.testing.assert_array_equal(read_rows(store.by_row(matrix, identity="v1"), ALL).toarray(), values)


def test_a_folder_that_cannot_be_made_leaves_the_matrix_as_it_is(matrix, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert RowStore(tmp_path / "file" / "rows", 10**6).by_row(matrix, identity="v1") is None


def test_a_damaged_source_is_said_and_leaves_nothing_behind(matrix, tmp_path):
    path = tmp_path / "m.h5ad"
    with path.open("r+b") as handle:
        handle.seek(int(matrix.arrays["data"].layout.offsets[0]))
        handle.write(bytes(50))
    with pytest.raises(InvalidInputError, match="chunk 0 is damaged"):
        RowStore(tmp_path / "rows", 10**6).by_row(matrix, identity="v1")
    assert list((tmp_path / "rows").iterdir()) == []
