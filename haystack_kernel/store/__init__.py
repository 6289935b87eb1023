"""Where runs are kept: run folders over fsspec, and the checks of ids and addresses."""

from haystack_kernel.store.index import IndexedRun, RunIndex
from haystack_kernel.store.lease import Lease, Worker, find_worker, taken
from haystack_kernel.store.runs import RunStore, StoredFile
from haystack_kernel.store.tables import read_csv, read_h5ad, write_csv, write_h5ad
from haystack_kernel.store.uris import check_run_id, check_storage, hide_home, new_run_id

__all__ = [
    "IndexedRun",
    "Lease",
    "RunIndex",
    "RunStore",
    "StoredFile",
    "Worker",
    "check_run_id",
    "check_storage",
    "find_worker",
    "hide_home",
    "new_run_id",
    "read_csv",
    "read_h5ad",
    "taken",
    "write_csv",
    "write_h5ad",
]
