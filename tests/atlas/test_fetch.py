"""Cells of an atlas against its source: the same, changed, cut, damaged, gone."""

import os
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from haystack_kernel import keys
from haystack_kernel.atlas import load_mapping, open_atlases
from haystack_kernel.atlas.fetch import CellReader
from haystack_kernel.atlas.sources.row_store import RowStore
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.schema import CellSet

ALL = CellSet(atlas="tiny", dataset="tiny", is_control=True)
N_CELLS = 40


class Heard:
    def __init__(self):
        self.events = []

    def __call__(self, event):
        self.events.append(event)


@pytest.fixture
def source(write, counts_of):
    obs = {"cell_type": ["B cell"] * N_CELLS, "donor_id": ["d1"] * N_CELLS}
    return write("a.h5ad", obs, counts=sp.csr_matrix(counts_of(N_CELLS)))


@pytest.fixture
def atlas(build, source, root):
    build(source, load_mapping("cellxgene"))
    return open_atlases(["tiny"], root=root)


def values_of(atlas):
    return atlas.fetch(atlas.select(ALL).sort_values(keys.CELL_INDEX)).X.toarray()


def change_values(path):
    """Swap two values within the file: the size stays the same."""
    with h5py.File(path, "r+") as h5:
        data = h5["X/data"][()]
        data[0], data[-1] = data[0] + 1, data[-1] + 1
        h5["X/data"][...] = data


def test_a_source_that_was_only_touched_is_the_same_source(atlas, source, counts_of):
    os.utime(source, (1, 1))
    np.testing.assert_array_equal(values_of(atlas), counts_of(N_CELLS))
    np.testing.assert_array_equal(values_of(atlas), counts_of(N_CELLS))


def test_a_source_of_the_same_size_and_other_bytes_is_refused(atlas, source):
    change_values(source)
    os.utime(source, (1, 1))
    with pytest.raises(InvalidInputError, match=r"a\.h5ad changed since the atlas was built \(its bytes differ\)"):
        values_of(atlas)


def test_a_source_of_another_size_is_refused(atlas, source):
    with Path(source).open("ab") as handle:
        handle.write(b"more")
    with pytest.raises(InvalidInputError, match=r"changed since the atlas was built \(\d+ bytes, \d+ when"):
        values_of(atlas)


def test_counts_that_do_not_add_up_to_the_index_are_refused(atlas, source):
    """Same size, same time, other values: damage that no other check sees."""
    before = Path(source).stat()
    change_values(source)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(
        InvalidInputError, match=r"2 of 40 cells do not have the counts that the index recorded \(rows 0, 39"
    ):
        values_of(atlas)


def test_a_source_that_is_gone_is_named(atlas, source):
    Path(source).unlink()
    with pytest.raises(NotFoundError, match=r"a\.h5ad does not exist"):
        values_of(atlas)


def test_a_source_stored_by_gene_is_rearranged_once_and_says_so(write, build, root, counts_of, tmp_path):
    obs = {"cell_type": ["B cell"] * N_CELLS, "donor_id": ["d1"] * N_CELLS}
    build(write("c.h5ad", obs, counts=sp.csc_matrix(counts_of(N_CELLS))), load_mapping("cellxgene"))
    heard = Heard()
    reader = CellReader(row_store=RowStore(tmp_path / "rows", 10**6), progress=heard)
    atlas = open_atlases(["tiny"], root=root, reader=reader)
    np.testing.assert_array_equal(values_of(atlas), counts_of(N_CELLS))
    assert heard.events[-1].fraction == pytest.approx(1.0)
    assert "rearranging c.h5ad" in heard.events[0].message
    n_heard = len(heard.events)
    np.testing.assert_array_equal(values_of(atlas), counts_of(N_CELLS))
    assert len(heard.events) == n_heard
    kept_nothing = open_atlases(["tiny"], root=root)
    np.testing.assert_array_equal(values_of(kept_nothing), counts_of(N_CELLS))


def test_stored_zeros_do_not_make_a_cell_another(write, build, root, counts_of):
    """An index may count entries or values above 0; both are the same cell."""
    stored = sp.csr_matrix(counts_of(N_CELLS))
    stored.data[:5] = 0
    obs = {"cell_type": ["B cell"] * N_CELLS, "donor_id": ["d1"] * N_CELLS}
    build(write("z.h5ad", obs, counts=stored), load_mapping("cellxgene"))
    atlas = open_atlases(["tiny"], root=root)
    cells = atlas.select(ALL).sort_values(keys.CELL_INDEX)
    np.testing.assert_array_equal(atlas.fetch(cells).X.toarray(), stored.toarray())
    counted = cells.assign(**{keys.N_GENES: np.diff(stored.indptr), keys.TOTAL_COUNTS: np.nan})
    np.testing.assert_array_equal(atlas.fetch(counted).X.toarray(), stored.toarray())


def test_cells_without_the_columns_of_the_index_are_read_unchecked(atlas, counts_of):
    cells = atlas.select(ALL).sort_values(keys.CELL_INDEX).drop(columns=[keys.TOTAL_COUNTS, keys.N_GENES])
    np.testing.assert_array_equal(atlas.fetch(cells).X.toarray(), counts_of(N_CELLS))


def test_repeated_and_unsorted_cells_come_in_the_order_asked(atlas, source):
    cells = atlas.select(ALL).set_index(keys.CELL_INDEX, drop=False).loc[[7, 3, 7, 39, 0, 3]]
    cells = cells.assign(**{keys.CELL_ID: [f"c{i}" for i in range(6)]})
    truth = ad.read_h5ad(source).X.toarray()[[7, 3, 7, 39, 0, 3]]
    np.testing.assert_array_equal(atlas.fetch(cells).X.toarray(), truth)
