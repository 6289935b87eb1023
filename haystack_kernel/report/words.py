"""The words of cards and reports for what a record holds in short.

In: values of a record. Out: text.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haystack_kernel.schema import Candidate, Round, RunRecord

TASKS = {
    "perturbation_novel_cell_types": "response of a cell type to a perturbation",
    "perturbation_novel_samples": "response of a donor's cells to a perturbation",
    "cell_type_imputation": "a cell type that was not measured",
    "donor_expression_prediction": "expression of a donor's cells",
    "cross_dataset_generation": "cells of one dataset as in another",
}
TERMINATIONS = {
    "threshold": "the score reached the threshold",
    "max_rounds": "all rounds were used",
    "plateau": "the score no longer rose",
    "no_more_candidates": "nothing untried was left",
}
CONTROLS = {
    "synthetic_control": "a second prediction with the control cells as prompt (synthetic control)",
    "query_as_control": "the query cells as they were measured",
}
_SIMULATED_ATLASES = ("demo",)


def simulated_atlases(record: RunRecord) -> tuple[str, ...]:
    """Names of the simulated atlases whose cells the best round rests on; of those searched before there is one."""
    chosen = record.best or (record.rounds[-1] if record.rounds else None)
    used = {item.prompt.atlas for item in chosen.candidates} if chosen else set(record.config.atlases)
    if record.query_set is not None:
        used.add(record.query_set.atlas)
    return tuple(name for name in _SIMULATED_ATLASES if name in used)


def cell_types(item: Candidate) -> str:
    """Cell types of a candidate in words."""
    prompt = item.prompt
    return prompt.label or ", ".join(prompt.cell_type_names or prompt.cell_type_ids) or "any cell type"


def score_text(best: Round) -> str:
    """``7 of 10 (7.3)``: the score rounded, and unrounded for the threshold; or that there is none."""
    if best.composite is None or math.isnan(best.composite.value):
        return "not scored"
    return best.composite.shown


def counted(number: int, noun: str) -> str:
    """``1 round``, ``2,000 rounds``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def with_id(name: str | None, identifier: str | None) -> str:
    """``B cell (CL:0000236)``; what is missing is left out."""
    return f"{name} ({identifier})" if name and identifier else name or identifier or ""
