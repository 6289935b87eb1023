"""Several atlases as one collection of cells: conditions, selection by criteria, counts of the selected cells.

In: built atlases. Out: tables and AnnData; implements :class:`haystack_kernel.ports.Atlas`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.atlas.fetch import CellReader, join_parts, load_genes
from haystack_kernel.atlas.publish import glob_literal
from haystack_kernel.atlas.record import AtlasRecord, atlas_folder, check_whole, list_atlases, load_record
from haystack_kernel.errors import InvalidInputError, MissingKeyError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata as ad

    from haystack_kernel.atlas.record import DatasetRecord
    from haystack_kernel.schema import CellSet

CONDITION_COLUMNS = (
    keys.DATASET,
    keys.CELL_TYPE_ID,
    keys.CELL_TYPE,
    keys.PERTURBATION,
    keys.PERTURBATION_TYPE,
    keys.IS_CONTROL,
    keys.TISSUE_ID,
    keys.TISSUE,
    keys.DONOR,
    keys.DONOR_SEX,
    keys.DONOR_AGE,
    keys.DISEASE_ID,
    keys.DISEASE,
    keys.CONDITION,
)
_LISTED = ", ".join(CONDITION_COLUMNS)
_CONDITIONS = (
    f"SELECT $atlas AS atlas, {_LISTED}, count(*) AS n_cells, median(total_counts) AS median_total_counts "
    f"FROM read_parquet($index) GROUP BY {_LISTED} ORDER BY {_LISTED}"
)
_CELLS = (
    f"SELECT concat($atlas, '/', {keys.DATASET}, '/', {keys.CELL_INDEX}) AS {keys.CELL_ID}, $atlas AS {keys.ATLAS}, "
    f"{', '.join(keys.CELL_COLUMNS)} FROM read_parquet($index)"
)


def open_atlases(names: Sequence[str], *, root: str | Path, reader: CellReader | None = None) -> AtlasCollection:
    """Open atlases by name.

    Parameters
    ----------
    reader
        Reads expression; None keeps nothing on this disk beside the atlas.

    Raises
    ------
    NotFoundError
        No such atlas (the message lists those there are), or a source file has moved.
    InvalidInputError
        No name given, or a source file has changed since the atlas was built.
    """
    if not names:
        known = ", ".join(list_atlases(root)) or "none"
        msg = f"no atlas named; there is {known} under {root}"
        raise InvalidInputError(msg, root=str(root))
    records = {}
    for name in dict.fromkeys(names):
        records[name] = load_record(name, root)
        check_whole(records[name], atlas_folder(name, root))
    return AtlasCollection(records, root=root, reader=reader)


class AtlasCollection:
    """Cells of one or several atlases seen as one collection."""

    def __init__(self, records: dict[str, AtlasRecord], *, root: str | Path, reader: CellReader | None = None) -> None:
        self._records = records
        self._reader = reader or CellReader()
        self._folders = {name: atlas_folder(name, root) for name in records}
        self._connection = duckdb.connect(":memory:")
        self._conditions: pd.DataFrame | None = None

    def __repr__(self) -> str:
        held = ", ".join(f"{name} ({record.n_cells:,} cells)" for name, record in self._records.items())
        return f"AtlasCollection({held})"

    def conditions(self) -> pd.DataFrame:
        """One row per distinct condition; see :meth:`haystack_kernel.ports.Atlas.conditions`."""
        if self._conditions is None:
            tables = [self._query(_CONDITIONS, name, {}) for name in self._records]
            self._conditions = pd.concat(tables, ignore_index=True)
        return self._conditions.copy()

    def select(self, cell_set: CellSet) -> pd.DataFrame:
        """Rows of cells.parquet that satisfy the criteria, with ``cell_id`` and ``atlas``; ordered by cell_id.

        Raises
        ------
        NotFoundError
            The atlas is not one of this collection.
        """
        self._record(cell_set.atlas)
        criteria, values = _criteria(cell_set)
        return self._query(f"{_CELLS} WHERE {criteria} ORDER BY {keys.CELL_ID}", cell_set.atlas, values)

    def fetch(self, cells: pd.DataFrame) -> ad.AnnData:
        """Raw counts of the rows given (from :meth:`select`), in their order.

        Returns
        -------
        ``X`` float32 CSR counts; obs index = ``cell_id`` and the other columns of ``cells``; var index = upper-case
        symbols. Gene space of the source, or the union over several sources with 0 for a gene that a source lacks.

        Raises
        ------
        MissingKeyError
            ``cells`` lacks atlas, dataset, cell_index or cell_id.
        InvalidInputError
            ``cells`` is empty.
        """
        import anndata as ad

        needed = (keys.CELL_ID, keys.ATLAS, keys.DATASET, keys.CELL_INDEX)
        if absent := [name for name in needed if name not in cells.columns]:
            msg = f"cells lack {absent}; they have {list(cells.columns)}. Pass rows of select()"
            raise MissingKeyError(msg, absent=absent)
        if cells.empty:
            msg = "no cells to fetch; widen the criteria of the cell set"
            raise InvalidInputError(msg)
        parts, places = [], []
        pairs = pd.MultiIndex.from_frame(cells[[keys.ATLAS, keys.DATASET]])
        codes, named = pairs.factorize()
        for number, (atlas, dataset) in enumerate(named):
            place = np.flatnonzero(codes == number)
            entry = self._dataset(atlas, dataset)
            parts.append(self._reader.fetch_part(entry, self._folders[atlas], cells.iloc[place]))
            places.append(place)
        matrix, symbols = join_parts(parts)
        order = np.argsort(np.concatenate(places), kind="stable")
        if not np.array_equal(order, np.arange(len(order))):
            matrix = matrix[order]
        obs = cells.set_index(keys.CELL_ID)
        return ad.AnnData(X=matrix, obs=obs, var=pd.DataFrame(index=pd.Index(symbols)))

    def genes(self, atlas: str, dataset: str) -> tuple[str, ...]:
        """Gene symbols of one dataset, in the order of :meth:`fetch`."""
        return load_genes(self._dataset(atlas, dataset), self._folders[atlas])[0]

    def digests(self) -> dict[str, str]:
        """Atlas name -> digest of its index, gene lists and sources."""
        return {name: record.digest for name, record in self._records.items()}

    def _query(self, query: str, atlas: str, values: dict[str, Any]) -> pd.DataFrame:
        index = self._folders[atlas] / self._records[atlas].index.path
        bound = {"atlas": atlas, "index": glob_literal(index), **values}
        with self._connection.cursor() as cursor:  # a cursor per query: widgets ask from several threads
            return cursor.execute(query, bound).df()

    def _record(self, atlas: str) -> AtlasRecord:
        if atlas not in self._records:
            msg = f"atlas {atlas!r} is not open; open are {', '.join(self._records)}"
            raise NotFoundError(msg, atlas=atlas, known=list(self._records))
        return self._records[atlas]

    def _dataset(self, atlas: str, dataset: str) -> DatasetRecord:
        datasets = self._record(atlas).datasets
        if dataset not in datasets:
            msg = f"atlas {atlas!r} has no dataset {dataset!r}; it has {', '.join(datasets)}"
            raise NotFoundError(msg, atlas=atlas, dataset=dataset, known=list(datasets))
        return datasets[dataset]


def _criteria(cell_set: CellSet) -> tuple[str, dict[str, Any]]:
    """SQL condition of column names and placeholders only; every value is bound."""
    parts = [f"{keys.IS_CONTROL} = $is_control"]
    values: dict[str, Any] = {"is_control": cell_set.is_control}
    if cell_set.dataset:
        parts.append(f"{keys.DATASET} = $dataset")
        values["dataset"] = cell_set.dataset
    if cell_set.perturbation is not None:
        parts.append(f"{keys.PERTURBATION} = $perturbation")
        values["perturbation"] = cell_set.perturbation
    types = {keys.CELL_TYPE_ID: cell_set.cell_type_ids, keys.CELL_TYPE: cell_set.cell_type_names}
    if named := {column: list(wanted) for column, wanted in types.items() if wanted}:
        parts.append("(" + " OR ".join(f"{column} = ANY(${column})" for column in named) + ")")
        values |= named
    groups = {
        keys.DONOR: cell_set.donor_ids,
        keys.TISSUE_ID: cell_set.tissue_ids,
        keys.DISEASE_ID: cell_set.disease_ids,
    }
    for column, wanted in groups.items():
        if wanted:
            parts.append(f"{column} = ANY(${column})")
            values[column] = list(wanted)
    return " AND ".join(parts), values
