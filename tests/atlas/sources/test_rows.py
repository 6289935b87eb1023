"""Rows of matrices in every way of storing them equal slicing in memory."""

import tracemalloc
import warnings

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

from haystack_kernel.atlas.sources import arrays as arrays_module
from haystack_kernel.atlas.sources import rows as module
from haystack_kernel.atlas.sources.chunk_layout import read_layout
from haystack_kernel.atlas.sources.matrix import open_matrix
from haystack_kernel.atlas.sources.rows import read_rows
from haystack_kernel.errors import InvalidInputError

N_CELLS, N_GENES = 3000, 40
FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}
ROWS = {
    "one": [5],
    "empty cell": [17],
    "order and repeats": [9, 3, 3, 2999],
    "long range": list(range(2500)),
    "scattered": list(range(0, 3000, 40)),
    "neighbours and gaps": [0, 1, 2, 4, 16, 17, 18, 2998, 2999],
    "none": [],
}


@pytest.fixture(scope="module")
def values():
    found = np.random.default_rng(1).poisson(0.4, (N_CELLS, N_GENES)).astype(np.float32)
    found[16:18] = 0  # empty cells
    return found


@pytest.fixture(scope="module", params=["csr", "csc", "dense"])
def encoding(request):
    return request.param


def write_zarr(adata, path, *, version=3, **options):
    """AnnData warns of its old default unless the format is stated."""
    with ad.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(path, **options)


@pytest.fixture(scope="module", params=["h5ad", "h5ad gzip", "h5ad lzf", "h5ad in one piece", "zarr 2", "zarr 3"])
def source(request, encoding, values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    adata = ad.AnnData(X=FORMS[encoding](values))
    if request.param.startswith("zarr"):
        chunks = {"chunks": (700, 7)} if encoding == "dense" else {}
        write_zarr(adata, folder / "m.zarr", version=int(request.param[-1]), **chunks)
        return str(folder / "m.zarr")
    path = folder / "m.h5ad"
    adata.write_h5ad(path, compression={"h5ad gzip": "gzip", "h5ad lzf": "lzf"}.get(request.param))
    if request.param == "h5ad in one piece":
        with h5py.File(path, "r+") as h5:
            for name in ("X/data", "X/indices", "X/indptr") if encoding != "dense" else ("X",):
                whole, attributes = h5[name][()], dict(h5[name].attrs)
                del h5[name]
                h5[name] = whole
                h5[name].attrs.update(attributes)
                assert h5[name].chunks is None
    return str(path)


@pytest.fixture
def matrix(source, encoding):
    return open_matrix(source, "X", encoding=encoding, shape=(N_CELLS, N_GENES))


@pytest.mark.parametrize("rows", list(ROWS.values()), ids=list(ROWS))
def test_rows_equal_slicing(matrix, values, rows):
    got = read_rows(matrix, np.array(rows, dtype=np.int64))
    np.testing.assert_array_equal(got.toarray(), values[rows].reshape(len(rows), N_GENES))
    assert got.dtype == np.float32
    assert got.has_sorted_indices


def test_rows_outside_the_source_are_refused(matrix):
    for row in (N_CELLS, -1):
        with pytest.raises(InvalidInputError, match=f"row {row} is beyond the 3000 rows of"):
            read_rows(matrix, np.array([0, row]))


def write_h5(path, values, **options):
    """A CSR matrix with small chunks and the options given."""
    stored = sp.csr_matrix(values)
    with h5py.File(path, "w") as h5:
        h5.create_group("obs"), h5.create_group("var")
        for name in ("indptr", "indices", "data"):
            array = getattr(stored, name)
            h5.create_dataset(f"X/{name}", data=array, chunks=(2048,), **options)
    return open_matrix(str(path), "X", encoding="csr", shape=values.shape)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "fletcher32": True},
        {"compression": "lzf", "shuffle": True, "fletcher32": True},
        {"shuffle": True},
        {"scaleoffset": 0},
    ],
    ids=str,
)
def test_every_filter_of_hdf5_is_undone(tmp_path, values, options):
    if "scaleoffset" in options:
        values = values.astype(np.int32)
    got = read_rows(write_h5(tmp_path / "m.h5ad", values, **options), np.arange(2999, -1, -7))
    np.testing.assert_array_equal(got.toarray(), values[::-7])


