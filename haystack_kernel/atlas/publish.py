"""Write an atlas: parts of the index for new datasets, put in place so that no reader sees an incomplete index.

In: the sorted cells of the new datasets, their records. Out: the parts, gene lists and ``atlas.json``; the atlas
changes at the moment when the latter is renamed.
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

from haystack_kernel import keys
from haystack_kernel.atlas.grouping import N_CELLS, write_cells, write_groups
from haystack_kernel.atlas.record import (
    CELLS_FOLDER,
    GROUPS_FOLDER,
    RECORD_FILE,
    RETIRED_FOLDER,
    AtlasRecord,
    index_files,
    load_record,
)
from haystack_kernel.atlas.shield import shielded
from haystack_kernel.atlas.sources.h5ad import sha256_of
from haystack_kernel.errors import ContractError, InvalidInputError, StorageError
from haystack_kernel.schema import FileRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from haystack_kernel.atlas.grouping import GroupedCells
    from haystack_kernel.atlas.record import DatasetRecord
    from inference.genes import Genes

_KEEP_S = 24 * 3600.0  # replaced parts stay readable so long, for processes that opened the atlas before
_SUMMARIES = {
    "controls": {"kind": keys.CONTROL_KIND},
    "cell_types": {"id": keys.CELL_TYPE_ID, "name": keys.CELL_TYPE},
    "perturbations": {"name": keys.PERTURBATION, "type": keys.PERTURBATION_TYPE},
    "donors": {"donor_id": keys.DONOR},
    "tissues": {"id": keys.TISSUE_ID, "name": keys.TISSUE},
    "diseases": {"id": keys.DISEASE_ID, "name": keys.DISEASE},
}


def publish_index(
    folder: Path, grouped: GroupedCells, datasets: dict[str, DatasetRecord], *, genes: Genes, add: bool
) -> AtlasRecord:
    """Write the parts of ``datasets`` and name them in ``atlas.json``; parts of other datasets are not changed.

    New parts have names of their own and lie beside the old ones until ``atlas.json`` is renamed, so a build that is
    killed at any moment leaves the old atlas. Concurrent builds of one atlas wait for each other.

    Raises
    ------
    InvalidInputError
        ``add`` is False and the atlas holds other datasets.
    StorageError
        The folder cannot be written: disk full, no permission.
    """
    with _written(folder) as staging:
        before = record_before(folder, {name: entry.label for name, entry in datasets.items()}, add=add)
        gene_file = _write_genes(staging, genes)
        spans = grouped.datasets()
        made = {name: _write_parts(staging, name, grouped, groups=spans[name]) for name in datasets}
        merged = {
            name: entry.model_copy(
                update={"genes": gene_file, **made[name], "n_groups": spans[name][1] - spans[name][0]}
            )
            for name, entry in datasets.items()
        }
        kept = {name: entry for name, entry in before.datasets.items() if name not in merged} if before else {}
        entries = dict(sorted({**kept, **merged}.items()))
        parts = [_find(entry.groups, staging, folder) for entry in entries.values()]
        record = AtlasRecord(
            name=folder.name,
            datasets=entries,
            n_cells=sum(entry.n_cells for entry in entries.values()),
            digest=_digest(entries),
            summary=_summary(parts),
        )
        _put_in_place(staging, folder, record)
    return record


def republish(folder: Path, change: Callable[[AtlasRecord], AtlasRecord]) -> AtlasRecord:
    """Replace ``atlas.json`` by a changed one and nothing else.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    with _written(folder) as staging:
        record = change(load_record(folder.name, folder.parent))
        _put_in_place(staging, folder, record)
    return record


