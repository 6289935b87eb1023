"""Where runs are kept: run folders over fsspec, and the checks of ids and addresses."""

from haystack_kernel.store.calls import CallFolder, bills_of, to_transcript, usage_of
from haystack_kernel.store.earlier import finished_like
from haystack_kernel.store.given import (
    IN_MEMORY,
    dataset_name,
    is_cells,
    is_kept,
    keep_cells,
    plain_cells,
    require_cells,
    shown_name,
)
from haystack_kernel.store.index import IndexedRun, RunIndex
from haystack_kernel.store.kept import content_of, keep_with_run, locate, recall, take_along
from haystack_kernel.store.lease import Lease, Worker, find_worker, taken
from haystack_kernel.store.runs import RunStore, StoredFile
from haystack_kernel.store.tables import parse_csv, read_csv, read_h5ad, read_with_labels, to_csv, write_csv, write_h5ad
from haystack_kernel.store.uris import check_run_id, check_storage, hide_home, new_run_id

__all__ = [
    "CallFolder",
    "IN_MEMORY",
    "IndexedRun",
    "Lease",
    "RunIndex",
    "RunStore",
    "StoredFile",
    "Worker",
    "bills_of",
    "check_run_id",
    "content_of",
    "check_storage",
    "dataset_name",
    "find_worker",
    "finished_like",
    "hide_home",
    "is_cells",
    "is_kept",
    "keep_cells",
    "keep_with_run",
    "locate",
    "new_run_id",
    "parse_csv",
    "plain_cells",
    "read_csv",
    "read_h5ad",
    "read_with_labels",
    "require_cells",
    "recall",
    "shown_name",
    "take_along",
    "taken",
    "to_csv",
    "to_transcript",
    "usage_of",
    "write_csv",
    "write_h5ad",
]
