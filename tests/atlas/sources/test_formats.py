"""Files of every writer, read alike by an atlas build and as query cells; and files that are no h5ad."""

import gzip
import os
import subprocess
import sys
import zipfile

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from haystack_kernel.atlas.sources.counts import cell_stats, find_counts
from haystack_kernel.atlas.sources.h5ad import open_h5ad, read_text
from haystack_kernel.errors import HaystackError, InvalidInputError
from inference.checks import read_cells
from inference.errors import InputError
from inference.h5 import column_names, index_name

GENES = ["CD14", "ISG15", "MX1", "NKG7", "LYZ", "C1orf56"]
DONORS = [f"d{number % 2}" for number in range(12)]
TYPES = ["B cell", "T cell", "NK"] * 4
COUNTS = np.random.default_rng(4).poisson(2, (12, 6)).astype(np.float32)


def cells(**parts):
    obs = pd.DataFrame({"donor": DONORS, "cell_type": TYPES, "age": range(12)}, index=[f"c{n}" for n in range(12)])
    return ad.AnnData(sp.csr_matrix(COUNTS), obs=obs, var=pd.DataFrame(index=GENES), **parts)


@pytest.fixture
def path(tmp_path):
    where = tmp_path / "a.h5ad"
    cells().write_h5ad(where)
    return where


def as_atlas(path):
    """Donors, genes and sums as an atlas build reads them."""
    with open_h5ad(str(path)) as h5:
        counts = find_counts(h5, uri=str(path))
        n_genes, totals = cell_stats(h5, counts)
        names = [str(text) for text in read_text(h5["obs"], index_name(h5["obs"]))]
        assert {"donor", "cell_type", "age"} <= set(column_names(h5["obs"]))
        return list(read_text(h5["obs"], "donor")), names, list(counts.genes.names), totals, n_genes


def as_query(path):
    """The same as query cells are read."""
    adata, checked = read_cells(path, name="given")
    donors = ["" if pd.isna(text) else str(text) for text in adata.obs["donor"]]
    totals = np.asarray(checked.counts.sum(axis=1)).ravel()
    return donors, list(adata.obs.index), list(checked.genes), totals, np.diff(checked.counts.indptr)


def check_both(path, donors=DONORS):
    for read in (as_atlas, as_query):
        found, names, genes, totals, n_genes = read(path)
        assert found == list(map(str, donors)), read
        assert names == [f"c{n}" for n in range(12)]
        assert genes == GENES
        np.testing.assert_array_equal(totals, COUNTS.sum(axis=1))
        np.testing.assert_array_equal(n_genes, (COUNTS > 0).sum(axis=1))


# --- writers --------------------------------------------------------------------------------------------------------


def nullable_strings(path):
    adata = cells()
    adata.obs.index, adata.var.index = (pd.Index(pd.array(one, dtype="string")) for one in (adata.obs_names, GENES))
    adata.obs["donor"] = pd.array(DONORS, dtype="string")
    with ad.settings.override(allow_write_nullable_strings=True):
        ad.io.write_h5ad(path, adata, convert_strings_to_categoricals=False)


def nullable_categories(path):
    adata = cells()
    adata.obs["donor"] = pd.Categorical(pd.array(DONORS, dtype="string"))
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(path)


def categories_beside_the_columns(path):
    """The layout of anndata 0.7."""
    with h5py.File(path, "r+") as h5:
        obs = h5["obs"]
        for name in ("donor", "cell_type"):
            codes, texts = obs[name]["codes"][:], obs[name]["categories"][:]
            del obs[name]
            obs.create_dataset(f"__categories/{name}", data=texts, dtype=h5py.string_dtype())
            obs.create_dataset(name, data=codes).attrs["categories"] = obs[f"__categories/{name}"].ref


