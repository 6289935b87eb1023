"""Build an atlas from one h5ad file, or add its datasets to an atlas: check, harmonise, count, publish.

In: a source file, a ``Mapping``, the knowledge tables. Out: the atlas folder and a ``BuildReport``. The expression
stays in the source file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from haystack_kernel import keys
from haystack_kernel.atlas.columns import check_unused
from haystack_kernel.atlas.grouping import CellColumns, group_cells
from haystack_kernel.atlas.harmonise import Harmonised, harmonise, read_kinds
from haystack_kernel.atlas.labels import count_codes
from haystack_kernel.atlas.names import safe_name
from haystack_kernel.atlas.publish import publish_index, record_before
from haystack_kernel.atlas.record import DatasetRecord, LabelRead, SourceFile, Unmapped, atlas_folder, check_dataset
from haystack_kernel.atlas.resolvers import resolvers_of
from haystack_kernel.atlas.sources.counts import Counts, cell_stats, find_counts
from haystack_kernel.atlas.sources.h5ad import Fingerprint, fingerprint, open_h5ad
from haystack_kernel.errors import ConflictError, InvalidInputError
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.schema import FileRef, Frozen
from inference.h5 import n_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import h5py
    from numpy.typing import NDArray

    from haystack_kernel.atlas.mapping import Mapping
    from haystack_kernel.atlas.record import AtlasRecord
    from haystack_kernel.atlas.resolvers import Resolvers
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Progress

_UNSTATED = FileRef(path="", sha256="", n_bytes=0)


class BuildReport(Frozen):
    """What a build did; ``haystack atlas build`` prints it."""

    name: str
    path: str
    datasets: dict[str, int] = Field(description="dataset -> cells of this build")
    n_cells: int
    n_control: int
    n_left_out: int = Field(default=0, description="cells of which no treatment is known: neither treated nor controls")
    n_genes: int
    n_atlas_cells: int = Field(description="cells of the whole atlas, with datasets built before")
    counts_in: str = Field(description="where the raw counts are: X, raw/X or layers/…")
    gene_symbols_from: str
    duplicate_genes: tuple[str, ...] = Field(description="symbols of further genes, which keep their own name")
    treatments: tuple[LabelRead, ...] = Field(
        default=(), description="every label of a treatment: read as treated, as which control, or left out"
    )
    unmapped: tuple[Unmapped, ...] = Field(description="labels kept unchanged, with the nearest known terms")
    notes: tuple[str, ...] = ()
    digest: str


@dataclass(frozen=True)
class _Found:
    counts: Counts
    columns: Harmonised
    kind_of: NDArray[np.int32]


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes
    ----------
    dataset
        Name of the dataset if the mapping has no dataset column; None takes the name of the atlas, or with ``add``
        the name of the file.
    add
        True adds to an atlas with other datasets, or replaces the dataset of the same name; the others are not changed.
        False refuses an atlas that has other datasets.
    skip_totals
        True reads only a sample of the counts, for files of hundreds of gigabytes: genes per cell are the stored
        entries of a CSR file, and counts per cell stay empty (NaN).
    """

    dataset: str | None = None
    add: bool = False
    skip_totals: bool = False


