"""The parts of a run that notebooks and the report show: question, rounds, score, run card.

In: a run record. Out: HTML fragments with every text escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.report.html import (
    DOWN,
    MISSING,
    UP,
    Html,
    bar,
    definitions,
    items,
    paragraph,
    table,
)
from haystack_kernel.report.words import CONTROLS, TASKS, score_text, with_id

if TYPE_CHECKING:
    from haystack_kernel.schema import Component, Resolution, RunRecord


def query_card(record: RunRecord) -> Html:
    """The question as understood: terms with their ids, close seconds, terms not known."""
    query = record.query
    if query is None:
        return Html(paragraph("The question has not been read yet."))
    perturbation = query.perturbation
    shown = {
        "question": query.question,
        "task": TASKS[query.task_type],
        "cells": with_id(query.cell_type_name or query.cell_type_text, query.cell_type_id),
        "perturbation": f"{perturbation.name} ({perturbation.type or 'type unknown'})" if perturbation else "",
        "acts on": ", ".join(perturbation.targets) if perturbation else "",
        "expected pathways": "; ".join(f"{_arrow(sign)} {name}" for name, sign in query.expected_pathways.items()),
        "expected genes": _signed(query.expected_targets),
        "tissue": with_id(query.tissue_name, query.tissue_id),
        "disease": with_id(query.disease_name, query.disease_id),
        "donor": query.donor_id,
        "reference dataset": query.reference_dataset,
        "target dataset": query.target_dataset,
        "compared with": CONTROLS[query.control_strategy],
    }
    ambiguous = [_alternatives(item) for item in query.resolutions if item.ambiguous]
    unknown = [_nearest(item) for item in query.unresolved]
    warnings = items([*ambiguous, *unknown], kind="warning")
    return Html(f'<div class="card">{definitions(shown)}{warnings}</div>')


def rounds_table(record: RunRecord) -> Html:
    """One row per round: score, cells, prompt, decision; the best round is marked."""
    if not record.rounds:
        return Html(paragraph("No round has been started yet."))
    rows = [
        (
            f"{item.number}{' (best)' if item.number == record.best_round else ''}",
            bar(item.composite.value) if item.composite else Html(f'<span class="missing">{MISSING}</span>'),
            item.n_de,
            item.n_prompt,
            item.n_control,
            item.n_query,
            item.choice.reason,
            item.decision or "under way",
        )
        for item in record.rounds
    ]
    columns = ("round", "score", "genes called", "prompt cells", "control cells", "query cells", "prompt", "decision")
    return Html(table(columns, rows, caption="Rounds: what each tried and reached"))


def score_table(record: RunRecord) -> Html:
    """Components of the best round's score with both nulls; what could not be computed says why."""
    best = record.best
    if best is None or best.composite is None:
        return Html(paragraph("No round has been scored yet."))
    columns = ("component", "score", "weight", "statistic", "p signal", "p specificity", "genes", "note")
    rows = [_component_row(item) for item in best.components]
    note = f"Score {score_text(best)}" + (f": {best.composite.reason}" if best.composite.reason else "")
    how = (
        "Each component is 1 at chance and 7 at about 1 in 200, by the worse of two nulls: prompt labels permuted "
        "within donor and cell type (signal), and matched gene decoys on the prediction (specificity). The composite "
        "is their weighted mean; it is not itself a probability."
    )
    return Html(f"{table(columns, rows, caption='Score components')}{paragraph(note)}{paragraph(how, kind='small')}")


def agreement_table(record: RunRecord) -> Html:
    """The baselines beside the run's engine, on the same query cells; nothing when none was computed."""
    best = record.best
    if best is None or not best.agreement:
        return Html("")
    rows = [(item.engine, item.pearson, item.n_de, bar(item.composite), item.note) for item in best.agreement]
    columns = ("engine", "Pearson", "genes called", "score", "note")
    caption = f"Simple baselines; Pearson correlation of their response with that of engine '{record.config.engine}'"
    return Html(table(columns, rows, caption=caption))


def run_card(record: RunRecord) -> str:
    """The run at a glance, for notebooks: question, state, score."""
    best = record.best
    shown = {
        "question": record.question,
        "run": record.run_id,
        "state": record.status if record.failure is None else f"{record.status}: {record.failure.message}",
        "rounds": len(record.rounds) or "",
        "score": score_text(best) if best else "",
        "answer": record.interpretation.headline if record.interpretation else "",
    }
    return Html(f'<div class="card">{definitions(shown)}</div>')._repr_html_()


def _component_row(item: Component) -> tuple[object, ...]:
    name, weight = item.name.replace("_", " "), f"{item.weight:.0%}"
    numbers = (item.statistic, item.p_signal, item.p_specificity, item.n_genes)
    return name, bar(item.score), weight, *numbers, f"{item.reason or 'computed'}{_seen_in(item)}"


def _seen_in(item: Component) -> str:
    """Genes, or edges of the network, that speak most for a component."""
    shown = item.detail.get("leading_edges") or item.detail.get("leading_genes") or []
    return f" (most in: {', '.join(shown[:5])})" if shown else ""


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


def _alternatives(item: Resolution) -> str:
    others = ", ".join(match.name for match in item.alternatives)
    chosen = item.match.name if item.match else "nothing"
    return f"'{item.text}' was taken to be {chosen}; it may also mean {others}"


def _nearest(item: Resolution) -> str:
    nearest = ", ".join(match.name for match in item.alternatives) or "none"
    return f"'{item.text}' is not a known {item.kind.replace('_', ' ')}; nearest known: {nearest}"
