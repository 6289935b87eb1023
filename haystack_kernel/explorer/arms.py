"""Cells of a run by arm, with their places on the map and their expression on demand, gene by gene.

In: raw counts and the embedding table. Out: :class:`Arms`; expression is y = log1p(1e4 x / L) for counts x and library
size L, and NaN where an arm does not hold a gene.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.grounding.de.profiles import log_normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    from numpy.typing import NDArray

ROLE = "role"
CONTROL_PRED = "predicted control"  # the same query cells, predicted with the control cells as prompt
X, Y = "x", "y"
LABELS = (keys.CELL_TYPE, keys.DONOR)  # columns of obs that an arm needs
NOT_MEASURED = 255  # the byte of a cell whose arm does not hold the gene
LEVELS = 254  # bytes 0 to 254 stand for 0 to the gene's largest value


@dataclass(frozen=True, eq=False)
class Arm:
    """Cells of one role.

    Attributes
    ----------
    table
        One row per cell: ``cell_id``, ``role``, ``cell_type_name``, ``donor_id``, ``x``, ``y`` (NaN: not on the map).
    expression
        Cells x genes, y as the module says; None where the counts are no longer in the run folder.
    genes
        Columns of ``expression``.
    """

    table: pd.DataFrame
    expression: sparse.csc_matrix | None = None
    genes: pd.Index = field(default_factory=lambda: pd.Index([], dtype=object))


@dataclass(frozen=True, eq=False)
class Arms:
    """All cells that the explorer knows, arm after arm.

    Attributes
    ----------
    parts
        The arms, those of the map first.
    genes
        Genes in the order in which everything about genes is given.

    Examples
    --------
    >>> arms = Arms((Arm(table, expression, genes),), genes=genes)  # doctest: +SKIP
    >>> arms.values("STAT1")  # doctest: +SKIP
    array([0.  , 1.72, ...], dtype=float32)
    """

    parts: tuple[Arm, ...]
    genes: pd.Index

    def __len__(self) -> int:
        return sum(len(arm.table) for arm in self.parts)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per cell, see :class:`Arm`; the index counts from 0."""
        return pd.concat([arm.table for arm in self.parts], ignore_index=True)

    @cached_property
    def follows(self) -> NDArray[np.int32]:
        """For every cell, the cell of the map whose selection it shares; -1 where it belongs to none.

        A cell on the map follows itself. Other predictions of a query cell are not on the map: they follow that cell's
        prediction, or the query cell itself where the map does not hold the prediction.
        """
        table = self.table
        on_map = table[X].notna().to_numpy()
        found = np.where(on_map, np.arange(len(table)), -1).astype(np.int32)
        for role in (keys.QUERY, keys.PREDICTED):  # the later one wins
            rows = np.flatnonzero(on_map & (table[ROLE] == role).to_numpy())
            place = pd.Series(rows, index=table[keys.CELL_ID].to_numpy()[rows])
            place = place[~place.index.duplicated()]
            at = place.reindex(table[keys.CELL_ID].to_numpy()).to_numpy(float)
            found = np.where(~on_map & ~np.isnan(at), np.nan_to_num(at, nan=-1), found).astype(np.int32)
        return found

    def values(self, gene: str) -> NDArray[np.float32]:
        """Return the expression of one gene in every cell, as float32; NaN where an arm does not hold the gene."""
        found = []
        for arm in self.parts:
            column = np.full(len(arm.table), np.nan, dtype=np.float32)
            if arm.expression is not None and gene in arm.genes:
                column = arm.expression[:, [arm.genes.get_loc(gene)]].toarray().ravel().astype(np.float32)
            found.append(column)
        return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)

    def sums(self, mask: NDArray[np.bool_], *, role: str) -> tuple[NDArray[np.float64], int]:
        """Sum the expression of every gene over the marked cells of one role.

        Parameters
        ----------
        mask
            One value per cell.
        role
            The role.

        Returns
        -------
        One sum per gene of ``genes``, NaN where the arm does not hold it; and the number of cells.
        """
        start = 0
        for arm in self.parts:
            inside = mask[start : start + len(arm.table)]
            start += len(arm.table)
            if arm.table.empty or arm.table[ROLE].iloc[0] != role or arm.expression is None:
                continue
            total = np.asarray(arm.expression.T @ inside.astype(arm.expression.dtype)).ravel()
            at = arm.genes.get_indexer(self.genes)
            return np.where(at >= 0, total[np.maximum(at, 0)], np.nan), int(inside.sum())
        return np.full(len(self.genes), np.nan), 0


