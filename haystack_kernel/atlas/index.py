"""One or several atlases as one collection of cells: conditions, selection by criteria, counts of selected cells.

In: built atlases. Out: tables and AnnData; implements :class:`haystack_kernel.ports.Atlas`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.atlas.check import check_whole
from haystack_kernel.atlas.fetch import CellReader, join_parts, load_genes
from haystack_kernel.atlas.grouping import FIRST_ROW, MEDIAN_COUNTS, MEDIAN_GENES, N_CELLS, rows_of
from haystack_kernel.atlas.publish import glob_literal, groups_query
from haystack_kernel.atlas.record import AtlasRecord, atlas_folder, find_part, list_atlases, load_record
from haystack_kernel.atlas.shield import shielded
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
    keys.CONTROL_KIND,
)
_LISTED = ", ".join((*CONDITION_COLUMNS, N_CELLS, MEDIAN_COUNTS, MEDIAN_GENES, FIRST_ROW))
_NAMED = ", ".join(
    column if column == keys.IS_CONTROL else f"COALESCE({column}, '') AS {column}" for column in CONDITION_COLUMNS
)
_CONDITIONS = (
    f"SELECT {keys.ATLAS}, {_NAMED}, {N_CELLS}, {MEDIAN_COUNTS}, {MEDIAN_GENES} FROM groups "
    f"ORDER BY position, {', '.join(f'groups.{column}' for column in CONDITION_COLUMNS)}"
)
_SPANS = f"SELECT {keys.DATASET}, {FIRST_ROW}, {N_CELLS} FROM groups WHERE {keys.ATLAS} = $atlas AND "


def open_atlases(names: Sequence[str], *, root: str | Path, reader: CellReader | None = None) -> AtlasCollection:
    """Open atlases by name.

    Parameters
    ----------
    names
        Names of the atlases; at least one.
    root
        Folder of the atlases.
    reader
        Reads the expression; None keeps nothing on this disk besides the atlas.

    Returns
    -------
    The atlases as one collection, which can be searched and read.

    Raises
    ------
    NotFoundError
        An atlas does not exist (the message lists those that do), or a source file has moved.
    InvalidInputError
        No name was given, or a source file has changed since the atlas was built.
    """
    if not names:
        known = ", ".join(list_atlases(root)) or "none"
        msg = f"no atlas was named; atlases under {root}: {known}"
        raise InvalidInputError(msg, root=str(root))
    records = {}
    for name in dict.fromkeys(names):
        records[name] = load_record(name, root)
        check_whole(records[name], atlas_folder(name, root))
    return AtlasCollection(records, root=root, reader=reader)


class AtlasCollection:
    """The cells of one or several atlases as one collection."""

    def __init__(self, records: dict[str, AtlasRecord], *, root: str | Path, reader: CellReader | None = None) -> None:
        self._records = records
        self._reader = reader or CellReader()
        self._folders = {name: atlas_folder(name, root) for name in records}
        self._connection = duckdb.connect(":memory:")
        self._conditions: pd.DataFrame | None = None
        self._load_groups()

    def __repr__(self) -> str:
        held = ", ".join(f"{name} ({record.n_cells:,} cells)" for name, record in self._records.items())
        return f"AtlasCollection({held})"

    @property
    def records(self) -> dict[str, AtlasRecord]:
        """What each atlas holds, by name, as it was counted when the atlas was built."""
        return dict(self._records)

    def conditions(self) -> pd.DataFrame:
        """One row per distinct condition; see :meth:`haystack_kernel.ports.Atlas.conditions`.

        They come from the groups that were counted when the atlas was built, not from the cells.
        """
        if self._conditions is None:
            self._conditions = self._read_conditions()
        return self._conditions.copy()

    def select(self, cell_set: CellSet) -> pd.DataFrame:
        """Rows of cells.parquet that satisfy the criteria, with ``cell_id`` and ``atlas``; ordered by cell_id.

        The groups hold the positions of the cells, so only the blocks with these cells are read.

        Raises
        ------
        NotFoundError
            The atlas is not one of this collection, or another build replaced it more than a day ago.
        """
        datasets = self._record(cell_set.atlas).datasets
        criteria, values = _criteria(cell_set)
        spans = self._query(f"{_SPANS}{criteria} ORDER BY {FIRST_ROW}", {"atlas": cell_set.atlas, **values})
        parts = [
            self._rows(cell_set.atlas, datasets[str(dataset)], rows) for dataset, rows in spans.groupby(keys.DATASET)
        ]
        cells = pd.concat(parts, ignore_index=True) if parts else _no_cells()
        start = f"{cell_set.atlas}/"
        pairs = zip(cells[keys.DATASET].tolist(), cells[keys.CELL_INDEX].tolist(), strict=True)
        cells.insert(0, keys.CELL_ID, [f"{start}{dataset}/{row}" for dataset, row in pairs])
        cells.insert(1, keys.ATLAS, cell_set.atlas)
        return cells.sort_values(keys.CELL_ID, ignore_index=True)

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

    @shielded
    def _read_conditions(self) -> pd.DataFrame:
        with self._connection.cursor() as cursor:
            return cursor.sql(_CONDITIONS).to_arrow_table().to_pandas()  # takes a third less time than df()

    @shielded
    def _load_groups(self) -> None:
        """Read the groups of all atlases into memory, so that a later build does not change this collection."""
        for position, (name, record) in enumerate(self._records.items()):
            files = [glob_literal(find_part(entry.groups, self._folders[name])) for entry in record.datasets.values()]
            into = "INSERT INTO groups" if position else "CREATE TABLE groups AS"
            self._connection.execute(
                f"{into} SELECT $atlas::VARCHAR AS {keys.ATLAS}, {_LISTED}, $position::INTEGER AS position FROM "
                f"({groups_query(files, self._connection)})",
                {"atlas": name, "position": position},
            )

    @shielded
    def _query(self, query: str, values: dict[str, Any]) -> pd.DataFrame:
        with self._connection.cursor() as cursor:  # a cursor per query: widgets ask from several threads
            return cursor.execute(query, values).df()

    def _rows(self, atlas: str, entry: DatasetRecord, spans: pd.DataFrame) -> pd.DataFrame:
        path = find_part(entry.cells, self._folders[atlas])
        if not path.is_file():
            msg = (
                f"{path.name} of atlas {atlas!r} does not exist any more: the atlas was built again more than a day "
                "ago; open it again"
            )
            raise NotFoundError(msg, path=str(path), atlas=atlas)
        places = list(zip(spans[FIRST_ROW].tolist(), spans[N_CELLS].tolist(), strict=True))
        found: pd.DataFrame = rows_of(path, places).to_pandas()
        return found

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


def _no_cells() -> pd.DataFrame:
    kinds = {keys.CELL_INDEX: "int64", keys.IS_CONTROL: "bool", keys.N_GENES: "int32", keys.TOTAL_COUNTS: "float64"}
    return pd.DataFrame({name: pd.Series(dtype=kinds.get(name, "object")) for name in keys.CELL_COLUMNS})


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
        keys.CONTROL_KIND: cell_set.control_kinds,
    }
    for column, wanted in groups.items():
        if wanted:
            parts.append(f"{column} = ANY(${column})")
            values[column] = list(wanted)
    return " AND ".join(parts), values
