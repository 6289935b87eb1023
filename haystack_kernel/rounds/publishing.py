"""The last steps: the answer in words, the files at the top of the run folder, the report.

In: a record whose rounds have ended. Out: interpretation; predictions.h5ad, de.csv, pathways.csv, prompts.csv,
citations.json, candidates.csv, embedding.csv and report.html beside ``run.json``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.ports import Answer
from haystack_kernel.rounds import embed, planner_view
from haystack_kernel.rounds.reading import read_again
from haystack_kernel.rounds.tested import compare_with_hidden
from haystack_kernel.store import CallFolder, hide_home, layout, read_csv, to_transcript, write_csv

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Ports, Store
    from haystack_kernel.report import ReportBundle
    from haystack_kernel.schema import Interpretation, RunRecord


def interpret(record: RunRecord, ports: Ports) -> Answer[Interpretation]:
    """Ask the planner to read the papers of the best round, and for the answer in words from its tables."""
    number = _best_number(record)
    folder = layout.round_folder(number)
    de = read_csv(ports.store, record.run_id, f"{folder}/{layout.DE}")
    pathways = read_csv(ports.store, record.run_id, f"{folder}/{layout.PATHWAYS}")
    view = planner_view(record, ports, step="interpret")
    used = read_again(record, ports, number=number, de=de)
    said, usage = ports.planner_named(record.config.planner).interpret(record, de=de, pathways=pathways, view=view)
    return Answer(said, used + usage)


def publish(record: RunRecord, ports: Ports) -> RunRecord:
    """Copy the best round's files to the top of the folder and write the report; the run is done."""
    from haystack_kernel.report import candidate_table

    folder, store, run_id = layout.round_folder(_best_number(record)), ports.store, record.run_id
    embed(record, ports, number=_best_number(record))
    # rounds of earlier versions have no citations
    has_citations = store.exists(run_id, f"{folder}/{layout.CITATIONS}")
    names = (*layout.PUBLISHED, layout.CITATIONS) if has_citations else layout.PUBLISHED
    files = [store.write(run_id, name, store.read(run_id, f"{folder}/{name}")) for name in names]
    files.append(write_csv(store, run_id, layout.CANDIDATES, candidate_table(record).to_frame()))
    if calls := CallFolder(store, run_id).calls:
        files.append(store.write(run_id, layout.TRANSCRIPT, to_transcript(calls)))
    update = {"status": "done", "files": tuple(files), "truth": compare_with_hidden(record, ports)}
    record = record.model_copy(update=update)
    write_report(record, ports)
    return record


def report_bundle(
    record: RunRecord, store: Store, *, knowledge: Knowledge, notebook: NotebookNode | None = None
) -> ReportBundle:
    """Read everything that the report of a run shows, its cells too."""
    from haystack_kernel.explorer import report_part
    from haystack_kernel.report import load_bundle

    bundle = load_bundle(record, store, notebook=notebook)
    return replace(bundle, explorer=report_part(record, store, knowledge=knowledge))


def write_report(record: RunRecord, ports: Ports, *, notebook: NotebookNode | None = None, reuse: bool = False) -> str:
    """Render ``report.html`` from the record and its artifacts; returns its address.

    Parameters
    ----------
    notebook
        The executed notebook, folded into the report; None leaves it out (a notebook cannot hold itself while it
        still runs).
    reuse
        Put the notebook into the report that is there, where it tells the same: its figures are not drawn again.
    """
    from haystack_kernel.report import add_notebook, render_report
    from haystack_kernel.report.render import sealed

    page, store = None, ports.store
    if reuse and notebook is not None and store.exists(record.run_id, layout.REPORT):
        page = add_notebook(store.read(record.run_id, layout.REPORT).decode(), record, notebook)
    if page is None:
        knowledge = load_knowledge(ports.settings.knowledge)
        page = render_report(report_bundle(record, store, knowledge=knowledge, notebook=notebook))
    store.write(record.run_id, layout.REPORT, sealed(hide_home(page)).encode())
    return store.uri(record.run_id, layout.REPORT)


def _best_number(record: RunRecord) -> int:
    if record.best_round is None:
        msg = f"run {record.run_id} has no finished round, so there is nothing to publish"
        raise ContractError(msg, run_id=record.run_id)
    return record.best_round
