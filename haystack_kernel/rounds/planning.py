"""What a planner may look at while it works on a step, and what it has cost.

In: the run record and the ports. Out: a PlannerView; the record with the bills of the planner.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from haystack_kernel.jobs.places import Places
from haystack_kernel.jobs.spending import read_spending
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.ports import PlannerView
from haystack_kernel.rounds.record import query_of
from haystack_kernel.schema import MODEL_PLANNERS
from haystack_kernel.store import CallFolder, bills_of, locate

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.ports import Atlas, Ports
    from haystack_kernel.schema import Candidate, PaperSearch, RunRecord

_N_EFFECT_CELLS = 300  # of each side of a measured effect; it is looked at, not scored


def planner_view(record: RunRecord, ports: Ports, *, step: str) -> PlannerView:
    """Return what the planner may look at in ``step``; nothing is read before it is asked for."""

    def conditions() -> pd.DataFrame:
        from haystack_kernel.retrieval import build_view

        config = locate(record.config, ports, run_id=record.run_id)
        settings = ports.settings.retrieval
        view = build_view(
            _cells(record, ports), knowledge=load_knowledge(ports.settings.knowledge), settings=settings, config=config
        )
        return view.conditions

    def spending() -> tuple[float, float]:
        places = Places(ports.patience_s, clock=ports.clock)
        found = read_spending(ports.store.uri(record.run_id), places=places, settings=ports.settings.batch)
        return found.spent_usd, found.reserved_usd

    def find_papers() -> PaperSearch | None:
        from haystack_kernel.rounds.literature import find_papers as search

        return search(record, ports)

    return PlannerView(
        run_id=record.run_id,
        step=step,
        config=locate(record.config, ports, run_id=record.run_id),
        store=ports.store,
        progress=ports.progress,
        conditions=cache(conditions),
        effect=lambda candidate: _effect(candidate, record, ports),
        find_papers=cache(find_papers),
        spending=spending,
    )


def keep_planner_bills(record: RunRecord, ports: Ports) -> RunRecord:
    """The record with what its planner has cost so far; unchanged for a planner of rules."""
    if record.config.planner not in MODEL_PLANNERS:
        return record
    return record.with_bills(bills_of(CallFolder(ports.store, record.run_id).calls))


def _cells(record: RunRecord, ports: Ports) -> Atlas:
    from haystack_kernel.retrieval import open_cells

    return open_cells(
        locate(record.config, ports, run_id=record.run_id), ports, query=query_of(record), run_id=record.run_id
    )


def _effect(candidate: Candidate, record: RunRecord, ports: Ports) -> pd.Series | None:
    """Mean difference of log1p(CP10k), in log2, between the prompt cells of a candidate and their control cells."""
    import numpy as np
    import pandas as pd
    from scipy import sparse

    if candidate.control is None:
        return None
    atlas, means = _cells(record, ports), []
    for cell_set in (candidate.prompt, candidate.control):
        rows = atlas.select(cell_set)
        few = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _N_EFFECT_CELLS)).astype(int))]
        adata = atlas.fetch(few)
        counts = sparse.csr_matrix(adata.X)
        depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
        logged = sparse.diags(1e4 / depth) @ counts
        logged.data = np.log1p(logged.data)
        means.append(pd.Series(np.asarray(logged.mean(axis=0)).ravel(), index=adata.var_names))
    return (means[0] - means[1]).dropna() / np.log(2)
