"""How notebooks and IPython show the values that have no display of their own: records, jobs, estimates, atlases.

In: the formatters of an IPython shell. Out: cards for each class of :data:`CARDS`, and their text.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haystack_kernel.report.html import Html

CARDS = {  # module and class of a value: module and function of its card
    ("haystack_kernel.schema.query", "StructuredQuery"): ("parts", "question_card"),
    ("haystack_kernel.schema.run", "RunRecord"): ("cards", "run_card"),
    ("haystack_kernel.schema.jobs", "CostEstimate"): ("cards", "estimate_card"),
    ("haystack_kernel.schema.jobs", "JobHandle"): ("cards", "job_card"),
    ("haystack_kernel.schema.jobs", "JobStatus"): ("cards", "job_status_card"),
    ("haystack_kernel.schema.jobs", "Bill"): ("cards", "bill_card"),
    ("haystack_kernel.schema.score", "Composite"): ("cards", "score_card"),
    ("haystack_kernel.schema.score", "Component"): ("cards", "component_card"),
    ("haystack_kernel.schema.cells", "Candidate"): ("cards", "candidate_card"),
    ("haystack_kernel.schema.cells", "CellSet"): ("cards", "cell_set_card"),
    ("haystack_kernel.retrieval.query_check", "QueryCheck"): ("cards", "check_card"),
    ("haystack_kernel.atlas.record", "AtlasRecord"): ("cards", "atlas_card"),
    ("haystack_kernel.atlas.index", "AtlasCollection"): ("cards", "collection_card"),
}


def card_of(value: object) -> Html | None:
    """Return the card of ``value``; None for a class that has none."""
    kind = type(value)
    found = CARDS.get((kind.__module__, kind.__qualname__))
    if found is None:
        return None
    made: Html = getattr(import_module(f"haystack_kernel.report.{found[0]}"), found[1])(value)
    return made


def register(formatters: dict[str, Any]) -> None:
    """Teach the ``text/html`` and ``text/plain`` formatters of a shell the classes of :data:`CARDS`, by name.

    Nothing is imported until such a value is shown.
    """
    for module, name in CARDS:
        formatters["text/html"].for_type_by_name(module, name, _shown_as_html)
        formatters["text/plain"].for_type_by_name(module, name, _shown_as_text)


def _shown_as_html(value: object) -> str:
    made = card_of(value)
    return "" if made is None else made._repr_html_()


def _shown_as_text(value: object, printer: Any, cycle: bool) -> None:  # noqa: ANN401, FBT001 - IPython's
    printer.text(repr(card_of(value)))
