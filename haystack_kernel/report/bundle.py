"""Read everything that a report shows from the run folder.

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
    """The tables of the best round; ``embedding`` is None until the run is published."""

    de: pd.DataFrame
    pathways: pd.DataFrame
    prompts: pd.DataFrame
    embedding: pd.DataFrame | None = None


@dataclass(frozen=True)
class ReportBundle:
    """The record, the tables of its best round (None before a round was scored), the notebook and the citations."""

    record: RunRecord
    tables: RoundTables | None = None
    notebook: NotebookNode | None = None
    citations: Citations | None = None


def load_bundle(record: RunRecord, store: Store, *, notebook: NotebookNode | None = None) -> ReportBundle:
    """Read the tables and citations of the best round, if there is one.

    Parameters
    ----------
    record
        The run.
    store
        Where its run folder is.
    notebook
        The executed notebook that made the run, to be shown in the report.

    Returns
    -------
    What :func:`render_report` needs.

    Raises
    ------
    NotFoundError
        A table is missing; resuming the run writes it again.

    Examples
    --------
    >>> load_bundle(store.load(run_id), store).tables.de  # doctest: +SKIP
    """
    run_id, number = record.run_id, record.best_round
    if number is None:
        return ReportBundle(record=record, notebook=notebook)

    def read(name: str) -> pd.DataFrame:
        return read_csv(store, run_id, layout.round_file(number, name))

    # The embedding is written when a run is published; citations are absent in runs of versions without a search.
    has_embedding = store.exists(run_id, layout.round_file(number, layout.EMBEDDING))
    has_citations = store.exists(run_id, layout.round_file(number, layout.CITATIONS))
    tables = RoundTables(
        de=read(layout.DE),
        pathways=read(layout.PATHWAYS),
        prompts=read(layout.PROMPTS),
        embedding=read(layout.EMBEDDING) if has_embedding else None,
    )
    citations = None
    if has_citations:
        citations = Citations.model_validate_json(store.read(run_id, layout.round_file(number, layout.CITATIONS)))
    return ReportBundle(record=record, tables=tables, notebook=notebook, citations=citations)
