"""The parts of a run that notebooks and the report show: question, rounds and score.

In: a run record. Out: HTML fragments with every text escaped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.report.html import (
    DOWN,
    MISSING,
    UP,
    Html,
    bar,
    definitions,
    escape,
    items,
    paragraph,
    table,
)
from haystack_kernel.report.words import CONTROLS, P_VALUES, TASKS, score_text, with_id
from haystack_kernel.schema import MODEL_PLANNERS, NAN

if TYPE_CHECKING:
    from haystack_kernel.schema import Choice, RunRecord, StructuredQuery


def query_card(record: RunRecord) -> Html:
    """Return the question as it was understood: terms with their ids, alternatives, unknown terms and unused words.

    Parameters
    ----------
    record
        The run; before its question was parsed the card says so.

    Returns
    -------
    A card of names and values, then warnings: words not used, ambiguous and unknown terms.

    Examples
    --------
    >>> query_card(run.record)  # doctest: +SKIP
    """
    return question_card(record.query) if record.query else Html(paragraph("The question has not been parsed yet."))


def question_card(query: StructuredQuery) -> Html:
    """Return a parsed question; see :func:`query_card`."""
    perturbation = query.perturbation
    shown = {
        "task": TASKS[query.task_type],
        "taken as": query.reading,
        "cells": with_id(query.cell_type_name or query.cell_type_text, query.cell_type_id),
        "perturbation": f"{perturbation.name} ({perturbation.type or 'type unknown'})" if perturbation else "",
        "targets": ", ".join(perturbation.targets) if perturbation else "",
        "expected pathways": "; ".join(f"{_arrow(sign)} {name}" for name, sign in query.expected_pathways.items()),
        "expected genes": _signed(query.expected_targets),
        "tissue": with_id(query.tissue_name, query.tissue_id),
        "disease": with_id(query.disease_name, query.disease_id),
        "donor": query.donor_id,
        "condition": f"{query.condition} (not used to choose cells)" if query.condition else "",
        "reference dataset": query.reference_dataset,
        "target dataset": query.target_dataset,
        "compared with": CONTROLS[query.control_strategy],
    }
    warnings = items(_warnings(query), kind="warning")
    title = f'<div class="title"><b>{escape(query.question)}</b></div>'
    return Html(f'<div class="card">{title}{definitions(shown)}{warnings}</div>')


def rounds_table(record: RunRecord) -> Html:
    """Return one row per round: score, numbers of cells, choice of prompt, decision.

    Parameters
    ----------
    record
        The run. Its best round is marked.

    Returns
    -------
    A table, or a sentence before the first round.

    Examples
    --------
    >>> rounds_table(run.record)  # doctest: +SKIP
    """
    if not record.rounds:
        return Html(paragraph("No round has been started yet."))
    rows = []
    for item in record.rounds:
        cells: tuple[float, ...] = (NAN, NAN, NAN)  # what is not known yet is a dash, not 0
        if item.has_cells:
            cells = (item.n_prompt, item.n_control, item.n_query)
        rows.append(
            (
                f"{item.number}{' (best)' if item.number == record.best_round else ''}",
                bar(item.composite.value) if item.composite else Html(f'<span class="missing">{MISSING}</span>'),
                item.n_de if item.composite else NAN,
                *cells,
                reason_of(item.choice),
                item.decision or "in progress",
            )
        )
    columns = ("round", "score", "DE genes", "prompt cells", "control cells", "query cells", "choice", "decision")
    return Html(table(columns, rows, caption="Rounds, with the choice of prompt and the score of each"))


def reason_of(choice: Choice) -> str:
    """Return why a prompt was chosen, marked where a language model wrote it."""
    if choice.planner in MODEL_PLANNERS:
        return f"{choice.reason} (Written by a language model.)"
    return choice.reason


def score_table(record: RunRecord) -> Html:
    """Return the components of the best round's score with the p values of both nulls.

    Parameters
    ----------
    record
        The run.

    Returns
    -------
    One row per component; a component that could not be computed says why. A sentence before a round was scored.

    Examples
    --------
    >>> score_table(run.record)  # doctest: +SKIP
    """
    best = record.best
    if best is None or best.composite is None:
        return Html(paragraph("No round has been scored yet."))
    columns = ("component", "score", "weight", "statistic", *P_VALUES.values(), "genes", "note")
    rows = []
    for item in best.components:
        # The note says what limits a component, and names the genes or network edges that contribute most to it.
        leading = item.detail.get("leading_edges") or item.detail.get("leading_genes") or []
        notes = [item.reason] if item.reason else []
        notes += [f"led by {', '.join(leading[:5])}"] if leading else []
        n_genes = item.n_genes or (NAN if math.isnan(item.score) else 0)
        numbers = (item.statistic, item.p_signal, item.p_donors, item.p_specificity, n_genes)
        name, weight = item.name.replace("_", " "), f"{item.weight:.0%}"
        rows.append((name, bar(item.score), weight, *numbers, "; ".join(notes)))
    reason = best.composite.reason.rstrip(".")
    note = f"Score: {score_text(best)}." + (f" {reason[:1].upper()}{reason[1:]}." if reason else "")
    how = (
        "A component scores 1 at chance and 7 at p of about 1 in 200, where p is the largest of its p values. "
        "The self-contained null permutes the prompt labels within donor and cell type: is there an effect at all? "
        "The donor test asks whether it is larger than its spread over donors. "
        "The competitive null draws matched gene sets from the same prediction: do the expected genes stand out? "
        "The composite is the weighted mean of the components; it is not a probability."
    )
    return Html(f"{table(columns, rows, caption='Score components')}{paragraph(note)}{paragraph(how, kind='small')}")


def agreement_table(record: RunRecord) -> Html:
    """Return the simple baselines beside the run's engine, on the same query cells.

    Parameters
    ----------
    record
        The run.

    Returns
    -------
    One row per baseline; empty when none was computed.

    Examples
    --------
    >>> agreement_table(run.record)  # doctest: +SKIP
    """
    best = record.best
    if best is None or not best.agreement:
        return Html("")
    rows = [(item.engine, item.pearson, item.n_de, bar(item.composite), item.note) for item in best.agreement]
    columns = ("engine", "Pearson r", "DE genes", "score", "note")
    caption = f"Simple baselines; r is the correlation of their response with that of engine '{record.config.engine}'"
    return Html(table(columns, rows, caption=caption))


def _arrow(sign: int) -> str:
    return UP if sign > 0 else DOWN


def _signed(genes: dict[str, int], *, n_shown: int = 20) -> str:
    sides = []
    for word, sign in (("rise", 1), ("fall", -1)):
        named = [gene for gene, direction in genes.items() if direction * sign > 0]
        more = f" and {len(named) - n_shown} more" if len(named) > n_shown else ""
        if named:
            sides.append(f"{_arrow(sign)} {word}: {', '.join(named[:n_shown])}{more}")
    return "; ".join(sides)


def _from_model(query: StructuredQuery) -> list[str]:
    """Return what a language model noted about the question, and what it would ask back."""
    found = [f"The language model that read the question notes: {text}" for text in query.doubts]
    if query.clarification is not None:
        asked = " or ".join(repr(text) for text in query.clarification.questions)
        found.append(f"It would ask back: {query.clarification.text} Ask for example {asked}")
    return found


def _warnings(query: StructuredQuery) -> list[str]:
    """Return one sentence for the words not used, and one per term that may mean something else or is unknown."""
    found = [f"Not used from the question: {query.unused_text}"] if query.unused else []
    found += _from_model(query)
    for item in query.resolutions:
        if item.ambiguous:
            others = ", ".join(match.name for match in item.alternatives)
            chosen = item.match.name if item.match else "nothing"
            found.append(f"'{item.text}' was read as {chosen}; it may also mean {others}")
        if item.note:
            found.append(f"'{item.text}': {item.note}")
    for item in query.unresolved:
        nearest = ", ".join(match.name for match in item.alternatives) or "none"
        kind = item.kind.replace("_", " ")
        found.append(f"'{item.text}' is not a known {kind}; closest known terms: {nearest}")
    return found
