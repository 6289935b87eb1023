"""Words that cards and reports use for the coded values of a record.

In: values of a record. Out: text.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.schema import DEMO_ATLAS

if TYPE_CHECKING:
    from haystack_kernel.schema import Candidate, Round, RunRecord

TASKS = {
    "perturbation_novel_cell_types": "response of a cell type to a perturbation",
    "perturbation_novel_samples": "response of a donor's cells to a perturbation",
    "cell_type_imputation": "profile of a cell type that was not measured",
    "donor_expression_prediction": "expression of a donor's cells",
    "cross_dataset_generation": "cells of one dataset as they would appear in another",
}
TERMINATIONS = {
    "threshold": "the score reached the threshold of {config.threshold:g}",
    "max_rounds": "the maximum number of rounds ({config.max_rounds}) was reached",
    "plateau": "further rounds did not raise the score",
    "no_more_candidates": "no untried candidate was left",
}
CONTROLS = {
    "synthetic_control": "a second prediction with the control cells as prompt (synthetic control)",
    "query_as_control": "the query cells as measured",
}
P_VALUES = {  # column of the data: heading
    "p_signal": "p (self-contained)",
    "p_donors": "p (donors)",
    "p_specificity": "p (competitive)",
}
_SIMULATED_ATLASES = (DEMO_ATLAS,)


def simulated_atlases(record: RunRecord) -> tuple[str, ...]:
    """Return the names of the simulated atlases whose cells the best round uses.

    Before a round was scored these are the simulated atlases among those of the latest round, or those searched.
    """
    chosen = record.best or (record.rounds[-1] if record.rounds else None)
    used = {item.prompt.atlas for item in chosen.candidates} if chosen else set(record.config.atlases)
    if record.query_set is not None:
        used.add(record.query_set.atlas)
    return tuple(name for name in _SIMULATED_ATLASES if name in used)


def cell_types(item: Candidate) -> str:
    """Return the cell types of a candidate in words."""
    prompt = item.prompt
    return prompt.label or ", ".join(prompt.cell_type_names or prompt.cell_type_ids) or "any cell type"


def score_text(best: Round) -> str:
    """Return the score as ``7.3 of 10`` or ``7.3 of at most 8.5``, or ``not scored``."""
    if best.composite is None or math.isnan(best.composite.value):
        return "not scored"
    return best.composite.shown


def termination_text(record: RunRecord) -> str:
    """Return why the run stopped, with the limit that it reached; empty while it has not stopped."""
    return TERMINATIONS[record.termination].format(config=record.config) if record.termination else ""


def counted(number: int, noun: str) -> str:
    """Return ``1 round`` or ``2,000 rounds``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def with_id(name: str | None, identifier: str | None) -> str:
    """Return ``B cell (CL:0000236)``, or the part of it that is known."""
    return f"{name} ({identifier})" if name and identifier else name or identifier or ""


def span(seconds: float | None) -> str:
    """Return a duration in two units at most: ``45 s``, ``3 min 20 s``, ``2 h 05 min``; empty for None and NaN."""
    if seconds is None or math.isnan(seconds):
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
