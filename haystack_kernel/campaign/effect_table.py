"""Measured effects as a table: found columns, one response, on the scale of a prediction.

In: a CSV or TSV, or a data frame, of any differential expression program. Out: :class:`MeasuredEffects`, or an error
that says what the table holds. What was not understood is noted.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.stats import norm, poisson

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.genes import load_genes
from inference.genes import gene_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Scale = Literal["cells", "delta", "log2fc"]

_GENE = (
    "gene",
    "genes",
    "symbol",
    "genesymbol",
    "genename",
    "hgncsymbol",
    "geneid",
    "ensembl",
    "ensemblid",
    "names",
    "feature",
)
_DELTA = ("delta",)
_LOG2 = ("log2fc", "log2foldchange", "log2foldchanges", "logfoldchanges", "logfc", "avglog2fc", "lfc", "log2ratio")
_NATURAL = ("avglogfc", "lnfc", "logefc", "naturallogfc")  # Seurat before version 4
_ERROR = ("se", "lfcse", "stderr", "standarderror", "selogfc", "selog2fc")
_P = ("pvalue", "pval", "pvals", "p", "pvaluetwosided")
_LABELS = {
    "perturbation": ("perturbation", "treatment", "drug", "compound", "condition", "contrast", "agent"),
    "cell_type": ("celltype", "celltypename", "cells", "type"),
}
_NOT_NEEDED = (
    "padj",
    "pvaladj",
    "pvalsadj",
    "adjpval",
    "fdr",
    "qvalue",
    "basemean",
    "aveexpr",
    "logcpm",
    "stat",
    "t",
    "b",
    "f",
    "scores",
)
_LEAST_Z = 0.01  # of a p value near 1, which says nothing of the error
_TYPICAL_TOTAL = 3000.0  # counts of a cell, for means that are turned into each other; see _to_delta
_ENSEMBL = re.compile(r"ENSG\d{11}", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class MeasuredEffects:
    """A measured response, one value per gene.

    Attributes
    ----------
    genes
        Symbols, each once.
    delta
        Change of mean log1p(CP10k), treated minus control.
    se
        Its standard error; NaN where the measurement does not say.
    scale
        What was given: cells, ``delta``, or ``log2fc`` that was turned into it.
    detected
        Share of the cells of an arm that show the gene, the larger one; NaN where it is not known.
    n_treated, n_control
        Cells; 0 where it is not known.
    notes
        What was left out, or taken without being stated.
    """

    genes: pd.Index
    delta: Floats
    se: Floats
    scale: Scale
    detected: Floats
    n_treated: int = 0
    n_control: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class EffectTable:
    """A table of measured effects whose columns were found; ``labels`` are those of treatments and cell types."""

    table: pd.DataFrame  # gene, value, se, perturbation, cell_type
    scale: Literal["delta", "log2fc"]
    notes: tuple[str, ...]
    labels: tuple[str, ...]


def read_effect_table(given: pd.DataFrame | bytes, *, name: str) -> EffectTable:
    """Find the columns of a table of measured effects.

    Parameters
    ----------
    given
        The table, or the bytes of a CSV or TSV.
    name
        Of the file, for messages.

    Returns
    -------
    Genes as symbols, effects, standard errors, and labels where there are any.

    Raises
    ------
    InvalidInputError
        No column holds genes or effects; the message lists the columns there are.
    """
    table = _parse(given, name=name) if isinstance(given, bytes) else given.copy()
    table.columns = pd.Index([str(one) for one in table.columns])
    if table.index.dtype == object and not any(_squeezed(one) in _GENE for one in table.columns):
        table = table.rename_axis("gene").reset_index()
    columns = _find(table, name=name)
    factor = 1 / np.log(2) if columns.is_natural else 1.0
    values = pd.to_numeric(table[columns.effect], errors="coerce") * factor
    made = pd.DataFrame({keys.GENE: table[columns.gene].astype(str).str.strip(), "value": values})
    made["se"] = _errors(table, values, columns, factor=factor)
    for label in _LABELS:
        own = columns.labels.get(label)
        made[label] = "" if own is None else table[own].astype(str).str.strip()
    notes = [*_notes(columns), *([f"{n:,} rows without an effect were left out"] if (n := values.isna().sum()) else [])]
    scale: Literal["delta", "log2fc"] = "delta" if _squeezed(columns.effect) in _DELTA else "log2fc"
    return EffectTable(made[values.notna()], scale, tuple(notes), tuple(columns.labels))


@dataclass(frozen=True)
class _Columns:
    """Names of the columns that were found; ``unused`` are those without a meaning here."""

    gene: str
    effect: str
    error: str | None
    p: str | None
    labels: dict[str, str]
    unused: tuple[str, ...]

    @property
    def is_natural(self) -> bool:
        return _squeezed(self.effect) in _NATURAL


def _find(table: pd.DataFrame, *, name: str) -> _Columns:
    known = {_squeezed(one): str(one) for one in table.columns}
    gene, effect = _first(known, _GENE) or _unnamed(table), _first(known, (*_DELTA, *_LOG2, *_NATURAL))
    if gene is None or effect is None:
        missing = "genes (gene, symbol, …)" if gene is None else "effects (log2fc, log2FoldChange, logFC, delta, …)"
        msg = f"{name} has no column of {missing}; its columns are {', '.join(table.columns) or 'none'}. Rename one"
        raise InvalidInputError(msg, columns=list(table.columns))
    found = {label: _first(known, names) for label, names in _LABELS.items()}
    labels = {label: column for label, column in found.items() if column is not None}
    error, p = _first(known, _ERROR), _first(known, _P)
    used = {gene, effect, error, p, *labels.values()}
    return _Columns(gene, effect, error, p, labels, _unused(table, used))


def _unused(table: pd.DataFrame, used: set[str | None]) -> tuple[str, ...]:
    return tuple(one for one in table.columns if one not in used and _squeezed(one) not in _NOT_NEEDED)


def _unnamed(table: pd.DataFrame) -> str | None:
    """A column of text without a name, into which R writes the names of rows."""
    for one in table.columns:
        if (not _squeezed(one) or one.startswith("Unnamed")) and table[one].dtype == object:
            return str(one)
    return None


def _errors(table: pd.DataFrame, values: pd.Series, columns: _Columns, *, factor: float) -> pd.Series:
    """Standard errors as they are given, or from p values; NaN where there are neither."""
    if columns.error is not None:
        return pd.to_numeric(table[columns.error], errors="coerce").abs() * factor
    if columns.p is None:
        return pd.Series(np.nan, index=table.index)
    p = pd.to_numeric(table[columns.p], errors="coerce")
    z = norm.isf(p.clip(lower=1e-300) / 2)
    return (values.abs() / z).where((z > _LEAST_Z) & p.notna())


def _notes(columns: _Columns) -> list[str]:
    notes = [f"columns not used: {', '.join(columns.unused)}"] if columns.unused else []
    if columns.is_natural:
        notes.append(f"{columns.effect} was taken as a natural logarithm, as Seurat wrote it before version 4")
    if columns.error is None:
        told = "are not given, so that no gene counts as clearly changed"
        notes.append(f"standard errors {told if columns.p is None else f'were computed from {columns.p}'}")
    return notes


def on_scale(found: EffectTable, rows: pd.DataFrame, *, mean_control: pd.Series) -> MeasuredEffects:
    """Take the effects of one response, and put fold changes on the scale of predictions.

    Parameters
    ----------
    found
        The table.
    rows
        Its rows of the response.
    mean_control
        Gene -> mean log1p(CP10k) of the control cells of the prediction.
    """
    notes = list(found.notes)
    symbols = _as_symbols(rows[keys.GENE].tolist(), notes)
    rows = rows.assign(**{keys.GENE: symbols})
    twice = rows[keys.GENE].duplicated()
    if n_twice := int(twice.sum()):
        notes.append(f"{n_twice:,} rows of genes that were named before were left out")
        rows = rows[~twice]
    genes = pd.Index(rows[keys.GENE])
    value, se = rows["value"].to_numpy(float), rows["se"].to_numpy(float)
    if found.scale == "log2fc":
        base = mean_control.reindex(genes).to_numpy(float)
        value, se = to_delta(value, se, base)
        notes.append("fold changes were put on the scale of predictions, with the control cells of the prediction")
    return MeasuredEffects(genes, value, se, found.scale, np.full(len(genes), np.nan), notes=tuple(notes))


def to_delta(log2fc: Floats, se: Floats, base: Floats) -> tuple[Floats, Floats]:
    """Change of mean log1p(CP10k) that a fold change of the mean makes of a gene.

    Counts are taken as Poisson in cells of 3,000 counts, so that the mean of log1p(CP10k) is a known function of the
    mean count: nearly proportional to it for genes seen in few cells, logarithmic for others.

    Parameters
    ----------
    log2fc, se
        Fold change of the mean, treated over control, and its standard error.
    base
        Mean log1p(CP10k) of the control cells; NaN where unknown.

    Returns
    -------
    The change and its standard error; NaN where the control is unknown.
    """
    rate = np.geomspace(1e-4, 300, 400)
    counts = np.arange(0, 420)
    levels = poisson.pmf(counts[None, :], rate[:, None]) @ np.log1p(1e4 * counts / _TYPICAL_TOTAL)
    logs = np.log(rate)
    own = np.interp(np.maximum(base, levels[0]), levels, logs)

    def at(change: Floats) -> Floats:
        return np.asarray(np.interp(own + np.log(2) * change, logs, levels))

    delta = at(log2fc) - at(np.zeros_like(log2fc))
    slope = (at(log2fc + 0.05) - at(log2fc - 0.05)) / 0.1
    unknown = np.isnan(base)
    return np.where(unknown, np.nan, delta), np.where(unknown, np.nan, se * slope)


def _parse(data: bytes, *, name: str) -> pd.DataFrame:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{name} is neither an h5ad file nor a table of text (CSV or TSV in UTF-8)"
        raise InvalidInputError(msg, name=name) from error
    head = text.partition("\n")[0]
    delimiter = max(("\t", ",", ";"), key=head.count)
    try:
        table = pd.read_csv(io.StringIO(text), sep=delimiter, keep_default_na=False, na_values=["", "NA", "NaN", "nan"])
    except (ValueError, pd.errors.ParserError) as error:
        msg = f"{name} cannot be read as a table: {error}. Give CSV or TSV with one row a gene"
        raise InvalidInputError(msg, name=name) from error
    return table


def _squeezed(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _first(known: dict[str, str], names: Sequence[str]) -> str | None:
    return next((known[name] for name in names if name in known), None)


def _as_symbols(names: list[str], notes: list[str]) -> list[str]:
    ids = [one for one in names if _ENSEMBL.match(one)]
    if not ids:
        return [gene_key(one) for one in names]
    known = load_genes()
    found = [known.symbol_of(one.partition(".")[0].upper()) if _ENSEMBL.match(one) else one for one in names]
    n_unknown = sum(one is None for one in found)
    if n_unknown:
        notes.append(f"{n_unknown:,} Ensembl ids are not known and were left out")
    return [gene_key(one) if one is not None else f"?{place}" for place, one in enumerate(found)]
