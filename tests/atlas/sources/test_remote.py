"""Sources in a bucket: the real client library, a local storage server, and a proxy that delays, refuses and cuts."""

import importlib.util
import sys
from pathlib import Path

import anndata as ad
import fsspec
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from fsspec import AbstractFileSystem

gcsfs = pytest.importorskip("gcsfs")

from haystack_kernel import keys  # noqa: E402
from haystack_kernel.atlas import load_mapping, open_atlases  # noqa: E402
from haystack_kernel.atlas.fetch import CellReader  # noqa: E402
from haystack_kernel.atlas.sources import remote  # noqa: E402
from haystack_kernel.atlas.sources.chunk_cache import ChunkCache  # noqa: E402
from haystack_kernel.atlas.sources.chunk_layout import read_layout  # noqa: E402
from haystack_kernel.atlas.sources.h5ad import fingerprint, open_h5ad_handle  # noqa: E402
from haystack_kernel.atlas.sources.matrix import open_matrix  # noqa: E402
from haystack_kernel.atlas.sources.remote import RangedReader, RemoteFile, _merged  # noqa: E402
from haystack_kernel.atlas.sources.row_store import RowStore  # noqa: E402
from haystack_kernel.atlas.sources.rows import read_rows  # noqa: E402
from haystack_kernel.errors import InvalidInputError, NotFoundError, ServiceError, StorageError  # noqa: E402
from haystack_kernel.schema import CellSet  # noqa: E402

pytestmark = pytest.mark.slow

N_CELLS, N_GENES, BUCKET = 600, 6, "haystack-cells"
ALL = CellSet(atlas="tiny", dataset="tiny", is_control=True)
FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}


