"""Checks cells before anything is spent on them: finds raw counts and gene symbols, or explains how to fix the file.

In: an AnnData or an h5ad file. Out: raw counts with gene symbols, and notes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from inference.errors import InputError
from inference.quiet import no_warnings

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

SYMBOL_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name")
MAX_COUNT = 2**24 - 1  # the largest whole number up to which float32 is exact

_ENSEMBL = re.compile(r"ENS([A-Z]{3,4})?G\d{6,}(\.\d+)?$")
_MOUSE = re.compile(r"([A-Z][a-z0-9]+[a-z]|[A-Z][a-z]+\d)[a-z0-9.-]*$|mt-[A-Z]|H2-[A-Z]")
_MAJORITY = 0.5
_MIN_NAMES = 10  # fewer names than this are not judged for mouse capitalisation
_N_EXAMPLES = 5
_MIN_GENES_WITH_ZEROS = 1000  # no single cell detects all of so many genes


@dataclass(frozen=True)
class Checked:
    """Cells fit for prediction."""

    counts: sparse.csr_matrix  # float32, non-negative whole numbers, cells x genes
    genes: tuple[str, ...]  # human symbols, each once
    source: str  # where the counts were found: "X", "raw" or "layers['counts']"
    var: Any  # pandas DataFrame of those genes, as in the file
    notes: tuple[str, ...] = ()


def read_cells(path: Path, *, name: str, symbols: str | None = None) -> tuple[AnnData, Checked]:
    """Read an h5ad file and check it; see :func:`read_file` and :func:`check_counts`."""
    adata = read_file(path, name=name)
    return adata, check_counts(adata, name=name, symbols=symbols)


def read_file(path: Path, *, name: str) -> AnnData:
    """Read an h5ad file without checking its content.

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

    if not path.is_file():
        msg = f"{name}: no such file; give the path or gs:// address of an h5ad file"
        raise InputError(msg)
    try:
        with no_warnings():  # repeated names are refused later; old file layouts are accepted
            adata = ad.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        size = path.stat().st_size
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        msg = (
            f"{name}: not a readable h5ad file ({size} bytes; {reason}); it may be cut short or of another format: "
            f"copy it again, or write it with AnnData.write_h5ad"
        )
        raise InputError(msg) from error
    return adata


def check_counts(adata: AnnData, *, name: str = "cells", symbols: str | None = None) -> Checked:
    """Find raw counts and human gene symbols.

    Parameters
    ----------
    adata
        Cells x genes. Counts are looked for in ``X``, then ``layers["counts"]``, then ``raw``.
    name
        Put in front of every message.
    symbols
        Column of var that holds the gene symbols. None, or var without it: the index, or where that holds Ensembl ids
        the first of ``SYMBOL_COLUMNS`` there is.

    Raises
    ------
    InputError
        No cells or genes; values that are not raw counts (normalised, scaled, negative, NaN); repeated or mouse gene
        names; Ensembl ids without a column of symbols.
    """
    if not adata.n_obs or not adata.n_vars:
        msg = f"{name}: {adata.n_obs} cells x {adata.n_vars} genes; give a file with at least one of each"
        raise InputError(msg)
    counts, source, var = _find_counts(adata, name)
    if symbols is not None and symbols in var.columns:
        genes, notes = _translate(var, symbols, name)
    else:
        genes, notes = _find_symbols(var, name)
        if symbols is not None:
            notes.insert(0, f"{name}: var has no column {symbols!r}; gene names are looked for elsewhere")
    _check_names(genes, name)
    if source != "X":
        notes.append(f"{name}: raw counts taken from {source}, X holds other values")
    if n_empty := int((np.diff(counts.indptr) == 0).sum()):
        notes.append(f"{name}: {n_empty} of {counts.shape[0]} cells hold no counts and stay empty")
    return Checked(counts, genes, source, var, tuple(notes))


