"""Have the planner read the papers of the best round beside the rules; the report shows both readings.

In: the record and the ports. Out: ``rounds/<n>/readings.json``, and what reading used; nothing for a planner of rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.ports import PapersToRead
from haystack_kernel.rounds.literature import find_papers, predicted_directions
from haystack_kernel.rounds.planning import planner_view
from haystack_kernel.schema import Citations, Usage
from haystack_kernel.store import layout

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import Paper, RunRecord

N_PAPERS = 6  # each is one request, and one more where its answer is repaired: within claude.max_turns


def read_again(record: RunRecord, ports: Ports, *, number: int, de: pd.DataFrame) -> Usage:
    """Write what the planner reads in the papers of a round, once.

    Papers that the rules take for a contradiction are read first, then those that support the prediction, then others
    of the same search. Retracted papers are left out.
    """
    run_id, store = record.run_id, ports.store
    path, cited = (layout.round_file(number, name) for name in (layout.READINGS, layout.CITATIONS))
    treatment = record.query.perturbation if record.query else None
    if treatment is None or store.exists(run_id, path) or not store.exists(run_id, cited):
        return Usage()
    papers, scored = _papers(record, ports, citations=Citations.model_validate_json(store.read(run_id, cited)))
    if not papers:
        return Usage()
    asked = PapersToRead(
        papers=papers,
        treatment=treatment,
        genes=[str(gene) for gene in de[keys.GENE]],
        predicted=predicted_directions(de),
        scored=scored,
    )
    planner = ports.planner_named(record.config.planner)
    readings, usage = planner.read_papers(asked, view=planner_view(record, ports, step="read"))
    if readings is not None:
        store.write(run_id, path, readings.model_dump_json(indent=1).encode())
    return usage


def _papers(record: RunRecord, ports: Ports, *, citations: Citations) -> tuple[list[Paper], frozenset[str]]:
    """The papers to read, and the ids of all that count in the score."""
    found = None if citations.reason else find_papers(record, ports)
    searched = found.papers if found else ()
    papers = {paper.id: paper for paper in (*(item.paper for item in citations.citations), *searched)}
    scored = {item.paper.id for item in citations.citations if item.scored} | {paper.id for paper in searched}
    return list(filter(_is_readable, papers.values()))[:N_PAPERS], frozenset(scored)


def _is_readable(paper: Paper) -> bool:
    return bool(paper.abstract) and not paper.retracted
