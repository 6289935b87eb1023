"""Cells in memory in every form that people hold them in: they are read as they are, or refused in one line."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import haystack_kernel as haystack
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.store import plain_cells

COUNTS = np.array([[1, 0, 7], [0, 2, 3]], dtype=np.float32)


class Lazy(np.ndarray):
    """A matrix that is made when it is asked for, as dask's; ``fails`` is what happens instead."""

    fails = None

    def compute(self):
        if self.fails is not None:
            raise self.fails
        return sparse.csr_array(np.asarray(self))


def lazy(fails=None):
    made = COUNTS.view(Lazy)
    made.fails = fails
    return made


@pytest.fixture
def cells():
    obs = pd.DataFrame({"donor": ["d1", "d2"]}, index=["c1", "c2"])
    return ad.AnnData(sparse.csr_matrix(COUNTS), obs=obs, var=pd.DataFrame(index=["STAT1", "IL6", "MYC"]))


@pytest.fixture
def on_disk(cells, tmp_path):
    """The cells in files: as h5ad, and as an array of zarr."""
    import zarr

    cells.write_h5ad(tmp_path / "cells.h5ad")
    zarr.save_array(str(tmp_path / "x.zarr"), COUNTS)
    return tmp_path


def with_matrix(cells, matrix):
    made = cells.copy()
    made.X = matrix
    return made


def in_every_form(cells, folder):
    """Name of a form, and the same counts in it."""
    import zarr
    from anndata.io import sparse_dataset

    table = pd.DataFrame(COUNTS.astype(int), index=cells.obs_names, columns=cells.var_names)
    nullable = cells.copy()
    nullable.obs["n"] = pd.array([1, None], dtype="Int64")
    nullable.obs["donor"] = nullable.obs["donor"].astype("string")
    return {
        "sparse by column": with_matrix(cells, sparse.csc_matrix(COUNTS)),
        "sparse array": with_matrix(cells, sparse.csr_array(COUNTS)),
        "whole numbers": with_matrix(cells, COUNTS.astype(np.uint8)),
        "lazy": with_matrix(cells, lazy()),
        "columns of pandas that may miss values": ad.AnnData(table.astype("Int64"), obs=cells.obs, var=cells.var),
        "backed": ad.read_h5ad(folder / "cells.h5ad", backed="r"),
        "a view of a backed one": ad.read_h5ad(folder / "cells.h5ad", backed="r")[["c1", "c2"]],
        "a sparse matrix in a file": with_matrix(cells, sparse_dataset(h5py.File(folder / "cells.h5ad")["X"])),
        "an array in a file": with_matrix(cells, zarr.open_array(str(folder / "x.zarr"), mode="r")),
        "labels that may miss values": nullable,
    }


def test_every_form_of_a_matrix_is_read_as_its_counts(cells, on_disk, subtests):
    for name, given in in_every_form(cells, on_disk).items():
        with subtests.test(form=name):
            plain = plain_cells(given)
            held = plain.X.toarray() if sparse.issparse(plain.X) else plain.X
            assert np.array_equal(held, COUNTS)
            assert plain.obs["donor"].tolist() == ["d1", "d2"]
            assert haystack.check(given).preflight.answers[0].ok


def test_what_cannot_be_read_is_refused_in_one_line(cells, on_disk, subtests):
    gone = ad.read_h5ad(on_disk / "cells.h5ad", backed="r")
    gone.file.close()
    (on_disk / "cells.h5ad").unlink()
    masked = cells.copy()
    masked.layers["counts"] = masked.X.copy()
    masked.X = np.ma.masked_array(COUNTS, mask=COUNTS > 5)
    assert "X (some of its values are masked)" in plain_cells(masked).uns["haystack_unread"]
    for name, (given, told) in {
        "no memory": (
            with_matrix(cells, lazy(MemoryError("14 GiB"))),
            r"no matrix of the AnnData can be read: X \(14 GiB",
        ),
        "a file that is gone": (gone, r"the file behind the AnnData \(.*cells\.h5ad\) cannot be read: .*Open it again"),
        "a table": (cells.to_df(), r"not DataFrame: give anndata\.AnnData\(counts"),
        "counts alone": (cells.X, r"path of an h5ad file, not csr_matrix"),
        "nothing": (None, "not NoneType"),
        "a list": ([cells], "not list"),
    }.items():
        for verb in (
            haystack.check,
            lambda one: haystack.score(one, perturbation="IFN-beta"),
            lambda one: haystack.predict(one, "IFN-beta", cell_type="B cell"),
            lambda one: haystack.atlas.from_anndata(one, name="mine", perturbation_key="donor", control="d1"),
        ):
            with subtests.test(given=name, verb=verb), pytest.raises(InvalidInputError, match=told) as found:
                verb(given)
            assert "\n" not in str(found.value)


def test_an_atlas_that_is_refused_names_the_cells_as_the_caller_does(cells, tiny_env):
    options = {"name": "mine", "perturbation_key": "donor", "control": "d1"}
    with pytest.raises(MissingKeyError, match="your AnnData: obs has no column for cell_type"):
        haystack.atlas.from_anndata(cells, **options)
    cells.obs["cell_type"] = "B cell"
    with pytest.raises(InvalidInputError, match=r"^your AnnData: no raw counts"):
        haystack.atlas.from_anndata(with_matrix(cells, COUNTS * 0.5), cell_type_key="cell_type", **options)