def load_server(name):
    path = Path(__file__).parents[2] / "servers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_server_for_cells", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def proxy():
    with (
        load_server("storage").storage_server(BUCKET) as address,
        load_server("slow").slow_proxy(address, delay_s=0) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", running.address)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield running
        gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture(autouse=True)
def quiet(proxy):
    yield
    proxy.failing.clear()
    proxy.n_cut, proxy.delay_s = 0, 0


@pytest.fixture
def values():
    return np.random.default_rng(3).poisson(1.5, (N_CELLS, N_GENES)).astype(np.float32)


def put(path, uri):
    fs, target = fsspec.core.url_to_fs(uri)
    fs.put(str(path), target, recursive=Path(path).is_dir())


@pytest.fixture
def upload(write, values):
    """Write counts as an h5ad with small chunks and put it into the bucket."""

    def make(name="m.h5ad", *, counts=values, encoding="csr"):
        obs = {"cell_type": ["B cell"] * len(counts), "donor_id": ["d1"] * len(counts)}
        path = write(name, obs, counts=FORMS[encoding](counts))
        if encoding != "dense":
            with h5py.File(path, "r+") as h5:
                for key in ("data", "indices", "indptr"):
                    whole = h5["X"][key][()]
                    del h5["X"][key]
                    h5["X"].create_dataset(key, data=whole, chunks=(min(100, len(whole)),), compression="gzip")
        put(path, f"gs://{BUCKET}/{name}")
        return f"gs://{BUCKET}/{name}"

    return make


@pytest.fixture
def opened(upload, build, root, tmp_path):
    """An atlas of a source in the bucket, read with both caches."""

    def make(**options):
        build(upload(**options), load_mapping("cellxgene"))
        folder = tmp_path / "cache"
        reader = CellReader(cache=ChunkCache(folder, limit_bytes=10**7), row_store=RowStore(folder, 10**7))
        return open_atlases(["tiny"], root=root, reader=reader)

    return make


def counted(proxy, work):
    before = proxy.n_requests
    result = work()
    return result, proxy.n_requests - before


def reads(proxy, work):
    """How often it read contents of an object."""
    before = proxy.n_reads
    work()
    return proxy.n_reads - before


@pytest.mark.parametrize("encoding", list(FORMS))
def test_cells_of_a_bucket_equal_those_of_the_file(opened, values, encoding):
    atlas = opened(encoding=encoding)
    cells = atlas.select(ALL).sample(50, random_state=0)
    np.testing.assert_array_equal(atlas.fetch(cells).X.toarray(), values[cells[keys.CELL_INDEX]])


def test_structure_is_read_once_and_chunks_are_kept(opened, proxy, root, values):
    atlas = opened()
    cells = atlas.select(ALL)
    assert reads(proxy, lambda: atlas.fetch(cells))
    (layout,) = (root / "tiny").glob("layout-*.npz")
    assert not reads(proxy, lambda: atlas.fetch(cells))  # it only asks which version the object is
    np.testing.assert_array_equal(atlas.fetch(cells).X.toarray(), values[cells[keys.CELL_INDEX]])
    layout.write_bytes(b"damaged")
    assert reads(proxy, lambda: atlas.fetch(cells))
    np.testing.assert_array_equal(atlas.fetch(cells).X.toarray(), values[cells[keys.CELL_INDEX]])
    assert layout.stat().st_size > 100  # written again


def test_requests_run_side_by_side(opened, proxy):
    """Every request waits 0.2 s; one after the other they would take longer than this."""
    import time

    atlas = opened()
    cells = atlas.select(ALL).iloc[::60]
    proxy.delay_s = 0.2
    start = time.perf_counter()
    _, n_requests = counted(proxy, lambda: atlas.fetch(cells))
    assert time.perf_counter() - start < 0.2 * n_requests + 10  # a machine under load
    assert n_requests >= 3


def test_a_burst_of_refusals_is_waited_out(opened, proxy, values):
    atlas = opened()
    cells = atlas.select(ALL)
    proxy.failing.extend([503, 429])
    np.testing.assert_array_equal(atlas.fetch(cells).X.toarray(), values[cells[keys.CELL_INDEX]])
    assert not proxy.failing


def test_answers_cut_short_are_asked_for_again(opened, proxy, values):
    atlas = opened()
    cells = atlas.select(ALL)
    proxy.n_cut = 2
    np.testing.assert_array_equal(atlas.fetch(cells).X.toarray(), values[cells[keys.CELL_INDEX]])
    assert proxy.n_cut == 0


def test_answers_always_cut_short_are_a_fault_and_nothing_is_kept(opened, proxy, tmp_path):
    atlas = opened()
    proxy.n_cut = 10**6
    with pytest.raises(ServiceError, match="came back incomplete 3 times; nothing of them was kept"):
        atlas.fetch(atlas.select(ALL))
    assert ChunkCache(tmp_path / "cache", limit_bytes=1).n_bytes() == 0


def test_a_forbidden_object_is_said(opened, proxy):
    atlas = opened()
    proxy.failing.extend([403] * 20)
    with pytest.raises(StorageError, match=r"may not be read .*give this account read access"):
        atlas.fetch(atlas.select(ALL))


def test_an_object_that_was_replaced_or_removed_is_said(opened, upload, values):
    atlas = opened()
    cells = atlas.select(ALL)
    upload(counts=values[:, ::-1])
    with pytest.raises(InvalidInputError, match=r"m\.h5ad changed since the atlas was built"):
        atlas.fetch(cells)
    fs, path = fsspec.core.url_to_fs(f"gs://{BUCKET}/m.h5ad")
    fs.rm(path)
    with pytest.raises(NotFoundError, match="does not exist; check the bucket and the name"):
        atlas.fetch(cells)


def test_a_damaged_chunk_is_said_and_not_kept(upload, values, tmp_path):
    uri = upload()
    local = tmp_path / "m.h5ad"
    with h5py.File(local) as h5:
        info = h5["X/data"].id.get_chunk_info(1)
    data = bytearray(local.read_bytes())
    data[info.byte_offset : info.byte_offset + info.size] = bytes(info.size)
    local.write_bytes(bytes(data))
    put(local, uri)
    cache = ChunkCache(tmp_path / "cache", limit_bytes=10**7)
    matrix = open_matrix(uri, "X", encoding="csr", shape=values.shape, identity="v", cache=cache)
    with pytest.raises(InvalidInputError, match="data: chunk 1 is damaged"):
        read_rows(matrix, np.arange(N_CELLS))
    kept = cache.get([f"{matrix.arrays['data'].identity}/data/{number}" for number in range(3)])
    assert kept == {}


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_store_in_a_bucket_is_indexed_and_read(build, root, tmp_path, values, proxy, version):
    import warnings

    import pandas as pd

    genes = ["CD14", "ISG15", "MX1", "NKG7", "LYZ", "C1orf56"]
    obs = pd.DataFrame({"cell_type": "B cell", "donor_id": "d1"}, index=[f"c{i}" for i in range(N_CELLS)])
    adata = ad.AnnData(X=sp.csr_matrix(values), obs=obs, var=pd.DataFrame(index=genes))
    with ad.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(tmp_path / "m.zarr")
    uri = f"gs://{BUCKET}/v{version}.zarr"
    put(f"{tmp_path}/m.zarr/", f"{uri}/")
    for source in (str(tmp_path / "m.zarr"), uri):
        build(source, load_mapping("cellxgene"))
        cache = ChunkCache(tmp_path / "cache", limit_bytes=10**7)
        atlas = open_atlases(["tiny"], root=root, reader=CellReader(cache=cache))
        cells = atlas.select(ALL).sample(20, random_state=1)
        np.testing.assert_array_equal(atlas.fetch(cells).X.toarray(), values[cells[keys.CELL_INDEX]])
    assert cache.n_bytes() > 0
    atlas.fetch(cells)


class Faulty(AbstractFileSystem):
    """A file system whose reads fail as the client library fails when its own tries are over."""

    protocol = "faulty"
    code = 503

    def info(self, path, **kwargs):
        return {"name": path, "size": 3, "type": "file"}

    def cat_file(self, path, start=None, end=None, **kwargs):
        raise gcsfs.retry.HttpError({"code": self.code, "message": "as asked"})


@pytest.mark.parametrize(("code", "retryable"), [(503, True), (429, True), (400, False)])
def test_refusals_that_stay_are_a_service_error(monkeypatch, code, retryable):
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    monkeypatch.setattr(Faulty, "code", code)
    with pytest.raises(ServiceError, match=f"the storage service failed .{code}: as asked, {code}") as caught:
        RemoteFile("faulty://x").read_many([0], [3])
    assert caught.value.facts["retryable"] is retryable


def test_layout_read_over_ranges_equals_that_of_the_file(upload, proxy, tmp_path):
    uri = upload()
    with open_h5ad_handle(RangedReader(RemoteFile(uri)), uri=uri) as far, h5py.File(tmp_path / "m.h5ad") as near:
        for name in ("X/data", "X/indices", "X/indptr"):
            a, b = read_layout(far[name], uri=uri), read_layout(near[name], uri=uri)
            assert (a.shape, a.chunks, a.filters, a.dtype) == (b.shape, b.chunks, b.filters, b.dtype)
            np.testing.assert_array_equal([a.offsets, a.sizes, a.masks], [b.offsets, b.sizes, b.masks])


def test_the_tree_of_chunks_is_fetched_by_level_not_node_by_node(proxy, tmp_path, monkeypatch):
    """1,700 chunks lie under 50 nodes or so, in blocks of their own; that takes far fewer waits than nodes."""
    monkeypatch.setattr(remote, "BLOCK", 4096)
    monkeypatch.setattr(remote, "MAX_GAP", 0)
    path = tmp_path / "wide.h5ad"
    with h5py.File(path, "w") as h5:
        h5.create_group("obs"), h5.create_group("var")
        rng = np.random.default_rng(0)
        h5.create_dataset("X", data=rng.integers(0, 99, (1700, 512), dtype="u1"), chunks=(1, 512))
    put(path, f"gs://{BUCKET}/wide.h5ad")
    source = RemoteFile(f"gs://{BUCKET}/wide.h5ad")
    waits = []

    class Counting:
        uri, size = source.uri, source.size

        def read_many(self, offsets, sizes):
            waits.append(len(offsets))
            return source.read_many(offsets, sizes)

    with open_h5ad_handle(RangedReader(Counting()), uri=source.uri) as h5:
        layout = read_layout(h5["X"], uri=source.uri)
    assert (layout.sizes == 512).all()
    assert len(waits) < 15
    assert max(waits) > 20


def test_ranges_that_touch_share_a_request_and_far_ones_do_not():
    assert _merged([0, 10, 30], [10, 10, 5]) == [(0, 35)]
    assert _merged([10**7, 0], [10, 10]) == [(0, 10), (10**7, 10**7 + 10)]
    assert _merged([0, 5], [100, 10]) == [(0, 100)]
    assert _merged([], []) == []


def test_ranges_come_back_in_the_order_asked(proxy, tmp_path):
    data = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "bytes").write_bytes(data)
    put(tmp_path / "bytes", f"gs://{BUCKET}/bytes")
    file = RemoteFile(f"gs://{BUCKET}/bytes")
    ranges = [(200_000, 50), (0, 10), (5, 3), (5, 100_000), (299_990, 10), (0, 10)]
    got = file.read_many([a for a, _ in ranges], [n for _, n in ranges])
    assert got == [data[a : a + n] for a, n in ranges]


def test_a_missing_object_and_a_missing_bucket_are_not_found(proxy):
    for uri in (f"gs://{BUCKET}/nothing.h5ad", "gs://no-such-bucket-here/x.h5ad"):
        with pytest.raises(NotFoundError, match="does not exist; check the bucket and the name"):
            fingerprint(uri)
