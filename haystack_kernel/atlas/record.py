"""The content of ``atlas.json``, and reading it: which atlases exist and what one holds.

In: the folder of all atlases. Out: ``AtlasRecord``, lists and summaries; imports neither pandas nor DuckDB.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from haystack_kernel.atlas.mapping import Mapping
from haystack_kernel.errors import ContractError, InvalidInputError, NotFoundError
from haystack_kernel.schema import NAME_PATTERN, FileRef, Frozen

ATLAS_VERSION = 2
RECORD_FILE = "atlas.json"
CELLS_FOLDER = "cells.parquet"  # one part for each dataset; pandas, Arrow and DuckDB read the folder as one table
GROUPS_FOLDER = "groups.parquet"
RETIRED_FOLDER = ".old"  # parts that a process which opened the atlas earlier may still read
DATASET_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class Unmapped(Frozen):
    """A label that was kept unchanged because no known term matches it."""

    kind: str
    label: str
    n_cells: int
    nearest: tuple[str, ...] = Field(default=(), description="nearest known terms")


ReadAs = Literal["treated", "control", "left out"]


class LabelRead(Frozen):
    """How the cells with one label of a treatment were read; one label has several rows where its doses differ."""

    label: str
    read_as: ReadAs
    name: str = Field(default="", description="treatment; the label itself where no table knows it")
    type: str = ""
    control: str = Field(default="", description="kind of control; of a treatment the kind stated for it")
    n_cells: int
    why: str = ""
    is_known: bool = True
    nearest: tuple[str, ...] = Field(default=(), description="nearest known treatments where none is certain")


class SourceFile(Frozen):
    """The file that holds the expression; ``uri`` is relative if the file lies in the atlas folder."""

    uri: str
    n_bytes: int
    mtime: float = Field(description="seconds since 1970; 0 for a remote file")
    digest: str = Field(description="sha256:… of the bytes, or store:… of the metadata of a remote store")
    counts_in: str = Field(description="X, raw/X or layers/…")
    encoding: str = Field(description="csr, csc or dense")
    n_cells: int
    n_columns: int


class DatasetRecord(Frozen):
    """One dataset of an atlas: its file, how it was read, its genes, its part of the index."""

    source: SourceFile
    mapping: Mapping
    genes: FileRef
    cells: FileRef = Field(description="part of cells.parquet, one row per cell")
    groups: FileRef = Field(description="part of groups.parquet, one row per distinct group of cells")
    n_cells: int
    n_groups: int
    n_genes: int
    gene_symbols_from: str
    duplicate_genes: tuple[str, ...] = ()
    unmapped: tuple[Unmapped, ...] = ()
    label: str = Field(default="", description="name of the dataset as its file or the user writes it")
    n_left_out: int = Field(default=0, description="cells of the file without a known treatment")
    treatments: tuple[LabelRead, ...] = Field(default=(), description="labels of treatments of the whole file")


class AtlasRecord(Frozen):
    """The content of ``atlas.json``; ``digest`` covers the index, the gene lists and the digests of the sources."""

    schema_version: int = ATLAS_VERSION
    name: str
    datasets: dict[str, DatasetRecord]
    n_cells: int
    digest: str
    summary: dict[str, Any] = Field(default_factory=dict, description="cell types, perturbations, donors with counts")


def list_atlases(root: str | Path) -> list[str]:
    """List the names of the atlases under ``root``.

    Parameters
    ----------
    root
        Folder of the atlases.

    Returns
    -------
    Sorted names; empty if there is no such folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        return []
    return sorted(path.parent.name for path in folder.glob(f"*/{RECORD_FILE}"))


def load_record(name: str, root: str | Path) -> AtlasRecord:
    """Read ``atlas.json`` of one atlas.

    Raises
    ------
    InvalidInputError
        ``name`` is not a valid name of an atlas.
    NotFoundError
        The atlas does not exist; the message lists those that do.
    ContractError
        The file has another version or is damaged.
    """
    path = atlas_folder(name, root) / RECORD_FILE
    if not path.is_file():
        known = list_atlases(root)
        msg = (
            f"no atlas {name!r} under {root}; atlases there: {', '.join(known) or 'none'}. Build it with "
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
    """Describe one atlas as plain JSON values.

    Parameters
    ----------
    name
        Name of the atlas.
    root
        Folder of the atlases.

    Returns
    -------
    ``name``, ``n_cells``, ``n_control``, ``digest``, ``path``, ``datasets`` (per dataset its file, cells, genes, where
    the counts are, schema), ``cell_types``, ``perturbations``, ``controls``, ``donors``, ``tissues``, ``diseases``
    (each a list with ``n_cells``, most frequent first), ``treatments`` (how each label was read) and
    ``unmapped`` labels.
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
            "n_left_out": entry.n_left_out,
        }
        for dataset, entry in record.datasets.items()
    }
    unmapped = [
        {"dataset": dataset, **label.model_dump(mode="json")}
        for dataset, entry in record.datasets.items()
        for label in entry.unmapped
    ]
    treatments = [  # of a file, whose datasets all have the same
        {"source": source_uri(entry.source, folder), **label.model_dump(mode="json")}
        for entry in {entry.source.uri: entry for entry in record.datasets.values()}.values()
        for label in entry.treatments
    ]
    summary = {"controls": [], **record.summary}  # atlases of before do not tell kinds of control
    head = {"name": record.name, "n_cells": record.n_cells, "digest": record.digest, "path": str(folder)}
    return {**head, **summary, "datasets": datasets, "treatments": treatments, "unmapped": unmapped}


def atlas_folder(name: str, root: str | Path) -> Path:
    """Folder of one atlas; refuses a name that could leave ``root``, and an address (see ``mirror.local_root``)."""
    if not re.fullmatch(NAME_PATTERN, name):
        msg = f"atlas name {name!r} is invalid: 1-63 of a-z, 0-9, '-' and '_', starting with a letter or digit"
        raise InvalidInputError(msg, name=name)
    if "://" in str(root):
        msg = (
            f"atlas {name!r} is built and changed in a local folder, not in {root}: give --atlas-root FOLDER, and copy "
            f"it there afterwards: gcloud storage cp -r FOLDER/{name} {root}/"
        )
        raise InvalidInputError(msg, root=str(root))
    return Path(root) / name


def check_dataset(name: str) -> str:
    """Return a dataset name that is safe in a cell id and in a file name, or refuse it."""
    if not re.fullmatch(DATASET_PATTERN, name):
        msg = f"dataset name {name!r} is invalid: letters, digits, '.', '-' and '_', starting with a letter or digit"
        raise InvalidInputError(msg, dataset=name)
    return name


def index_files(record: AtlasRecord) -> list[FileRef]:
    """Every file of the atlas folder that the record names, each once."""
    named = [ref for entry in record.datasets.values() for ref in (entry.cells, entry.groups, entry.genes)]
    return list({ref.path: ref for ref in named}.values())


def find_part(ref: FileRef, folder: Path) -> Path:
    """Path of a part of the index; a build that replaced the part has moved it aside."""
    path = folder / ref.path
    return path if path.is_file() else folder / RETIRED_FOLDER / path.name


def source_uri(source: SourceFile, folder: Path) -> str:
    """Full address of a source file, which may be recorded relative to the atlas folder."""
    return source.uri if "://" in source.uri or Path(source.uri).is_absolute() else str(folder / source.uri)
