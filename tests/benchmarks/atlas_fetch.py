"""Reading 512 scattered cells of a large CSR h5ad: from this disk, and from a bucket behind a delay of 30 ms a request.

In: a folder to work in, the size. Out: rows of the benchmark. Run alone it prints them as JSON; FULL=1: full size.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

SERVERS = Path(__file__).parents[1] / "servers"
BUCKET, DELAY_S, N_FETCHED, N_GENES = "bench", 0.03, 512, 2_000
_SERVE = f"""
import sys
sys.path.insert(0, {str(SERVERS)!r})
from slow import slow_proxy
from storage import storage_server
with storage_server({BUCKET!r}) as address, slow_proxy(address, delay_s={DELAY_S}) as proxy:
    print(address, proxy.address, flush=True)
    sys.stdin.read()
"""


def best_of(work, *, repeats=3):
    """Shortest wall time of ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def write_source(path, n_cells, *, rng):
    """Counts of about Kang's density, gzip; blocks of 2,000 cells repeat."""
    dense = rng.poisson(rng.gamma(0.4, 0.15, size=N_GENES), size=(2_000, N_GENES))
    block = csr_matrix(dense.astype(np.float32))
    adata = ad.AnnData(vstack([block] * (n_cells // 2_000), format="csr"))
    adata.var_names = [f"GENE{i}" for i in range(N_GENES)]
    adata.obs = pd.DataFrame({"cell_type": "B cell", "donor": "d"}, index=[str(i) for i in range(n_cells)])
    adata.write_h5ad(path, compression="gzip")


def open_built(source, *, folder):
    """The atlas of one source, opened, and all its cells."""
    from haystack_kernel.atlas import build_atlas, load_mapping, open_atlases
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.schema import CellSet

    mapping = folder / "mapping.yaml"
    mapping.write_text("cell_type: cell_type\ndonor: donor\n", encoding="utf-8")
    mapped = load_mapping(str(mapping))
    build_atlas(str(source), name="large", root=folder, mapping=mapped, knowledge=load_knowledge())
    collection = open_atlases(["large"], root=folder)
    return collection, collection.select(CellSet(atlas="large", dataset="large", is_control=True))


def scattered(table, *, rng):
    """Rows of the table in the order of the file."""
    return table.iloc[rng.choice(len(table), N_FETCHED, replace=False)].sort_values("cell_index")


def local_disk(folder, *, full):
    """Against anndata's backed mode."""
    rng, n_cells, folder = np.random.default_rng(1), 200_000 if full else 20_000, folder / "local"
    folder.mkdir()
    write_source(folder / "large.h5ad", n_cells, rng=rng)
    collection, table = open_built(folder / "large.h5ad", folder=folder)
    chosen = scattered(table, rng=rng)
    rows = chosen["cell_index"].to_numpy()

    def read_backed():
        return ad.read_h5ad(folder / "large.h5ad", backed="r")[rows].to_memory()

    first = best_of(partial(collection.fetch, chosen), repeats=1)
    reference = best_of(read_backed)
    ours = best_of(partial(collection.fetch, chosen))
    if (collection.fetch(chosen).X != read_backed().X).nnz:
        raise SystemExit("the counts read differ from anndata's")
    return {
        "work": f"{N_FETCHED} scattered cells of {n_cells:,}, gzip, local disk",
        "ours": {"fetch_s": ours, "first_s": first},
        "reference": {"anndata_backed_s": reference},
        "ratio": reference / ours,
        "goal": "not slower",
        "met": ours <= reference,
    }


@contextmanager
def servers():
    """Addresses of a storage server and of the delaying proxy before it, both in a process of their own."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process.stdout.readline().split()
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def use_server(address):
    """A file system that talks to ``address``, as new ones of this process do from now on."""
    os.environ.update(STORAGE_EMULATOR_HOST=address, GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false")
    import gcsfs

    gcsfs.GCSFileSystem.clear_instance_cache()
    return gcsfs.GCSFileSystem()


def read_over_gcsfs(fs, path, rows):
    """H5py over gcsfs: one read after the other."""
    import h5py

    with fs.open(path, "rb") as handle, h5py.File(handle) as h5:
        indptr = h5["X/indptr"][:]
        ranges = [slice(int(indptr[row]), int(indptr[row + 1])) for row in rows]
        values = [(h5["X/data"][one], h5["X/indices"][one]) for one in ranges]
    lengths = np.cumsum([0, *(len(data) for data, _ in values)])
    data, indices = (np.concatenate(part) for part in zip(*values, strict=True))
    return csr_matrix((data, indices, lengths), shape=(len(rows), N_GENES))


def fetch_anew(folder, number, first, other):
    """Seconds of three fetches that begin without a layout or a chunk kept, and the counts of ``first``."""
    from haystack_kernel.atlas import open_atlases
    from haystack_kernel.atlas.fetch import CellReader
    from haystack_kernel.atlas.sources.chunk_cache import ChunkCache

    for path in (folder / "large").glob("layout-*.npz"):
        path.unlink()
    reader = CellReader(cache=ChunkCache(folder / f"cache{number}", limit_bytes=2**30))
    collection = open_atlases(["large"], root=folder, reader=reader)
    times = [best_of(partial(collection.fetch, cells), repeats=1) for cells in (first, other, first)]
    return times, collection.fetch(first).X


def bucket(folder, *, full):
    """Against h5py over gcsfs; ours with nothing known of the file, then other cells, then the same cells again.

    Both sides start anew each time and the shortest counts: three times ours, twice the reference, which takes minutes.
    """
    rng, n_cells, folder = np.random.default_rng(2), 200_000 if full else 20_000, folder / "bucket"
    folder.mkdir()
    write_source(folder / "large.h5ad", n_cells, rng=rng)
    with servers() as (address, delayed):
        use_server(address).put_file(str(folder / "large.h5ad"), f"{BUCKET}/large.h5ad")
        _, table = open_built(f"gs://{BUCKET}/large.h5ad", folder=folder)
        first, other = scattered(table, rng=rng), scattered(table, rng=rng)
        rows = first["cell_index"].to_numpy()
        fs = use_server(delayed)
        ours = [fetch_anew(folder, number, first, other) for number in range(3)]
        cold, warm, again = (min(times) for times in zip(*(times for times, _ in ours), strict=True))
        truths = []
        reference = best_of(lambda: truths.append(read_over_gcsfs(fs, f"{BUCKET}/large.h5ad", rows)), repeats=2)
        if (ours[0][1] != truths[0]).nnz:
            raise SystemExit("the counts read differ from h5py's")
    return {
        "work": f"{N_FETCHED} scattered cells of {n_cells:,}, gzip, bucket with {DELAY_S * 1000:.0f} ms a request",
        "ours": {"nothing_known_s": cold, "other_cells_s": warm, "same_cells_s": again},
        "reference": {"h5py_over_gcsfs_s": reference},
        "ratio": reference / cold,
        "goal": "<= 5 s and >= 5x",
        "met": cold <= 5 and reference >= 5 * cold,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for row in (local_disk, bucket):
            print(json.dumps(row(Path(name), full=os.environ.get("FULL") == "1"), indent=1))
