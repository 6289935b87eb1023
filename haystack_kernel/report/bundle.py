"""Everything a report is made of, read from the run folder.

In: a record and the store. Out: :class:`ReportBundle`; the report is a pure function of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.schema import Citations
from haystack_kernel.store import layout, read_csv

if TYPE_CHECKING:
    import pandas as pd
    from nbformat import NotebookNode

    from haystack_kernel.ports import Store
    from haystack_kernel.schema import RunRecord


@dataclass(frozen=True)
class RoundTables:
    """The tables of the best round; ``embedding`` is made when a run is published, None before."""

    de: pd.DataFrame
    pathways: pd.DataFrame
    prompts: pd.DataFrame
    embedding: pd.DataFrame | None = None


@dataclass(frozen=True)
class ReportBundle:
    """The record, the best round's tables (None before a round was scored), the notebook and the citations if any."""

    record: RunRecord
    tables: RoundTables | None = None
    notebook: NotebookNode | None = None
    citations: Citations | None = None


def load_bundle(record: RunRecord, store: Store, *, notebook: NotebookNode | None = None) -> ReportBundle:
    """Read the tables of the best round, if there is one.

    Raises
    ------
    NotFoundError
        A table is missing; resuming the run makes it again.
    """
    if record.best_round is None:
        return ReportBundle(record=record, notebook=notebook)
    folder = layout.round_folder(record.best_round)
    names = ["de", "pathways", "prompts"]
    names += ["embedding"] if store.exists(record.run_id, f"{folder}/{layout.EMBEDDING}") else []
    tables = RoundTables(**{name: read_csv(store, record.run_id, f"{folder}/{name}.csv") for name in names})
    cited = None
    if store.exists(record.run_id, f"{folder}/{layout.CITATIONS}"):
        cited = Citations.model_validate_json(store.read(record.run_id, f"{folder}/{layout.CITATIONS}"))
    return ReportBundle(record=record, tables=tables, notebook=notebook, citations=cited)
