"""Read everything that a report shows from the run folder.

In: a record and the store. Out: :class:`ReportBundle`; the report is a pure function of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from haystack_kernel.report.candidates import candidate_table
from haystack_kernel.schema import Citations, ModelReadings, Transcript
from haystack_kernel.store import CallFolder, layout, parse_csv, to_csv, to_transcript

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from nbformat import NotebookNode

    from haystack_kernel.ports import Store
    from haystack_kernel.report.html import Html
    from haystack_kernel.schema import Call, RunRecord


_NEEDED = (layout.DE, layout.PATHWAYS, layout.PROMPTS)


@dataclass(frozen=True)
class RoundTables:
    """The tables of the best round; ``embedding`` is None until the run is published."""

    de: pd.DataFrame
    pathways: pd.DataFrame
    prompts: pd.DataFrame
    embedding: pd.DataFrame | None = None


@dataclass(frozen=True)
class ReportBundle:
    """What a report is a pure function of.

    Attributes
    ----------
    record
        The run.
    tables
        The tables of its best round; None before a round was scored.
    notebook
        The executed notebook that made the run.
    citations
        The papers of the best round.
    readings
        What a language model read in them; None where none was asked.
    files
        The same tables and papers as the bytes of their files, by name; the report holds them for saving.
    explorer
        Pictures of its cells and genes; None where its cells are not at hand.
    """

    record: RunRecord
    tables: RoundTables | None = None
    notebook: NotebookNode | None = None
    citations: Citations | None = None
    readings: ModelReadings | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    explorer: Html | None = None

    @property
    def calls(self) -> tuple[Call, ...]:
        """The requests to a language model, in order; none for a planner of rules."""
        held = self.files.get(layout.TRANSCRIPT)
        return () if held is None else Transcript.model_validate_json(held).calls


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
        return build_bundle(record, _transcript(record, store), notebook=notebook)
    # The embedding is written when a run is published, readings by a language model alone; citations are absent in runs
    # of versions without a search.
    names = (*_NEEDED, layout.EMBEDDING, layout.CITATIONS, layout.READINGS)
    paths = {name: layout.round_file(number, name) for name in names}
    wanted = [name for name in paths if name in _NEEDED or store.exists(run_id, paths[name])]
    files = {name: store.read(run_id, paths[name]) for name in wanted}
    files[layout.CANDIDATES] = to_csv(candidate_table(record).to_frame())
    return build_bundle(record, files | _transcript(record, store), notebook=notebook)


def build_bundle(
    record: RunRecord, files: Mapping[str, bytes], *, notebook: NotebookNode | None = None
) -> ReportBundle:
    """Make the bundle from the bytes of its files.

    Parameters
    ----------
    record
        The run.
    files
        Content of the files of the best round, by name; none where no round was scored.
    notebook
        The executed notebook.

    Returns
    -------
    What :func:`render_report` needs.

    Examples
    --------
    >>> build_bundle(record, {}).tables is None  # doctest: +SKIP
    True
    """
    if not all(name in files for name in _NEEDED):
        return ReportBundle(record=record, notebook=notebook, files=files)
    embedding, citations = files.get(layout.EMBEDDING), files.get(layout.CITATIONS)
    de, pathways, prompts = (parse_csv(files[name]) for name in _NEEDED)
    tables = RoundTables(de, pathways, prompts, None if embedding is None else parse_csv(embedding))
    papers = None if citations is None else Citations.model_validate_json(citations)
    read = files.get(layout.READINGS)
    readings = None if read is None else ModelReadings.model_validate_json(read)
    return ReportBundle(
        record=record, tables=tables, notebook=notebook, citations=papers, readings=readings, files=files
    )


def _transcript(record: RunRecord, store: Store) -> dict[str, bytes]:
    """The requests to a language model as the file that planner replay reads; empty without any."""
    calls = CallFolder(store, record.run_id).calls
    return {layout.TRANSCRIPT: to_transcript(calls)} if calls else {}