def records(path):
    """The layout of anndata 0.6: obs and var as arrays of records, codes with categories in uns."""
    with h5py.File(path, "w") as h5:
        fields = [("index", "S8"), ("donor", "i1"), ("cell_type", "S8"), ("age", "i8")]
        rows = [(f"c{n}".encode(), n % 2, TYPES[n].encode(), n) for n in range(12)]
        h5["obs"] = np.array(rows, dtype=fields)
        h5["var"] = np.array([(gene.encode(), 1) for gene in GENES], dtype=[("index", "S8"), ("n", "i8")])
        h5.create_dataset("uns/donor_categories", data=["d0", "d1"], dtype=h5py.string_dtype())
        matrix = sp.csr_matrix(COUNTS)
        x = h5.create_group("X")
        x["data"], x["indices"], x["indptr"] = matrix.data, matrix.indices, matrix.indptr
        x.attrs["h5sparse_format"], x.attrs["h5sparse_shape"] = "csr", matrix.shape


def records_with_raw(path):
    records(path)
    with h5py.File(path, "r+") as h5:
        h5.copy("X", "raw.X")
        h5["raw.var"] = h5["var"][:]
        h5["X/data"][:] = 0.5


def bytes_in_attributes(path):
    """Fixed-size texts, as hdf5r and HDF5.jl write."""
    with h5py.File(path, "r+") as h5:
        for frame in ("obs", "var"):
            h5[frame].attrs["_index"] = np.bytes_(h5[frame].attrs["_index"])
            h5[frame].attrs["column-order"] = np.array(list(h5[frame].attrs["column-order"]), dtype="S16")
            h5[frame].attrs["encoding-type"] = np.bytes_("dataframe")
        h5["X"].attrs["encoding-type"] = np.bytes_("csr_matrix")
        h5["X"].attrs["encoding-version"] = np.bytes_("0.1.0")


def attributes_as_arrays_of_one(path):
    with h5py.File(path, "r+") as h5:
        h5["obs"].attrs["_index"] = np.array([b"_index"])
        h5["X"].attrs["encoding-type"] = np.array([b"csr_matrix"])


def fixed_size_texts(path):
    with h5py.File(path, "r+") as h5:
        del h5["obs/donor"], h5["obs/_index"]
        h5["obs/donor"] = np.array(DONORS, dtype="S4")
        h5["obs/_index"] = np.array([f"c{n}" for n in range(12)], dtype="S4")


def big_endian(path):
    with h5py.File(path, "r+") as h5:
        for name in ("data", "indices", "indptr"):
            values = h5["X"][name][:]
            del h5["X"][name]
            h5["X"][name] = values.astype(values.dtype.newbyteorder(">"))


def what_is_not_needed_cannot_be_read(path):
    with h5py.File(path, "r+") as h5:
        for name in ("uns/later", "obsm/later", "obsp/later", "layers/later"):
            node = h5.require_group(name)
            node.attrs["encoding-type"], node.attrs["encoding-version"] = "of-a-later-version", "9.0.0"


def a_column_cannot_be_read(path):
    with h5py.File(path, "r+") as h5:
        node = h5.create_group("obs/later")
        node.attrs["encoding-type"], node.attrs["encoding-version"] = "of-a-later-version", "9.0.0"
        h5["obs"].attrs["column-order"] = [*h5["obs"].attrs["column-order"], "later"]


def a_column_is_named_and_absent(path):
    with h5py.File(path, "r+") as h5:
        h5["obs"].attrs["column-order"] = [*h5["obs"].attrs["column-order"], "gone"]


def entries_in_parts(path):
    matrix = sp.csr_matrix(COUNTS)
    parts = np.column_stack([matrix.data - 1, np.ones_like(matrix.data)]).ravel().astype(np.float32)
    with h5py.File(path, "r+") as h5:
        for name, values in {
            "data": parts,
            "indices": np.repeat(matrix.indices, 2),
            "indptr": matrix.indptr * 2,
        }.items():
            del h5["X"][name]
            h5["X"][name] = values


def entries_in_parts_by_gene(path):
    adata = cells()
    matrix = sp.csc_matrix(COUNTS)
    parts = np.column_stack([matrix.data - 1, np.ones_like(matrix.data)]).ravel().astype(np.float32)
    adata.X = sp.csc_matrix((parts, np.repeat(matrix.indices, 2), matrix.indptr * 2), shape=matrix.shape)
    adata.write_h5ad(path)


def numbers_as_booleans_and_integers(path):
    adata = cells()
    adata.X = COUNTS.astype(np.uint16)
    adata.obs["flag"] = [True, False] * 6
    adata.obs["some"] = pd.array([1, None] * 6, dtype="Int64")
    adata.write_h5ad(path)


