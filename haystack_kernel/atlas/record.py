"""What ``atlas.json`` holds, and reading it: which atlases there are, what is in one, whether its files are intact.

In: the folder of all atlases. Out: ``AtlasRecord``, lists and summaries; imports neither pandas nor DuckDB.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from haystack_kernel.atlas.mapping import Mapping
from haystack_kernel.errors import ContractError, InvalidInputError, NotFoundError, StorageError
from haystack_kernel.schema import NAME_PATTERN, FileRef, Frozen

ATLAS_VERSION = 1
RECORD_FILE = "atlas.json"
INDEX_FILE = "cells.parquet"
DATASET_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class Unmapped(Frozen):
    """A label that was kept as it stands because nothing known answers to it."""

    kind: str
    label: str
    n_cells: int
    nearest: tuple[str, ...] = Field(default=(), description="known terms that come closest")


class SourceFile(Frozen):
    """The h5ad that holds the expression; ``uri`` is relative to the atlas folder where the file lies in it."""

    uri: str
    n_bytes: int
    mtime: float = Field(description="seconds since 1970; 0 for a remote file")
    digest: str = Field(description="sha256:… of the bytes, or store:… of what a remote store says of them")
    counts_in: str = Field(description="X, raw/X or layers/…")
    encoding: str = Field(description="csr, csc or dense")
    n_cells: int
    n_columns: int


class DatasetRecord(Frozen):
    """One dataset of an atlas: its file, how it was read, its genes."""

    source: SourceFile
    mapping: Mapping
    genes: FileRef
    n_cells: int
    n_genes: int
    gene_symbols_from: str
    duplicate_genes: tuple[str, ...] = ()
    unmapped: tuple[Unmapped, ...] = ()


class AtlasRecord(Frozen):
    """The whole of ``atlas.json``; ``digest`` covers the index, the gene lists and the digests of the sources."""

    schema_version: int = ATLAS_VERSION
    name: str
    datasets: dict[str, DatasetRecord]
    n_cells: int
    index: FileRef
    digest: str
    summary: dict[str, Any] = Field(default_factory=dict, description="cell types, perturbations, donors with counts")


def list_atlases(root: str | Path) -> list[str]:
    """Names of the atlases under ``root``, sorted; empty where there is no such folder."""
    folder = Path(root)
    if not folder.is_dir():
        return []
    return sorted(path.parent.name for path in folder.glob(f"*/{RECORD_FILE}"))


def load_record(name: str, root: str | Path) -> AtlasRecord:
    """Read ``atlas.json`` of one atlas.

    Raises
    ------
    InvalidInputError
        ``name`` cannot be the name of an atlas.
    NotFoundError
        No such atlas; the message lists those there are.
    ContractError
        The file is of another version or damaged.
    """
    path = atlas_folder(name, root) / RECORD_FILE
    if not path.is_file():
        known = list_atlases(root)
        msg = (
            f"no atlas {name!r} under {root}; there is {', '.join(known) or 'none'}. Build it with "
            f"'haystack atlas build FILE.h5ad --name {name} --schema …'"
        )
        raise NotFoundError(msg, name=name, known=known)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != ATLAS_VERSION:
            msg = f"{path} has version {version}, this HAYSTACK reads {ATLAS_VERSION}; build the atlas again"
            raise ContractError(msg, path=str(path), version=version)
        return AtlasRecord.model_validate(values)
    except (ValidationError, ValueError, UnicodeDecodeError) as error:
        msg = f"{path} is damaged ({str(error).splitlines()[0]}); build the atlas again"
        raise ContractError(msg, path=str(path)) from error


def atlas_info(name: str, root: str | Path) -> dict[str, Any]:
    """What one atlas holds, as plain JSON values.

    Returns
    -------
    ``name``, ``n_cells``, ``n_control``, ``digest``, ``path``, ``datasets`` (per dataset its file, cells, genes, where
    the counts are, schema), ``cell_types``, ``perturbations``, ``donors``, ``tissues``, ``diseases`` (each a list with
    ``n_cells``, most frequent first) and ``unmapped`` labels.
    """
    record = load_record(name, root)
    folder = atlas_folder(name, root)
    datasets = {
        dataset: {
            "source": source_uri(entry.source, folder),
            "counts_in": entry.source.counts_in,
            "n_cells": entry.n_cells,
            "n_genes": entry.n_genes,
            "schema": entry.mapping.name,
            "n_duplicate_genes": len(entry.duplicate_genes),
        }
        for dataset, entry in record.datasets.items()
    }
    unmapped = [
        {"dataset": dataset, **label.model_dump(mode="json")}
        for dataset, entry in record.datasets.items()
        for label in entry.unmapped
    ]
    head = {"name": record.name, "n_cells": record.n_cells, "digest": record.digest, "path": str(folder)}
    return {**head, **record.summary, "datasets": datasets, "unmapped": unmapped}


def check_atlas(name: str, root: str | Path) -> dict[str, Any]:
    """Read every byte of an atlas again and compare it with its record.

    Returns
    -------
    ``name``, ``ok`` and ``files``: path -> "ok" or what is wrong with it.
    """
    from haystack_kernel.atlas.h5ad import fingerprint, sha256_of

    record = load_record(name, root)
    folder = atlas_folder(name, root)
    files: dict[str, str] = {}
    for ref in (record.index, *(entry.genes for entry in record.datasets.values())):
        path = folder / ref.path
        same = path.is_file() and sha256_of(path) == ref.sha256
        files[str(path)] = "ok" if same else "changed" if path.is_file() else "missing"
    for entry in record.datasets.values():
        uri = source_uri(entry.source, folder)
        try:
            files[uri] = "ok" if fingerprint(uri).digest == entry.source.digest else "changed"
        except NotFoundError:
            files[uri] = "missing"
    return {"name": name, "ok": set(files.values()) == {"ok"}, "files": files}


def check_whole(record: AtlasRecord, folder: Path) -> None:
    """Compare sizes only: the index is the recorded one, every source is there and as long as it was.

    Raises
    ------
    StorageError
        The index is not the one of the record.
    NotFoundError
        A source file has moved.
    InvalidInputError
        A source file has changed or was cut short.
    """
    from haystack_kernel.atlas.h5ad import fingerprint

    index = folder / record.index.path
    if not index.is_file() or index.stat().st_size != record.index.n_bytes:
        msg = f"{index} is missing or not the index that {RECORD_FILE} names: a build was interrupted; build it again"
        raise StorageError(msg, path=str(index))
    for dataset, entry in record.datasets.items():
        uri = source_uri(entry.source, folder)
        again = f"or build dataset {dataset!r} of atlas {record.name!r} again from its new place"
        try:
            now = fingerprint(uri, with_digest=False)
        except NotFoundError as error:
            msg = f"the cells of atlas {record.name!r} were read from {uri}, which is gone; put it back, {again}"
            raise NotFoundError(msg, path=uri, atlas=record.name) from error
        if now.n_bytes != entry.source.n_bytes:
            msg = (
                f"{uri} has {now.n_bytes} bytes, atlas {record.name!r} was built from {entry.source.n_bytes}: it was "
                f"changed or cut short; restore it, {again}"
            )
            raise InvalidInputError(msg, path=uri, atlas=record.name)


def atlas_folder(name: str, root: str | Path) -> Path:
    """Folder of one atlas; refuses a name that could leave ``root``."""
    if not re.fullmatch(NAME_PATTERN, name):
        msg = f"atlas name {name!r} is invalid: 1-63 of a-z, 0-9, '-' and '_', starting with a letter or digit"
        raise InvalidInputError(msg, name=name)
    return Path(root) / name


def check_dataset(name: str) -> str:
    """Return a dataset name that is safe in a cell id and in a file name, or refuse it."""
    if not re.fullmatch(DATASET_PATTERN, name):
        msg = f"dataset name {name!r} is invalid: letters, digits, '.', '-' and '_', starting with a letter or digit"
        raise InvalidInputError(msg, dataset=name)
    return name


def source_uri(source: SourceFile, folder: Path) -> str:
    """Address of a source file, also where it is recorded relative to the atlas folder."""
    return source.uri if "://" in source.uri or Path(source.uri).is_absolute() else str(folder / source.uri)
