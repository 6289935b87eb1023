"""Writing an atlas: new datasets merged into the index, sorted, and put in place so that no reader sees half of it.

In: the cells of the new datasets as a table, their records. Out: ``cells.parquet``, gene lists and ``atlas.json``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from haystack_kernel import keys
from haystack_kernel.atlas.h5ad import sha256_of
from haystack_kernel.atlas.record import INDEX_FILE, RECORD_FILE, AtlasRecord, load_record
from haystack_kernel.errors import StorageError
from haystack_kernel.schema import FileRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.atlas.genes import GeneSpace
    from haystack_kernel.atlas.record import DatasetRecord

SORT_BY = (keys.DATASET, keys.PERTURBATION, keys.CELL_TYPE, keys.DONOR, keys.CELL_INDEX)
ROWS_PER_GROUP = 100_000
_GROUPS = {
    "cell_types": {"id": keys.CELL_TYPE_ID, "name": keys.CELL_TYPE},
    "perturbations": {"name": keys.PERTURBATION, "type": keys.PERTURBATION_TYPE},
    "donors": {"donor_id": keys.DONOR},
    "tissues": {"id": keys.TISSUE_ID, "name": keys.TISSUE},
    "diseases": {"id": keys.DISEASE_ID, "name": keys.DISEASE},
}


def publish(folder: Path, cells: pa.Table, datasets: dict[str, DatasetRecord], genes: GeneSpace) -> AtlasRecord:
    """Merge ``datasets`` into the atlas in ``folder``; a dataset of the same name is replaced.

    Everything is written beside the atlas first and then renamed, ``atlas.json`` last. Builds of one atlas at the same
    time wait for each other.

    Raises
    ------
    StorageError
        The folder cannot be written: disk full, no permission.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder), _staging(folder) as staging:
            before = load_record(folder.name, folder.parent) if (folder / RECORD_FILE).is_file() else None
            gene_file = _write_genes(staging, genes)
            merged = {name: entry.model_copy(update={"genes": gene_file}) for name, entry in datasets.items()}
            kept = {name: entry for name, entry in before.datasets.items() if name not in merged} if before else {}
            _write_cells(staging / INDEX_FILE, cells, folder / INDEX_FILE, list(kept))
            record = _record(staging / INDEX_FILE, folder.name, dict(sorted({**kept, **merged}.items())))
            (staging / RECORD_FILE).write_text(record.model_dump_json(indent=1), encoding="utf-8")
            for path in (gene_file.path, INDEX_FILE, RECORD_FILE):
                (staging / path).replace(folder / path)
            in_use = {entry.genes.path for entry in record.datasets.values()}
            for stale in {path.name for path in folder.glob("genes-*.json")} - in_use:
                (folder / stale).unlink()
    except (OSError, duckdb.IOException) as error:
        if isinstance(error, StorageError):
            raise
        msg = f"atlas {folder} cannot be written ({error}); free space or choose another root. The old atlas is intact"
        raise StorageError(msg, path=str(folder)) from error
    return record


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows: the renames stay atomic, only concurrent builds are not serialised
        yield
        return
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    for left in folder.glob(".staging-*"):  # of a build that was killed; the lock says it is not running
        shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_genes(staging: Path, genes: GeneSpace) -> FileRef:
    columns = None if genes.is_whole else list(genes.columns)
    data = json.dumps({"symbols": list(genes.symbols), "columns": columns}).encode()
    digest = hashlib.sha256(data).hexdigest()
    path = f"genes-{digest[:16]}.json"
    (staging / path).write_bytes(data)
    return FileRef(path=path, sha256=digest, n_bytes=len(data))


def _write_cells(path: Path, cells: pa.Table, old: Path, kept: list[str]) -> None:
    if kept:
        texts = [field.name for field in cells.schema if pa.types.is_dictionary(field.type)]
        before = pq.read_table(old, read_dictionary=texts, filters=[(keys.DATASET, "in", kept)])
        cells = pa.concat_tables([before.select(cells.column_names).cast(cells.schema), cells])
    cells = cells.unify_dictionaries().combine_chunks()
    order = np.lexsort([_ranks(cells[name].combine_chunks()) for name in reversed(SORT_BY)])
    ordered = cells.take(pa.array(order))
    plain = {"compression": "zstd", "store_schema": False}  # texts read as plain strings everywhere
    pq.write_table(ordered, path, row_group_size=ROWS_PER_GROUP, **plain)


def _ranks(column: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Numbers that sort as the values do."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not pa.types.is_dictionary(column.type):
        return np.asarray(column)
    place = np.argsort(np.argsort(np.array(column.dictionary.to_pylist(), dtype=str)))
    ranks: np.ndarray[Any, Any] = place[np.asarray(column.indices)]
    return ranks


def _record(index: Path, name: str, datasets: dict[str, DatasetRecord]) -> AtlasRecord:
    ref = FileRef(path=INDEX_FILE, sha256=sha256_of(index), n_bytes=index.stat().st_size)
    parts = [ref.sha256, *(f"{key}:{entry.genes.sha256}:{entry.source.digest}" for key, entry in datasets.items())]
    summary = _summary(index)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    n_cells = pq.read_metadata(index).num_rows
    return AtlasRecord(name=name, datasets=datasets, n_cells=n_cells, index=ref, digest=digest, summary=summary)


def _summary(index: Path) -> dict[str, Any]:
    """Counts of what the atlas holds, most frequent first."""
    connection = duckdb.connect(":memory:")
    try:
        cells = connection.from_parquet(glob_literal(index))
        found: dict[str, Any] = {"n_control": cells.filter(keys.IS_CONTROL).aggregate("count(*)").fetchall()[0][0]}
        for name, columns in _GROUPS.items():
            listed = ", ".join(columns.values())
            rows = cells.aggregate(f"{listed}, count(*) AS n_cells", listed).order(f"n_cells DESC, {listed}").fetchall()
            entries = [dict(zip((*columns, "n_cells"), row, strict=True)) for row in rows]
            found[name] = [entry for entry in entries if entry.get("name", entry.get("donor_id"))]
    finally:
        connection.close()
    return found


def glob_literal(path: Path) -> str:
    """Return a path that DuckDB, which reads every path as a pattern, takes literally."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))