def quantise(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float]:
    """Write values as one byte per cell.

    Parameters
    ----------
    values
        Expression of one gene, zero or more; NaN where it is not known.

    Returns
    -------
    The bytes (255: not known), and the value that byte 254 stands for; 0 where no cell has the gene.

    Examples
    --------
    >>> quantise(np.array([0, 1, 2, np.nan], dtype=np.float32))
    (array([  0, 127, 254, 255], dtype=uint8), 2.0)
    """
    known = ~np.isnan(values)
    largest = float(values[known].max()) if known.any() else 0.0
    scaled = np.rint(np.nan_to_num(values) * (LEVELS / largest if largest > 0 else 0.0))
    return np.where(known, scaled, NOT_MEASURED).astype(np.uint8), largest


def arm_of(adata: ad.AnnData | None, *, role: str, places: pd.DataFrame | None, layer: str | None = None) -> Arm:
    """Make an arm of the cells of one role.

    Parameters
    ----------
    adata
        Raw counts; None where they are no longer there: the arm then has places and no expression.
    role
        Name of the arm.
    places
        Rows of the embedding table for this role, whose cells the arm consists of; None: all cells, none on the map.
    layer
        Layer of ``adata`` that holds the counts; None is X.

    Returns
    -------
    The arm; its genes are those of ``adata``.
    """
    if places is not None:
        axes = [str(name) for name in places.columns[-2:]]
        names = places[keys.CELL_ID].astype(str).to_numpy()
        x, y = places[axes[0]].to_numpy(float), places[axes[1]].to_numpy(float)
        types = places[keys.CELL_TYPE].fillna("").astype(str).to_numpy() if keys.CELL_TYPE in places else ""
    elif adata is not None:
        names = adata.obs_names.astype(str).to_numpy()
        x = y = np.full(len(names), np.nan)
        types = _texts(adata.obs, keys.CELL_TYPE)
    else:
        return Arm(_table((), role=role))
    table = _table(names, role=role, types=types, x=x, y=y)
    if adata is None:
        return Arm(table)
    rows = pd.Index(adata.obs_names.astype(str)).get_indexer(names)
    if (rows < 0).any():  # another file than the one that the map was made from
        return Arm(table)
    table[keys.DONOR] = _texts(adata.obs, keys.DONOR)[rows] if keys.DONOR in adata.obs else ""
    counts = adata.X if layer is None else adata.layers[layer]
    expression = log_normalise(sparse.csr_matrix(counts)[rows]).astype(np.float32).tocsc()
    genes = pd.Index(adata.var_names.astype(str), dtype=object)
    first = ~genes.duplicated()
    return Arm(table, expression if first.all() else expression[:, np.flatnonzero(first)], genes[first])


def _texts(table: pd.DataFrame, column: str) -> NDArray[np.object_]:
    """A column as texts, "" where it is missing or empty."""
    if column not in table:
        return np.full(len(table), "", dtype=object)
    return np.asarray(table[column].astype(object).fillna("").astype(str).to_numpy(object))


def _table(
    names: Sequence[str] | NDArray[np.object_],
    *,
    role: str,
    types: NDArray[np.object_] | str = "",
    x: NDArray[np.float64] | float = np.nan,
    y: NDArray[np.float64] | float = np.nan,
) -> pd.DataFrame:
    columns = {keys.CELL_ID: names, ROLE: role, keys.CELL_TYPE: types, keys.DONOR: "", X: x, Y: y}
    return pd.DataFrame(columns, index=range(len(names)))
