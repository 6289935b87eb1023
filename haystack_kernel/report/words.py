"""Words that cards and reports use for the coded values of a record.

In: values of a record. Out: text.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.schema import DEMO_ATLAS, OBSERVATIONAL, OWN_ATLAS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from haystack_kernel.schema import Candidate, Round, RunConfig, RunRecord, Without

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
N_FLIPS, N_TWINS = 3, 3
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
    return best.composite.shown if best.composite and best.composite.is_scored else "not scored"


def accuracy_text(record: RunRecord) -> str:
    """Return how accurate the best round is expected to be, or why nothing is; empty where it was not asked."""
    confidence = record.best.confidence if record.best else None
    expected = confidence.expected if confidence else None
    if expected is None:
        return ""
    if not expected.shown:
        return f"No accuracy is expected: {expected.reason}."
    truth = "difference" if _is_observational(record) else "response"
    return (
        f"Expected correlation with the true {truth}: {expected.shown}; a measurement of "
        f"{expected.n_cells} cells an arm would show about {expected.measured:.2f}."
    )


def change_text(record: RunRecord, *, brief: bool = False) -> str:
    """Return which donor or data set the answer hangs on, that is, on which side of the threshold the score lies.

    With ``brief`` nothing is said where there is none.
    """
    confidence = record.best.confidence if record.best else None
    if confidence is None or confidence.expected is None or math.isnan(record.score):
        return ""
    without = [item for item in confidence.without if not math.isnan(item.composite)]
    if not without:
        alone = not confidence.without
        return "All evidence comes from one donor." if alone else "Without any one donor it could not be scored."
    if flips := _flips(without, score=record.score, threshold=record.config.threshold):
        return f"The answer hangs on single parts of the prompt: {flips}."
    if brief:
        return ""
    between = " to ".join(dict.fromkeys(f"{item.composite:.1f}" for item in (without[0], without[-1])))
    return f"No single donor or data set decides the answer: without any one of them the score is {between}."


def _flips(without: Sequence[Without], *, score: float, threshold: float) -> str:
    """The parts without which the score lies on the other side of the threshold; empty where there are none."""
    flips = [item for item in without if (item.composite >= threshold) != (score >= threshold)]
    side = "below" if score >= threshold else "at or above"
    listed = [f"{item.kind} {item.name} ({item.composite:.1f})" for item in flips[:N_FLIPS]]
    more = f" or any of {len(flips) - N_FLIPS} others" if len(flips) > N_FLIPS else ""
    return f"{side} {threshold:g} without {', '.join(listed)}{more}" if flips else ""


def next_text(record: RunRecord) -> str:
    """Return what to measure next: donors where replication keeps the score low, else what narrows the interval."""
    best, threshold = record.best, record.config.threshold
    if best is None or best.composite is None or best.confidence is None or best.confidence.expected is None:
        return ""
    sentences = []
    needed = math.log2(6 / max(10 - threshold, 0.1))  # replication whose cap, 10 - 6 / 2^replication, is the threshold
    if best.composite.replication < needed:
        n_donors = math.ceil(2 * (needed - best.composite.replication))  # each of them worth half a donor
        sentences.append(f"{_more_people(record, n_donors)}, which would allow a score of {threshold:g}")
    if best.confidence.expected.narrower:
        sentences.append(best.confidence.expected.narrower)
    if not sentences and not math.isnan(best.confidence.expected.value):
        what = "cells that were" if _is_observational(record) else "pair that was"
        return f"Measure next: the {what} asked for; no further part of the prompt would narrow the interval much."
    return f"Measure next: {'; '.join(sentences)}." if sentences else ""


def _more_people(record: RunRecord, n_donors: int) -> str:
    """Donors whose cells would raise the replication."""
    if record.query is not None and record.query.compared_disease:
        return f"{counted(n_donors, 'more patient')} and as many healthy donors of 20 cells"
    each = "20 cells in prompt and control" if _is_observational(record) else "20 treated and 20 control cells"
    return f"{counted(n_donors, 'more donor')} of {each}"


def _is_observational(record: RunRecord) -> bool:
    return record.query is not None and record.query.task_type in OBSERVATIONAL


def twins_text(best: Round) -> str:
    """Return what the response cannot be told from, a clause; empty where it is told from everything that is known."""
    twins = best.confidence.twins if best.confidence else ()
    if not twins:
        return ""
    names = list(twins[:N_TWINS])
    names += [f"{len(twins) - N_TWINS} more"] if len(twins) > N_TWINS else []
    listed = ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
    return f"not distinguishable from {listed}"


def termination_text(record: RunRecord) -> str:
    """Return why the run stopped, with the limit that it reached; empty while it has not stopped."""
    return TERMINATIONS[record.termination].format(config=record.config) if record.termination else ""


def sample_words(shown: Mapping[str, int], best: Round) -> str:
    """Say of which roles a map holds a part: ``600 of 948 control and 600 of 632 prompt cells``; "" for none.

    Parameters
    ----------
    shown
        Number of cells on the map by role.
    best
        The round whose cells they are.
    """
    held = {
        keys.CONTROL: best.n_control,
        keys.PROMPT: best.n_prompt,
        keys.QUERY: best.n_query,
        keys.PREDICTED: best.n_query,
    }
    parts = [f"{shown[role]:,} of {n:,} {role}" for role, n in held.items() if 0 < shown.get(role, 0) < n]
    return f"{', '.join(parts[:-1])}{' and ' if parts[:-1] else ''}{parts[-1]} cells" if parts else ""


def shared_cells(used: pd.DataFrame, config: RunConfig) -> list[str]:
    """Say which query cells have another role too: ``36 of the 36 query cells are control cells, too``.

    Parameters
    ----------
    used
        Table of the cells used, one row per cell and role.
    config
        Options of the run: cells of one's own are the same cells where both roles read them from one file.
    """
    own = {
        keys.QUERY: config.query_h5ad,
        keys.PROMPT: config.prompt_h5ad,
        keys.CONTROL: config.control_h5ad or config.prompt_h5ad,
    }
    names: dict[str, dict[tuple[str, str], str | None]] = {}  # role -> cell -> file of one's own
    for role, rows in used.groupby(keys.ROLE):
        found = names.setdefault(str(role), {})
        for atlas, cell in zip(rows[keys.ATLAS].astype(str), rows[keys.CELL_ID].astype(str), strict=True):
            is_named = cell.startswith(f"{OWN_ATLAS}/")  # with the role in which its file was read
            read_as = cell.split("/", 2)[1] if is_named else str(role)
            name = cell.split("/", 2)[2] if is_named else cell
            found[atlas, name] = own.get(read_as) if atlas == OWN_ATLAS else None
    query, said = names.get(keys.QUERY, {}), []
    for role in (keys.CONTROL, keys.PROMPT):
        both = query.keys() & names.get(role, {}).keys()
        n_same = sum(query[cell] == names[role][cell] for cell in both)
        of = f"of the {len(query):,} query cells"
        said += [f"{n_same:,} {of} are {role} cells, too"] if n_same else []
        n_named = len(both) - n_same
        said += [f"{n_named:,} {of} have names of {role} cells, and may be the same cells"] if n_named else []
    return said


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
