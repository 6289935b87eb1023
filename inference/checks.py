"""Checks cells before anything is spent on them: finds raw counts and gene symbols, or explains how to fix the file.

In: an AnnData or an h5ad file. Out: raw counts with gene symbols, and notes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from inference.counts import Place, choose_counts, fault_of_values, no_counts, sample_rows, sampled_of
from inference.errors import InputError
from inference.genes import (
    ORGANISM_KEYS,
    READ_COLUMNS,
    Genes,
    VarTable,
    check_organism,
    gene_key,
    read_gene_names,
)
from inference.h5 import UNREAD, fault_of_storage, read_matrix
from inference.quiet import no_warnings
from inference.stored import StoredCells, StoredMatrix, matrix_paths, open_h5ad, read_frame, read_organism

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from inference.genes import KnownGenes


@dataclass(frozen=True)
class Checked:
    """Cells fit for prediction."""

    counts: sparse.csr_matrix  # float32, non-negative whole numbers, cells x genes
    genes: tuple[str, ...]  # human symbols as the file writes them, each once
    source: str  # where the counts were found: "X", "raw/X" or "layers/…"
    var: Any  # pandas DataFrame of those genes, as in the file
    doubts: tuple[str, ...] = ()  # what is unusual about the counts; they are part of the notes, too
    notes: tuple[str, ...] = ()


def read_cells(
    path: Path, *, name: str, symbols: str | None = None, model_genes: Collection[str] | None = None
) -> tuple[StoredCells, Checked]:
    """Read cells of an h5ad file and check their counts as :func:`check_counts` does; no other matrix is read whole."""
    cells = StoredCells.read(path, name=name)
    found = find_counts(cells, name=name, symbols=symbols, model_genes=model_genes)
    return cells, found.rows(np.arange(cells.n_obs))


def read_file(path: Path, *, name: str) -> AnnData:
    """Read cells, genes and matrices of an h5ad file without checking their content.

    uns, obsm and the like are not needed and not read. A column or layer that cannot be read is left out, and named in
    the notes of :func:`check_counts`.

    Parameters
    ----------
    path
        Local file.
    name
        Name of the file in messages: the address that the user gave.

    Raises
    ------
    InputError
        The file is missing, cut short or not an h5ad.
    """
    import anndata as ad

    with open_h5ad(path, name=name) as h5:
        unread: list[str] = []
        obs, var = (read_frame(h5[key], key, unread=unread) for key in ("obs", "var"))
        found = {one: _read_place(h5[one], one, name=name, unread=unread) for one in matrix_paths(h5)}
        layers = {one.removeprefix("layers/"): values for one, values in found.items() if one.startswith("layers/")}
        with no_warnings():  # repeated names are refused later
            shown = {key: values for key, values in layers.items() if values is not None}
            uns = read_organism(h5) | {UNREAD: unread}
            adata = ad.AnnData(X=found.get("X"), obs=obs, var=var, layers=shown, uns=uns)
            for one, frame in (("raw/X", "raw/var"), ("raw.X", "raw.var")):
                if found.get(one) is not None:
                    adata.raw = ad.AnnData(X=found[one], obs=obs, var=read_frame(h5[frame], frame, unread=unread))
        return adata


def _read_place(node: Any, path: str, *, name: str, unread: list[str]) -> Any:  # noqa: ANN401 - a matrix
    """A matrix, or None where it cannot be read and others may do."""
    if fault := fault_of_storage(node):
        unread.append(f"{path} {fault}")
        return None
    return read_matrix(node, name=name)


def check_counts(
    adata: AnnData,
    *,
    name: str = "cells",
    symbols: str | None = None,
    model_genes: Collection[str] | None = None,
    known: KnownGenes | None = None,
) -> Checked:
    """Find raw counts and human gene symbols.

    Parameters
    ----------
    adata
        Cells x genes. Counts are looked for in ``X``, ``raw`` and all layers; see
        :func:`inference.counts.choose_counts`.
    name
        Put in front of every message.
    symbols
        Column of var that holds the gene symbols. None, or var without it: the index, or where that holds Ensembl ids
        the first of ``SYMBOL_COLUMNS`` with symbols.
    model_genes
        Genes of the model where one is known: the counts that cover most of them are taken.
    known
        Table of genes that gives Ensembl ids a symbol where var has none.

    Raises
    ------
    InputError
        No cells or genes; values that are not raw counts (normalised, scaled, negative, NaN); repeated or mouse gene
        names; Ensembl ids without a column of symbols; cells that are not human.
    """
    found = find_counts(adata, name=name, symbols=symbols, model_genes=model_genes, known=known)
    return found.take(sparse.csr_matrix(found.matrix))


@dataclass(frozen=True)
class Found:
    """Where the counts of cells are, before they are read."""

    name: str  # of the cells, for messages
    path: str
    matrix: Any  # of numpy, scipy or :class:`inference.stored.StoredMatrix`
    genes: Genes
    var: Any  # pandas DataFrame of the genes
    doubts: tuple[str, ...]
    notes: tuple[str, ...]

    def rows(self, wanted: NDArray[np.int64]) -> Checked:
        """Counts of some rows of a stored matrix, in ascending order; raises :class:`InputError` for other values."""
        rows = self.matrix.rows(wanted)
        if fault := fault_of_values(rows.data):
            raise InputError(no_counts(self.name, [f"{self.path} {fault}"]), about="counts")
        return self.take(rows)

    def take(self, matrix: sparse.csr_matrix) -> Checked:
        """Counts of a matrix whose values were checked."""
        if len(self.genes.columns) < matrix.shape[1]:
            matrix = matrix[:, list(self.genes.columns)]
        counts = matrix.astype(np.float32)  # a copy, so that the caller's object never changes
        counts.sum_duplicates()
        counts.eliminate_zeros()
        notes = self.notes
        if n_empty := int((np.diff(counts.indptr) == 0).sum()):
            notes += (f"{self.name}: {n_empty} of {counts.shape[0]} cells hold no counts and stay empty",)
        return Checked(counts, self.genes.names, self.path, self.var, self.doubts, notes)


def find_counts(
    adata: AnnData | StoredCells,
    *,
    name: str,
    symbols: str | None = None,
    model_genes: Collection[str] | None = None,
    known: KnownGenes | None = None,
    first: str = "X",
) -> Found:
    """Find the matrix with raw counts, and its genes, by sampled rows; see :func:`check_counts`.

    ``first`` is the place that wins over equally good ones. Of stored matrices only the sampled rows are read, and
    others are checked when they are.
    """
    if not adata.n_obs or not adata.n_vars:
        msg = f"{name}: {adata.n_obs} cells x {adata.n_vars} genes; give a file with at least one of each"
        raise InputError(msg)
    wanted = None if model_genes is None else set(map(gene_key, model_genes))
    genes = _genes_by_table(adata, name=name, symbols=symbols, known=known, wanted=wanted)
    matrices = dict(_matrices(adata))
    choice = choose_counts([_place(path, one, genes, wanted) for path, one in matrices.items()], first=first)
    if not choice.path:
        raise InputError(no_counts(name, choice.faults), about="counts")
    found = genes[_table_of(choice.path)]
    if isinstance(found, InputError):
        raise found
    var = adata.raw.var if choice.path == "raw/X" and adata.raw is not None else adata.var
    said = {
        f"var has no column {symbols!r}; gene names are looked for elsewhere": symbols and symbols not in var.columns,
        **dict.fromkeys(choice.notes, True),
        f"left out what cannot be read: {', '.join(adata.uns.get(UNREAD, ()))}": len(adata.uns.get(UNREAD, ())),
        f"raw counts taken from {choice.path}, X holds other values": choice.path != "X",
    }
    notes = (*found.notes, *(f"{name}: {note}" for note, is_so in said.items() if is_so))
    matrix, var = matrices[choice.path], var.iloc[list(found.columns)]
    return Found(name, choice.path, matrix, found, var, choice.notes, notes)


def _genes_by_table(
    adata: AnnData | StoredCells,
    *,
    name: str,
    symbols: str | None,
    known: KnownGenes | None,
    wanted: Collection[str] | None,
) -> dict[str, Genes | InputError]:
    """Genes of var and of raw/var, or why they cannot be used."""
    is_human = check_organism(_organisms(adata), name=name)
    tables = {"var": _table(adata.var, symbols)}
    if adata.raw is not None:
        tables["raw/var"] = _table(adata.raw.var, symbols)
    found: dict[str, Genes | InputError] = {}
    for key, table in tables.items():
        joined = {} if key == "var" else tables["var"].symbols_by_name()
        try:
            found[key] = read_gene_names(
                table, name=name, joined=joined, known=known, forced=symbols, is_human=is_human, wanted=wanted
            )
        except InputError as error:
            found[key] = error
    return found


def _organisms(adata: AnnData | StoredCells) -> list[str]:
    """Texts that the file gives for the organism, in obs and uns."""
    texts = [str(adata.uns[key]) for key in ORGANISM_KEYS if isinstance(adata.uns.get(key), str)]
    for key in ORGANISM_KEYS:
        if key in adata.obs.columns:
            texts += map(str, adata.obs[key].dropna().unique())
    return texts


def _table(var: Any, symbols: str | None) -> VarTable:  # noqa: ANN401 - a pandas DataFrame
    read = [column for column in var.columns if column in READ_COLUMNS or column == symbols]
    return VarTable(list(map(str, var.index)), {one: _texts(var[one]) for one in read}, list(map(str, var.columns)))


def _texts(values: Any) -> list[str]:  # noqa: ANN401 - a pandas Series
    return ["" if is_missing else str(value) for value, is_missing in zip(values, values.isna(), strict=True)]


def _matrices(adata: AnnData | StoredCells) -> Iterator[tuple[str, Any]]:
    yield "X", adata.X
    yield from ((f"layers/{key}", values) for key, values in adata.layers.items())
    if adata.raw is not None:
        yield "raw/X", adata.raw.X


def _table_of(path: str) -> str:
    return "raw/var" if path == "raw/X" else "var"


def _place(path: str, matrix: Any, genes: dict[str, Genes | InputError], wanted: set[str] | None) -> Place:  # noqa: ANN401
    """One matrix to choose from; antibodies and other features do not take part in the judgement."""
    if matrix is None:
        return Place(path, 0, None, "is missing")
    found = genes[_table_of(path)]
    if isinstance(found, InputError):
        columns, n_genes = list(range(matrix.shape[1])), 0
    else:
        columns = list(found.columns)
        n_genes = len(columns) if wanted is None else len(wanted.intersection(map(gene_key, found.names)))
    if isinstance(matrix, StoredMatrix):
        return Place(path, n_genes, lambda: matrix.rows(sampled_of(matrix.filled))[:, columns])
    fault = fault_of_values(matrix.data if sparse.issparse(matrix) else np.asarray(matrix))
    return Place(path, n_genes, lambda: sample_rows(matrix)[:, columns], fault)