def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path):
    path = tmp_path / "m.h5ad"
    with h5py.File(path, "w") as h5:
        h5.create_group("obs"), h5.create_group("var")
        dense = h5.create_dataset("X", (100, 8), dtype="f4", chunks=(10, 5), fillvalue=2)
        dense[50:60] = np.arange(80).reshape(10, 8)
    got = read_rows(open_matrix(str(path), "X", encoding="dense", shape=(100, 8)), np.array([49, 55]))
    np.testing.assert_array_equal(got.toarray(), [[2] * 8, range(40, 48)])


def test_big_endian_and_wide_types_are_read(tmp_path):
    path = tmp_path / "m.h5ad"
    with h5py.File(path, "w") as h5:
        h5.create_group("obs"), h5.create_group("var")
        h5["X/indptr"], h5["X/indices"] = np.array([0, 2, 3], ">i8"), np.array([0, 3, 1], ">u2")
        h5["X/data"] = np.array([1, 2, 3], ">f8")
    got = read_rows(open_matrix(str(path), "X", encoding="csr", shape=(2, 4)), np.array([1, 0]))
    np.testing.assert_array_equal(got.toarray(), [[0, 3, 0, 0], [1, 0, 0, 2]])


def test_each_chunk_is_read_once(tmp_path, values):
    """However many rows lie in it."""
    matrix = write_h5(tmp_path / "m.h5ad", values, compression="gzip")
    seen = []

    class Counted:
        def __init__(self, inner):
            self.inner = inner
            self.shape, self.chunks, self.dtype = inner.shape, inner.chunks, inner.dtype

        def visit(self, pieces, use):
            seen.extend(piece.number for piece in pieces)
            self.inner.visit(pieces, use)

    counted = module.Matrix("csr", matrix.shape, {**matrix.arrays, "data": Counted(matrix.arrays["data"])}, "m")
    rows = np.arange(0, 3000, 3)
    np.testing.assert_array_equal(read_rows(counted, rows).toarray(), values[rows])
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("encoding_of", ["csr", "dense"])
def test_memory_follows_the_rows_asked_for_not_the_file(tmp_path, encoding_of):
    """Ten rows of 16 MB of values: far less than that is allocated."""
    path = tmp_path / "m.h5ad"
    n_cells, n_genes = 2000, 2000
    with h5py.File(path, "w") as h5:
        h5.create_group("obs"), h5.create_group("var")
        if encoding_of == "dense":
            h5.create_dataset("X", (n_cells, n_genes), dtype="f4", chunks=(100, 500), fillvalue=1)[:] = 3
        else:
            h5["X/indptr"] = np.arange(n_cells + 1) * n_genes
            for name, kind in (("indices", "i4"), ("data", "f4")):
                stored = h5.create_dataset(f"X/{name}", (n_cells * n_genes,), dtype=kind, chunks=(1 << 14,))
                for first in range(0, n_cells * n_genes, 2_000_000):
                    stored[first : first + 2_000_000] = np.arange(2_000_000) % n_genes
    matrix = open_matrix(str(path), "X", encoding=encoding_of, shape=(n_cells, n_genes))
    tracemalloc.start()
    got = read_rows(matrix, np.arange(0, 2000, 200))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.shape == (10, n_genes)
    assert got.nnz == 10 * n_genes
    assert peak < 4e6