WRITERS = [
    nullable_strings,
    nullable_categories,
    categories_beside_the_columns,
    records,
    bytes_in_attributes,
    attributes_as_arrays_of_one,
    fixed_size_texts,
    big_endian,
    what_is_not_needed_cannot_be_read,
    a_column_cannot_be_read,
    a_column_is_named_and_absent,
    entries_in_parts,
    entries_in_parts_by_gene,
    numbers_as_booleans_and_integers,
    records_with_raw,
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_files_of_every_writer_are_read_alike(write, path):
    write(path)
    check_both(path)


def test_columns_that_cannot_be_read_are_said(path):
    a_column_cannot_be_read(path)
    with open_h5ad(str(path)) as h5, pytest.raises(InvalidInputError, match=r"column 'later' of obs cannot be read"):
        read_text(h5["obs"], "later")
    assert any("obs['later']" in note for note in read_cells(path, name="given")[1].notes)


@pytest.mark.parametrize("layout", ["new", "0.7"])
def test_categories_that_are_numbers(path, layout):
    adata = cells()
    adata.obs["donor"] = pd.Categorical([101 if one == "d0" else 1015 for one in DONORS])
    adata.write_h5ad(path)
    if layout == "0.7":
        with h5py.File(path, "r+") as h5:
            obs = h5["obs"]
            codes, values = obs["donor/codes"][:], obs["donor/categories"][:]
            del obs["donor"]
            obs["__categories/donor"], obs["donor"] = values, codes
    check_both(path, [101 if one == "d0" else 1015 for one in DONORS])


@pytest.mark.parametrize(
    ("raw", "text"), [("Ωmega", "Ωmega"), ("Björn", "Björn"), (b"Bj\xf6rn", "Björn"), ("d\u00a01", "d\u00a01")]
)
def test_texts_are_read_in_utf8_or_latin1_whatever_the_file_declares(path, raw, text):
    with h5py.File(path, "r+") as h5:
        del h5["obs/donor"]
        node = h5.create_dataset("obs/donor", shape=(12,), dtype=h5py.string_dtype("ascii"))
        node[:] = np.array([raw if isinstance(raw, bytes) else raw.encode()] * 12, dtype=object)
    check_both(path, [text] * 12)


# --- values that are not in the file --------------------------------------------------------------------------------


def test_chunks_that_were_never_written_are_damage(tmp_path):
    path = tmp_path / "a.h5ad"
    cells().write_h5ad(path, compression="gzip")
    with h5py.File(path, "r+") as h5:
        for name in ("data", "indices"):
            values = h5["X"][name][:]
            del h5["X"][name]
            node = h5["X"].create_dataset(name, shape=values.shape, dtype=values.dtype, chunks=(16,))
            node[:32] = values[:32]
    with (
        open_h5ad(str(path)) as h5,
        pytest.raises(InvalidInputError, match="chunks are missing, which would read as 0"),
    ):
        find_counts(h5, uri=str(path))
    with pytest.raises(InputError, match=r"chunks of .* are missing"):
        read_cells(path, name="given")


def write_store(path, values, *, chunks, keep=lambda place: True):
    """A dense Zarr store that lacks some chunks."""
    adata = cells()
    adata.X = values
    with ad.settings.override(zarr_write_format=2):
        adata.write_zarr(path)
    group = zarr.open_group(path, mode="r+")
    attributes = dict(group["X"].attrs)
    del group["X"]
    node = group.create_array("X", shape=values.shape, chunks=chunks, dtype=values.dtype)
    node[:] = values + 0
    node.attrs.update(attributes)
    zarr.consolidate_metadata(path)
    return {one.name: one for one in (path / "X").iterdir() if not one.name.startswith(".")}


@pytest.mark.filterwarnings("ignore")
def test_a_lost_block_of_cells_is_damage_and_a_lost_block_of_zeros_is_said(tmp_path):
    values = COUNTS.copy()
    values[:6, 3:] = 0  # a writer may leave out this chunk
    files = write_store(tmp_path / "a.zarr", values, chunks=(6, 3))
    for name, path in files.items():
        if name == "0.1":
            path.unlink()
    with open_h5ad(str(tmp_path / "a.zarr")) as store:
        found = find_counts(store, uri=str(tmp_path / "a.zarr"))
    assert any("1 of 4 chunks of X are not stored and read as 0" in note for note in found.notes)
    files["0.0"].unlink()
    with (
        open_h5ad(str(tmp_path / "a.zarr")) as store,
        pytest.raises(InvalidInputError, match="1 of the 2 blocks of cells are missing"),
    ):
        find_counts(store, uri=str(tmp_path / "a.zarr"))


def test_values_in_another_file_are_refused_when_an_atlas_is_built_and_as_query(path, tmp_path):
    dense = cells()
    dense.X = COUNTS
    dense.write_h5ad(tmp_path / "source.h5ad")
    dense.write_h5ad(path)
    with h5py.File(path, "r+") as h5:
        attributes = dict(h5["X"].attrs)
        del h5["X"]
        layout = h5py.VirtualLayout(shape=COUNTS.shape, dtype="f4")
        layout[:] = h5py.VirtualSource("source.h5ad", "X", shape=COUNTS.shape)
        h5.create_virtual_dataset("X", layout).attrs.update(attributes)
    with open_h5ad(str(path)) as h5, pytest.raises(InvalidInputError, match="keeps its values in other files"):
        find_counts(h5, uri="a")
    with pytest.raises(InputError, match="keeps its values in other files"):
        read_cells(path, name="given")


# --- files that are no h5ad -----------------------------------------------------------------------------------------


def gzipped(path):
    path.write_bytes(gzip.compress(path.read_bytes()))


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")


def text(path):
    path.write_text("gene,cell1\nISG15,3\n")


def web_page(path):
    path.write_text("<!DOCTYPE html><html>404</html>")


def lfs_pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")


def matrix_market(path):
    path.write_text("%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 3\n")


def mudata(path):
    with h5py.File(path, "w") as h5:
        h5.attrs["encoding-type"] = "MuData"
        for name in ("mod/rna", "mod/prot", "obs", "var"):
            h5.create_group(name)


def ten_x(path):
    with h5py.File(path, "w") as h5:
        for name in ("barcodes", "data", "indices", "indptr", "features/id"):
            h5[f"matrix/{name}"] = [1]


def loom(path):
    with h5py.File(path, "w") as h5:
        h5["matrix"] = COUNTS
        h5.create_group("row_attrs")
        h5.create_group("col_attrs")


def h5seurat(path):
    with h5py.File(path, "w") as h5:
        h5.create_group("assays")
        h5["cell.names"] = [1]


def a_folder_of_mtx(path):
    path.unlink()
    path.mkdir()
    (path / "matrix.mtx.gz").touch()


def a_folder_with_an_h5ad(path):
    path.unlink()
    path.mkdir()
    (path / "b.h5ad").touch()


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (gzipped, "gunzip"),
        (zipped, "zip archive"),
        (text, "text file"),
        (web_page, "download the file again"),
        (lfs_pointer, "git lfs pull"),
        (matrix_market, "sc.read_10x_mtx"),
        (mudata, r"modalities prot, rna: write the genes alone, mdata.mod\['rna'\].write_h5ad"),
        (ten_x, "sc.read_10x_h5"),
        (loom, "anndata.read_loom"),
        (h5seurat, "SeuratDisk"),
        (a_folder_of_mtx, "10x or mtx files: read it with scanpy"),
        (a_folder_with_an_h5ad, "it holds b.h5ad"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_other_formats_are_named_with_the_remedy(write, says, path):
    write(path)
    with pytest.raises(InvalidInputError, match=says) as caught, open_h5ad(str(path)):
        pass
    assert "damaged" not in str(caught.value)
    with pytest.raises(InputError, match=says):
        read_cells(path, name="given")


def test_a_file_that_another_program_writes_is_not_called_damaged(path):
    code = f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); input()"
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": "TRUE"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        other.stdout.readline()
        try:
            with (
                pytest.raises(HaystackError, match="open for writing in another program") as caught,
                open_h5ad(str(path)),
            ):
                pass
            assert "damaged" not in str(caught.value)
            with pytest.raises(InputError, match="open for writing in another program"):
                read_cells(path, name="given")
        finally:
            other.communicate(b"\n", timeout=30)