def _find_counts(adata: AnnData, name: str) -> tuple[sparse.csr_matrix, str, Any]:
    """First place that holds raw counts."""
    places = [("X", adata.X, adata.var)]
    if "counts" in adata.layers:
        places.append(("layers['counts']", adata.layers["counts"], adata.var))
    if adata.raw is not None:
        places.append(("raw", adata.raw.X, adata.raw.var))
    faults = []
    for source, values, var in places:
        if values is None:
            faults.append(f"{source} is missing")
            continue
        matrix = sparse.csr_matrix(values)  # a copy, so that the caller's object never changes
        if fault := _fault(matrix):
            faults.append(f"{source} {fault}")
            continue
        matrix = matrix.astype(np.float32)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix, source, var
    msg = (
        f"{name}: no raw counts found: {'; '.join(faults)}. Put non-negative whole numbers (UMI counts before any "
        f"normalisation) in X, layers['counts'] or raw"
    )
    raise InputError(msg, about="counts")


def _fault(matrix: sparse.csr_matrix) -> str:
    """Why the values are not raw counts; empty where they are."""
    values = matrix.data
    if values.dtype.kind not in "biuf":
        return f"has type {values.dtype}, not numbers"
    if not values.any():
        return "holds only zeros"
    if not np.isfinite(values).all():
        return f"holds {int((~np.isfinite(values)).sum())} NaN or infinite values"
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return f"has negative values (down to {low:.3g}): it looks scaled or batch-corrected"
    if share := float((values != np.rint(values)).mean()):
        kind = "log-normalised" if high < 20 else "normalised"
        return f"is not whole numbers ({share:.0%} of the non-zero values, maximum {high:.3g}): it looks {kind}"
    if high > MAX_COUNT:
        return f"has a count of {high:.3g}, above {MAX_COUNT}"
    has_no_zero = np.count_nonzero(values) == np.prod(matrix.shape)
    if has_no_zero and matrix.shape[1] >= _MIN_GENES_WITH_ZEROS:
        return f"has no zero among {matrix.shape[1]} genes: it looks like ranks, scores or bulk, not single cells"
    return ""


def _find_symbols(var: Any, name: str) -> tuple[tuple[str, ...], list[str]]:  # noqa: ANN401
    """Gene symbols from the index, or from a column where the index holds Ensembl ids."""
    names = [str(item) for item in var.index]
    if np.mean([bool(_ENSEMBL.match(item)) for item in names]) <= _MAJORITY:
        return tuple(names), []
    if np.mean([item.startswith("ENSMUSG") for item in names]) > _MAJORITY:
        raise InputError(_mouse_message(name, names), about="species")
    column = next((item for item in SYMBOL_COLUMNS if item in var.columns), None)
    if column is None:
        msg = (
            f"{name}: genes are Ensembl ids (such as {', '.join(names[:3])}) and var has no column of symbols; "
            f"add one of {', '.join(SYMBOL_COLUMNS)} to var, or make symbols the var index"
        )
        raise InputError(msg, about="symbols")
    return _translate(var, column, name)


def _translate(var: Any, column: str, name: str) -> tuple[tuple[str, ...], list[str]]:  # noqa: ANN401
    """Symbols from a column; a gene without one, or with one already seen, keeps its name in the index."""
    genes, seen, n_kept = [], set(), 0
    for own, value in zip(map(str, var.index), var[column], strict=True):
        symbol = str(value) if isinstance(value, str) and value.strip() else own
        if symbol.upper() in seen:
            symbol, n_kept = own, n_kept + 1
        seen.add(symbol.upper())
        genes.append(symbol)
    notes = [f"{name}: gene symbols taken from var[{column!r}]"]
    if n_kept:
        notes.append(f"{name}: {n_kept} genes repeat a symbol and keep their name in the index")
    return tuple(genes), notes


def _check_names(genes: tuple[str, ...], name: str) -> None:
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for gene in genes:
        if gene in seen:
            repeated[gene] = None
        seen.add(gene)
    if repeated:
        examples = ", ".join(list(repeated)[:_N_EXAMPLES])
        msg = (
            f"{name}: {len(repeated)} gene names appear more than once ({examples}); sum their columns, or tell them "
            f"apart with adata.var_names_make_unique()"
        )
        raise InputError(msg, about="duplicates")
    judged = [gene for gene in genes if len(gene) > 2 and gene[:1].isalpha()]
    if len(judged) >= _MIN_NAMES and sum(map(bool, map(_MOUSE.match, judged))) > _MAJORITY * len(judged):
        raise InputError(_mouse_message(name, judged), about="species")


def _mouse_message(name: str, genes: list[str]) -> str:
    return (
        f"{name}: these look like mouse genes ({', '.join(genes[:3])}); predictions are for human cells: "
        f"map the genes to their human orthologs first"
    )