def record_before(folder: Path, datasets: Mapping[str, str], *, add: bool) -> AtlasRecord | None:
    """Record of the atlas that a build of ``datasets`` changes; None if this version finds none that it can read.

    Parameters
    ----------
    datasets
        Name of each dataset to build -> what its file or the user calls it.

    Raises
    ------
    InvalidInputError
        ``add`` is False and the atlas holds other datasets; or it holds one of the same name that is called otherwise.
    """
    if not (folder / RECORD_FILE).is_file():
        return None
    try:
        before = load_record(folder.name, folder.parent)
    except ContractError:
        if add:
            raise
        return None
    if not add and (others := sorted(set(before.datasets) - set(datasets))):
        msg = (
            f"atlas {folder.name!r} exists and holds {', '.join(others)}; add {', '.join(datasets)} to it with --add "
            "(add=True), or choose another name"
        )
        raise InvalidInputError(msg, name=folder.name, datasets=others)
    for name, label in datasets.items():
        held = before.datasets[name].label if name in before.datasets else ""
        if held and label and held != label:
            msg = (
                f"dataset {label!r} would replace {held!r} of atlas {folder.name!r}, because both are called {name} "
                "there; give this file another name with --dataset NAME"
            )
            raise InvalidInputError(msg, name=name, labels=[held, label])
    return before


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """Yield a staging folder under the lock of the atlas; failures to write become StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder), _staging(folder) as staging:
            yield staging
    except (OSError, duckdb.IOException) as error:
        if isinstance(error, StorageError):
            raise
        msg = f"atlas {folder} cannot be written ({error}); free space or choose another root. The old atlas is intact"
        raise StorageError(msg, path=str(folder)) from error


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
    for left in folder.glob(".staging-*"):  # left by a build that was killed: the lock is free, so it does not run
        shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_genes(staging: Path, genes: Genes) -> FileRef:
    is_whole = genes.columns == tuple(range(len(genes.columns)))
    data = json.dumps({"symbols": list(genes.names), "columns": None if is_whole else list(genes.columns)}).encode()
    digest = hashlib.sha256(data).hexdigest()
    path = f"genes-{digest[:16]}.json"
    (staging / path).write_bytes(data)
    return FileRef(path=path, sha256=digest, n_bytes=len(data))


def _write_parts(staging: Path, name: str, grouped: GroupedCells, *, groups: tuple[int, int]) -> dict[str, FileRef]:
    made = {}
    for kind, parts, write in (("cells", CELLS_FOLDER, write_cells), ("groups", GROUPS_FOLDER, write_groups)):
        (staging / parts).mkdir(exist_ok=True)
        path = staging / parts / f"{name}.parquet"
        write(path, grouped, groups=groups)
        digest = sha256_of(path)
        path = path.replace(path.with_name(f"{name}-{digest[:12]}.parquet"))
        made[kind] = FileRef(path=f"{parts}/{path.name}", sha256=digest, n_bytes=path.stat().st_size)
    return made


def _find(ref: FileRef, staging: Path, folder: Path) -> Path:
    return staging / ref.path if (staging / ref.path).is_file() else folder / ref.path


def _put_in_place(staging: Path, folder: Path, record: AtlasRecord) -> None:
    for path in sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file()):
        if path.parent != Path() and (folder / path.parent).is_file():  # version 1 had one file of this name
            (folder / path.parent).unlink()
        (folder / path).parent.mkdir(exist_ok=True)
        (staging / path).replace(folder / path)
    (staging / RECORD_FILE).write_text(record.model_dump_json(indent=1), encoding="utf-8")
    (staging / RECORD_FILE).replace(folder / RECORD_FILE)
    _retire(folder, record)


def _retire(folder: Path, record: AtlasRecord) -> None:
    """Move parts that the record no longer names aside, and delete those that were moved a day ago."""
    now = (folder / RECORD_FILE).stat().st_mtime
    named = {ref.path for ref in index_files(record)}
    aside = folder / RETIRED_FOLDER
    for stale in [path for parts in (CELLS_FOLDER, GROUPS_FOLDER) for path in (folder / parts).glob("*.parquet")]:
        if stale.relative_to(folder).as_posix() not in named:
            aside.mkdir(exist_ok=True)
            moved = stale.replace(aside / stale.name)
            moved.touch()
    unused = [path for path in folder.glob("genes-*.json") if path.name not in named]
    for old in (*aside.glob("*.parquet"), *unused):
        if old.stat().st_mtime < now - _KEEP_S:
            old.unlink()


def _digest(datasets: dict[str, DatasetRecord]) -> str:
    parts = [
        f"{key}:{entry.cells.sha256}:{entry.genes.sha256}:{entry.source.digest}" for key, entry in datasets.items()
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@shielded
def _summary(groups: list[Path]) -> dict[str, Any]:
    """Numbers of cells by cell type, perturbation and so on, most frequent first."""
    connection = duckdb.connect(":memory:")
    try:
        table = connection.sql(groups_query([glob_literal(path) for path in groups], connection))
        total = f"sum({N_CELLS})::BIGINT"
        found: dict[str, Any] = {
            "n_control": table.filter(keys.IS_CONTROL).aggregate(f"coalesce({total}, 0)").fetchall()[0][0]
        }
        for name, columns in _SUMMARIES.items():
            listed = ", ".join(columns.values())
            among = table.filter(keys.IS_CONTROL) if name == "controls" else table
            rows = among.aggregate(f"{listed}, {total} AS n_cells", listed).order(f"n_cells DESC, {listed}").fetchall()
            entries = [dict(zip((*columns, "n_cells"), row, strict=True)) for row in rows]
            told = [key for key in ("name", "donor_id", "kind") if key in columns]
            found[name] = [entry for entry in entries if entry[told[0]]]
    finally:
        connection.close()
    return found


def groups_query(files: list[str], connection: duckdb.DuckDBPyConnection) -> str:
    """Query of the groups in several parts; one that was written before a column existed has the empty text in it."""
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    known = f"SELECT * FROM read_parquet([{listed}], union_by_name=true)"
    has = {row[0] for row in connection.sql(f"DESCRIBE {known}").fetchall()}
    return known if keys.CONTROL_KIND in has else known.replace("*", f"*, '' AS {keys.CONTROL_KIND}", 1)


def glob_literal(path: Path) -> str:
    """Return a path that DuckDB, which reads every path as a pattern, takes literally."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))
