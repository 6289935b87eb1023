"""Check that an atlas and its source files match its record, and record the new path of a file that has moved.

In: the name of an atlas. Out: a status and a remedy for each file; imports neither pandas nor DuckDB.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.atlas.record import (
    DatasetRecord,
    atlas_folder,
    find_part,
    index_files,
    load_record,
    source_uri,
)
from haystack_kernel.errors import InvalidInputError, NotFoundError, StorageError

if TYPE_CHECKING:
    from haystack_kernel.atlas.record import AtlasRecord, SourceFile
    from haystack_kernel.atlas.sources.h5ad import Fingerprint
    from haystack_kernel.schema import FileRef


def check_atlas(name: str, root: str | Path, *, deep: bool = False) -> dict[str, Any]:
    """Compare an atlas and its source files with its record.

    The index is always read completely. A source file with the recorded size and time counts as unchanged; if only its
    time differs, the file is read and its digest decides.

    Parameters
    ----------
    name
        Name of the atlas.
    root
        Folder of the atlases.
    deep
        Read every source file and compare its digest, even if its size and time match.

    Returns
    -------
    ``name``, ``ok``, ``deep`` and ``files``: a list of ``file``, ``dataset`` ("" for several), ``status`` (``ok``,
    ``missing``, ``truncated``, ``changed``, ``damaged``), ``detail`` and ``remedy`` ("" if nothing needs to be done).
    """
    record = load_record(name, root)
    folder = atlas_folder(name, root)
    files = [_check_part(ref, folder, record) for ref in index_files(record)]
    seen: dict[str, dict[str, str]] = {}
    for dataset, entry in record.datasets.items():
        uri = source_uri(entry.source, folder)
        found = _check_source(entry.source, uri, deep=deep) if uri not in seen else seen[uri]
        seen[uri] = found
        remedy = _remedy(name, dataset, found["status"])
        files.append({"file": uri, "dataset": dataset, **found, "remedy": remedy})
    return {"name": name, "ok": all(one["status"] == "ok" for one in files), "deep": deep, "files": files}


def check_whole(record: AtlasRecord, folder: Path) -> None:
    """Check that the parts of the index and the source files exist and have the recorded sizes.

    Raises
    ------
    StorageError
        A part of the index is missing or has another size.
    NotFoundError
        A source file has moved.
    InvalidInputError
        A source file has changed or is truncated.
    """
    from haystack_kernel.atlas.sources.h5ad import fingerprint

    for ref in index_files(record):
        path = find_part(ref, folder)
        if not path.is_file() or path.stat().st_size != ref.n_bytes:
            msg = (
                f"{folder / ref.path} is missing or damaged: it is not the file that atlas {record.name!r} names. "
                f"Build it again; `haystack atlas check {record.name}` says how"
            )
            raise StorageError(msg, path=str(path))
    for dataset, entry in record.datasets.items():
        uri = source_uri(entry.source, folder)
        again = (
            f"put it back, or give its new path with `haystack atlas move {record.name} NEWPATH --dataset {dataset}`"
        )
        try:
            now = fingerprint(uri, with_digest=False)
        except NotFoundError as error:
            msg = f"the cells of atlas {record.name!r} were read from {uri}, which does not exist any more; {again}"
            raise NotFoundError(msg, path=uri, atlas=record.name) from error
        if now.n_bytes != entry.source.n_bytes:
            msg = (
                f"{uri} has {now.n_bytes} bytes, atlas {record.name!r} was built from {entry.source.n_bytes}: it was "
                f"changed or truncated; restore it, or build dataset {dataset!r} of atlas {record.name!r} again"
            )
            raise InvalidInputError(msg, path=uri, atlas=record.name)


def move_source(name: str, new: str, *, root: str | Path, dataset: str | None = None) -> dict[str, Any]:
    """Record the new path of a source file that has moved; it must be the same file byte for byte.

    Parameters
    ----------
    name
        Name of the atlas.
    new
        New path or URI of the file.
    root
        Folder of the atlases.
    dataset
        A dataset of that file; None if the atlas has one file only. All datasets of the file move with it.

    Returns
    -------
    ``name``, ``datasets`` that moved, and ``source`` with the old and the new path.

    Raises
    ------
    NotFoundError
        The atlas, the dataset or the file does not exist.
    InvalidInputError
        The atlas has several files and no dataset is given, or the file is a different one.
    """
    from haystack_kernel.atlas.publish import republish
    from haystack_kernel.atlas.sources.h5ad import fingerprint

    record, folder = load_record(name, root), atlas_folder(name, root)
    old = _file_of(record, dataset).source
    uri = new if "://" in new else str(Path(new).expanduser().absolute())
    now = fingerprint(uri)
    if not _same_bytes(old, now):
        msg = (
            f"{uri} is not the file that atlas {name!r} was built from ({now.n_bytes} bytes, {now.digest[:19]}; it was "
            f"{old.n_bytes} bytes, {old.digest[:19]}); build the dataset again from it with `haystack atlas build`"
        )
        raise InvalidInputError(msg, path=uri, atlas=name)
    inside = "://" not in uri and Path(uri).is_relative_to(folder.absolute())
    update: dict[str, str | float] = {
        "uri": str(Path(uri).relative_to(folder.absolute())) if inside else uri,
        "mtime": now.mtime,
        "digest": now.digest,  # later looks compare with the file at its new place
    }

    def point_at(entry: DatasetRecord) -> DatasetRecord:
        moves = entry.source.uri == old.uri
        return entry.model_copy(update={"source": entry.source.model_copy(update=update)}) if moves else entry

    def change(record: AtlasRecord) -> AtlasRecord:
        return record.model_copy(update={"datasets": {key: point_at(one) for key, one in record.datasets.items()}})

    republish(folder, change)
    moved = sorted(key for key, entry in record.datasets.items() if entry.source.uri == old.uri)
    return {"name": name, "datasets": moved, "source": {"was": source_uri(old, folder), "now": uri}}


def _check_part(ref: FileRef, folder: Path, record: AtlasRecord) -> dict[str, str]:
    from haystack_kernel.atlas.sources.h5ad import sha256_of

    path = folder / ref.path
    of = [key for key, entry in record.datasets.items() if ref.path in {entry.cells.path, entry.groups.path}]
    dataset = of[0] if of else ""
    if not path.is_file():
        found = {"status": "missing", "detail": "part of the index"}
    elif path.stat().st_size != ref.n_bytes:
        found = {"status": "damaged", "detail": f"{path.stat().st_size} bytes, {ref.n_bytes} were written"}
    else:
        same = sha256_of(path) == ref.sha256
        found = {"status": "ok" if same else "damaged", "detail": "" if same else "digest differs"}
    remedy = "" if found["status"] == "ok" else _build_again(record.name, dataset)
    return {"file": str(path), "dataset": dataset, **found, "remedy": remedy}


def _check_source(source: SourceFile, uri: str, *, deep: bool) -> dict[str, str]:
    from haystack_kernel.atlas.sources.h5ad import fingerprint

    try:
        now = fingerprint(uri, with_digest=False)
        if now.n_bytes != source.n_bytes:
            status = "truncated" if now.n_bytes < source.n_bytes else "changed"
            return {"status": status, "detail": f"{now.n_bytes} bytes, the atlas was built from {source.n_bytes}"}
        if not deep and now.mtime == source.mtime and "://" not in uri:
            return {"status": "ok", "detail": "size and time agree"}
        same = fingerprint(uri).digest == source.digest
    except NotFoundError:
        return {"status": "missing", "detail": "moved or deleted"}
    return {"status": "ok" if same else "changed", "detail": f"digest {'agrees' if same else 'differs'}"}


def _same_bytes(old: SourceFile, now: Fingerprint) -> bool:
    """Compare digests. That of a remote file covers metadata, which changes when it moves: then its bytes are read.

    What the bytes were is not known of a file that was remote when it was indexed, nor of a store: then sizes decide.
    """
    from haystack_kernel.atlas.sources.h5ad import remote_sha256
    from haystack_kernel.atlas.sources.zarr_store import is_zarr

    if old.digest == now.digest or old.n_bytes != now.n_bytes:
        return old.digest == now.digest
    if not old.digest.startswith("sha256:") or is_zarr(now.uri):
        return True
    return "://" in now.uri and old.digest == f"sha256:{remote_sha256(now.uri)}"


def _file_of(record: AtlasRecord, dataset: str | None) -> DatasetRecord:
    known = ", ".join(record.datasets)
    if dataset is not None:
        if dataset not in record.datasets:
            msg = f"atlas {record.name!r} has no dataset {dataset!r}; it has {known}"
            raise NotFoundError(msg, atlas=record.name, dataset=dataset)
        return record.datasets[dataset]
    if len({entry.source.uri for entry in record.datasets.values()}) > 1:
        msg = f"atlas {record.name!r} has several files; name the dataset that has moved with --dataset: {known}"
        raise InvalidInputError(msg, atlas=record.name)
    return next(iter(record.datasets.values()))


def _remedy(name: str, dataset: str, status: str) -> str:
    if status == "ok":
        return ""
    if status == "missing":
        return f"put the file back, or `haystack atlas move {name} NEWPATH --dataset {dataset}`"
    return f"restore the file, or {_build_again(name, dataset)}"


def _build_again(name: str, dataset: str) -> str:
    named = f" --dataset {dataset}" if dataset else ""
    return f"`haystack atlas build FILE --name {name}{named} --add` with the schema of `haystack atlas info {name}`"