def build_atlas(
    source: str,
    *,
    name: str,
    root: str | Path,
    mapping: Mapping,
    knowledge: Knowledge,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Index one h5ad file as an atlas, or as a dataset of one; the expression itself is not copied.

    Parameters
    ----------
    source
        Path or URI of an h5ad with raw counts in X, raw/X or a layer (CSR is read fastest).
    name
        Name of the atlas: a-z, 0-9, ``-`` and ``_``.
    root
        Folder of the atlases.
    mapping
        How to read the columns of obs, from :func:`load_mapping`.
    knowledge
        Knowledge tables, which resolve labels to known terms.
    options
        See :class:`BuildOptions`; None takes its defaults.
    progress
        Receives progress events; None for no listener.

    Returns
    -------
    Numbers of cells and genes, labels without a known term, notes, and the digest of the index.

    Raises
    ------
    NotFoundError
        The file does not exist.
    InvalidInputError
        The file is damaged or empty, has no raw counts, is not human, or has repeated genes or no control; or the
        atlas has other datasets.
    MissingKeyError
        obs or var lacks a column that the mapping needs; the message lists the existing columns.
    StorageError
        The atlas folder cannot be written.
    """
    folder = atlas_folder(name, root)
    options = options or BuildOptions()
    source = source if "://" in source else str(Path(source).expanduser().absolute())
    dataset = check_dataset(options.dataset or (safe_name(_stem(source)) if options.add else name))
    tell = _teller(name, progress)
    tell(f"checking {source}", 0.0)
    before = fingerprint(source, with_digest=False)
    with open_h5ad(source) as h5:
        found = _read(h5, mapping, uri=source, dataset=dataset, resolvers=resolvers_of(knowledge))
        labels = _dataset_labels(found.columns, default=options.dataset or (_stem(source) if options.add else name))
        record_before(folder, labels, add=options.add)
        n_genes, totals = _count(h5, found.counts, tell, skip_totals=options.skip_totals)
    tell("computing the digest of the source file", 0.75)
    mark = fingerprint(source)
    if (mark.n_bytes, mark.mtime) != (before.n_bytes, before.mtime):
        msg = f"{source} changed while it was read; build again when no process writes to it"
        raise ConflictError(msg, uri=source)
    tell("writing the index", 0.85)
    columns = found.columns
    grouped = group_cells(
        CellColumns(columns.text, columns.is_control, columns.is_kept, found.kind_of, n_genes, totals)
    )
    entries = _entries(found, mapping, _source(mark, found.counts, folder), labels=labels)
    record = publish_index(folder, grouped, entries, genes=found.counts.genes, add=options.add)
    tell("atlas is ready", 1.0)
    return _report(found, record, folder=folder, datasets=list(entries), notes=_notes(found, source, n_genes, totals))


def _teller(name: str, progress: Progress | None) -> Callable[[str, float], None]:
    def tell(message: str, fraction: float) -> None:
        if progress is not None:
            progress(ProgressEvent(run_id=name, phase="atlas", message=message, fraction=fraction))

    return tell


def _stem(source: str) -> str:
    """The name of a file."""
    return source.rpartition("/")[2].removesuffix(".h5ad")


def _dataset_labels(columns: Harmonised, *, default: str) -> dict[str, str]:
    """Dataset -> what the file or, where it has no column of datasets, the user calls it."""
    labels = {name: text for text, name in columns.datasets.items() if text}
    return {check_dataset(name): labels.get(name, default) for name in _sizes(columns)}


def _sizes(columns: Harmonised) -> dict[str, int]:
    """Dataset -> its cells in the index."""
    labels = columns.text[keys.DATASET]
    sizes = count_codes(labels.codes, len(labels.categories), weights=np.where(columns.is_kept, columns.n_cells, 0))
    return {str(name): int(size) for name, size in zip(labels.categories, sizes, strict=True) if size}


def _count(
    h5: h5py.File, counts: Counts, tell: Callable[[str, float], None], *, skip_totals: bool
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Numbers of genes and of counts per cell; with ``skip_totals`` the stored entries per cell, and NaN."""
    if not skip_totals:
        return cell_stats(h5, counts, tick=lambda part: tell(f"reading counts from {counts.path}", 0.05 + 0.7 * part))
    if counts.encoding != "csr":
        msg = (
            f"{counts.path} is stored as {counts.encoding}, so genes per cell are unknown without reading it; write "
            "the file as CSR, or build without --skip-totals"
        )
        raise InvalidInputError(msg, encoding=counts.encoding)
    n_genes = np.diff(h5[counts.path]["indptr"][:]).astype(np.int32)
    return n_genes, np.full(counts.shape[0], np.nan)


def _read(h5: h5py.File, mapping: Mapping, *, uri: str, dataset: str, resolvers: Resolvers) -> _Found:
    """Read and check everything except the counts themselves."""
    _check_cells(h5, uri)
    kinds = read_kinds(h5["obs"], mapping, uri=uri)
    fields = kinds.fields()
    organisms = [str(text) for text in fields["organism"].unique()] if "organism" in fields else []
    columns = harmonise(fields, mapping, dataset=dataset, resolvers=resolvers, n_cells=kinds.n_cells())
    if not columns.is_kept.any():
        labels = [one.label for one in columns.treatments]
        msg = f"{uri}: no cell has a known treatment; the perturbation labels are {', '.join(map(repr, labels[:12]))}"
        raise InvalidInputError(msg, uri=uri, labels=labels)
    notes = check_unused(h5["obs"], mapping, columns, kind_of=kinds.of_cell, resolvers=resolvers, uri=uri)
    columns = replace(columns, notes=(*columns.notes, *notes))
    counts = find_counts(h5, uri=uri, symbols=mapping.gene_symbols, organisms=organisms)
    _check_shape(h5, counts, uri)
    return _Found(counts, columns, kinds.of_cell)


def _check_cells(h5: h5py.File, uri: str) -> None:
    if n_rows(h5["obs"]) == 0:
        msg = f"{uri} has no cells (obs is empty); write the file again with its cells"
        raise InvalidInputError(msg, uri=uri)


def _check_shape(h5: h5py.File, counts: Counts, uri: str) -> None:
    declared = (n_rows(h5["obs"]), n_rows(h5[counts.var]))
    if counts.shape != declared:
        msg = (
            f"{uri}: {counts.path} is {counts.shape[0]} x {counts.shape[1]}, but obs has {declared[0]} and "
            f"{counts.var} {declared[1]} rows; the file is damaged: write it again with anndata"
        )
        raise InvalidInputError(msg, uri=uri)


def _source(mark: Fingerprint, counts: Counts, folder: Path) -> SourceFile:
    inside = "://" not in mark.uri and Path(mark.uri).is_relative_to(folder.absolute())
    return SourceFile(
        uri=str(Path(mark.uri).relative_to(folder.absolute())) if inside else mark.uri,
        n_bytes=mark.n_bytes,
        mtime=mark.mtime,
        digest=mark.digest,
        counts_in=counts.path,
        encoding=counts.encoding,
        n_cells=counts.shape[0],
        n_columns=counts.shape[1],
    )


def _entries(
    found: _Found, mapping: Mapping, source: SourceFile, *, labels: dict[str, str]
) -> dict[str, DatasetRecord]:
    columns = found.columns
    shared = DatasetRecord(
        source=source,
        mapping=mapping,
        genes=_UNSTATED,
        cells=_UNSTATED,
        groups=_UNSTATED,
        n_cells=0,
        n_groups=0,
        n_genes=len(found.counts.genes.names),
        gene_symbols_from=found.counts.genes.taken_from,
        duplicate_genes=found.counts.genes.repeated,
        unmapped=columns.unmapped,
        treatments=columns.treatments,
        n_left_out=int(columns.n_cells[~columns.is_kept].sum()),
    )
    return {
        key: shared.model_copy(update={"n_cells": size, "label": labels[key]}) for key, size in _sizes(columns).items()
    }


def _report(
    found: _Found, record: AtlasRecord, *, folder: Path, datasets: list[str], notes: tuple[str, ...]
) -> BuildReport:
    columns = found.columns
    return BuildReport(
        name=record.name,
        path=str(folder),
        datasets={key: record.datasets[key].n_cells for key in datasets},
        n_cells=int(columns.n_cells[columns.is_kept].sum()),
        n_control=int(columns.n_cells[columns.is_control].sum()),
        n_left_out=int(columns.n_cells[~columns.is_kept].sum()),
        n_genes=len(found.counts.genes.names),
        n_atlas_cells=record.n_cells,
        counts_in=found.counts.path,
        gene_symbols_from=found.counts.genes.taken_from,
        duplicate_genes=found.counts.genes.repeated,
        treatments=columns.treatments,
        unmapped=columns.unmapped,
        notes=notes,
        digest=record.digest,
    )


def _notes(found: _Found, source: str, n_genes: NDArray[np.int32], totals: NDArray[np.float64]) -> tuple[str, ...]:
    notes = [note.removeprefix(f"{source}: ") for note in (*found.counts.notes, *found.counts.genes.notes)]
    if found.counts.encoding == "csc":
        place = found.counts.path
        notes.append(
            f"{place} is stored by gene (CSC): the first fetch rearranges it by cell, within the limit cells.rows_gib"
        )
    if empty := int((n_genes == 0).sum()):
        notes.append(f"{empty} cells have no counts")
    if np.isnan(totals).any():
        notes.append(
            "counts per cell were not read (--skip-totals): a sample of the values was checked, total_counts is empty, "
            "and candidates are ranked without the depth of their cells"
        )
    notes += found.columns.notes
    return tuple(notes)