def corrupted(path, place, number=0):
    """Overwrite the middle of a chunk's bytes."""
    with h5py.File(path) as h5:
        info = h5[place].id.get_chunk_info(number)
    with path.open("r+b") as handle:
        handle.seek(info.byte_offset + info.size // 2)
        handle.write(b"\xff" * 24)


def test_a_chunk_that_does_not_decompress_names_file_array_and_chunk(tmp_path, values):
    for options in ({"compression": "gzip"}, {"compression": "lzf", "fletcher32": True}):
        path = tmp_path / f"{options['compression']}.h5ad"
        matrix = write_h5(path, values, **options)
        corrupted(path, "X/data", 2)
        with pytest.raises(InvalidInputError, match=r"h5ad: X/data: chunk 2 is damaged .*copy the file again"):
            read_rows(matrix, np.arange(3000))


def test_a_file_cut_short_after_it_was_opened_is_named(tmp_path, values):
    path = tmp_path / "m.h5ad"
    matrix = write_h5(path, values)
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size // 2)
    with pytest.raises(InvalidInputError, match=r"is truncated: X/.* continues to byte"):
        read_rows(matrix, np.arange(3000))
    path.unlink()
    with pytest.raises(Exception, match="does not exist any more; put it back"):
        read_rows(matrix, np.arange(3000))


@pytest.mark.parametrize(
    ("name", "bad", "match"),
    [("indptr", [0, 9, 3], "indptr points outside its 3 values"), ("indices", [0, 7, 1], "indices reach outside 4")],
)
def test_parts_that_contradict_each_other_are_refused(tmp_path, name, bad, match):
    parts = {"indptr": [0, 2, 3], "indices": [0, 3, 1], "data": [1.0, 2.0, 3.0], name: bad}
    path = tmp_path / "m.h5ad"
    with h5py.File(path, "w") as h5:
        h5.create_group("obs"), h5.create_group("var")
        for key, array in parts.items():
            h5[f"X/{key}"] = np.array(array)
    for encoding, shape in (("csr", (2, 4)), ("csc", (4, 2))):
        with pytest.raises(InvalidInputError, match=match):
            read_rows(open_matrix(str(path), "X", encoding=encoding, shape=shape), np.array([0, 1]))


def test_values_in_another_file_are_refused(tmp_path):
    path = tmp_path / "m.h5ad"
    with h5py.File(path, "w") as h5:
        h5.create_group("obs"), h5.create_group("var")
        h5.create_dataset("X", (4, 4), dtype="f4", external=[(str(tmp_path / "other.bin"), 0, 64)])
    with pytest.raises(InvalidInputError, match="keeps its values in other files"):
        open_matrix(str(path), "X", encoding="dense", shape=(4, 4))


def test_an_unknown_filter_is_named_with_the_remedy(tmp_path):
    from haystack_kernel.errors import MissingExtraError

    if h5py.h5z.filter_avail(32015):
        pytest.skip("the filter zstd is installed here")
    path = tmp_path / "m.h5ad"
    with h5py.File(path, "w") as h5:
        h5.create_group("obs"), h5.create_group("var")
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, 4))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        h5py.h5d.create(h5.id, b"X", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((8, 4)), dcpl=plist)
    with pytest.raises(MissingExtraError, match="filter zstd, which is not installed: pip install hdf5plugin"):
        open_matrix(str(path), "X", encoding="dense", shape=(8, 4))


def test_a_damaged_chunk_of_a_zarr_store_is_named(tmp_path, values):
    write_zarr(ad.AnnData(X=sp.csr_matrix(values)), tmp_path / "m.zarr")
    matrix = open_matrix(str(tmp_path / "m.zarr"), "X", encoding="csr", shape=values.shape)
    chunk = max((tmp_path / "m.zarr" / "X" / "data").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(InvalidInputError, match=r"m\.zarr: a chunk of X/data is damaged"):
        read_rows(matrix, np.array([5]))


def test_a_sharded_zarr_array_is_read_by_its_inner_chunks(tmp_path, values):
    group = zarr.open_group(tmp_path / "m.zarr", mode="w", zarr_format=3)
    group.create_group("obs"), group.create_group("var")
    group.create_array("X", data=values, chunks=(100, 20), shards=(1000, 40))
    matrix = open_matrix(str(tmp_path / "m.zarr"), "X", encoding="dense", shape=values.shape)
    assert matrix.arrays["values"].chunks == (100, 20)
    np.testing.assert_array_equal(read_rows(matrix, np.array([2999, 150])).toarray(), values[[2999, 150]])


def test_one_thread_reads_the_same(tmp_path, values, monkeypatch):
    monkeypatch.setattr(arrays_module, "N_THREADS", 1)
    matrix = write_h5(tmp_path / "m.h5ad", values, compression="gzip")
    np.testing.assert_array_equal(read_rows(matrix, np.arange(500)).toarray(), values[:500])


def test_values_far_apart_in_a_chunk_without_filters_are_read_apart(tmp_path):
    stored, rows = sp.random_array((200_000, 9), density=0.3, format="csr", rng=1, dtype=np.float32), [3, 4, 150_000]
    stored.data = np.ceil(stored.data * 9).astype(np.float32)
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as h5:
        for name in ("indptr", "indices", "data"):
            h5.create_dataset(f"X/{name}", data=getattr(stored, name), chunks=(len(getattr(stored, name)),))
        layout = read_layout(h5["X/data"], uri=str(path))
    array = arrays_module.LocalArray(path, layout, "data")
    starts, stops = stored.indptr[rows].astype(np.int64), stored.indptr[np.array(rows) + 1].astype(np.int64)
    sizes = []
    arrays_module.visit_ranges(array, starts, stops, lambda number, first, values: sizes.append(len(values)))
    assert sum(sizes) == (stops - starts).sum()
    np.testing.assert_array_equal(arrays_module.take(array, starts, stops), sp.csr_array(stored)[rows].data)
