"""Run records for people: parts for notebooks, the offline report."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "agreement_table": "parts",
    "answer": "summary",
    "CandidateTable": "candidates",
    "candidate_table": "candidates",
    "query_card": "parts",
    "rounds_table": "parts",
    "cell_table": "tables",
    "gene_table": "tables",
    "pathway_table": "tables",
    "run_card": "cards",
    "screen_card": "screens",
    "score_table": "parts",
    "trust_table": "trust",
    "ReportBundle": "bundle",
    "RoundTables": "bundle",
    "load_bundle": "bundle",
    "add_notebook": "render",
    "build_bundle": "bundle",
    "render_notebook": "render",
    "render_page": "render",
    "render_report": "render",
}
__all__ = [*_WHERE]  # noqa: PLE0604 - all are strings


def __getattr__(name: str) -> Any:  # noqa: ANN401 - matplotlib and pandas load with the page, not with a card
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    msg = f"haystack_kernel.report has no {name!r}; it has {', '.join(__all__)}"
    raise AttributeError(msg)
