"""The parts of a run that notebooks and the report show: question, candidates, rounds, score, answer.

In: a run record. Out: HTML fragments with every text escaped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.report.html import MISSING, Html, bar, definitions, escape, items, number, paragraph, table

if TYPE_CHECKING:
    from haystack_kernel.schema import Component, Resolution, Round, RunRecord

_TASKS = {
    "perturbation_novel_cell_types": "response of a cell type to a perturbation",
    "perturbation_novel_samples": "response of a donor's cells to a perturbation",
    "cell_type_imputation": "a cell type that was not measured",
    "donor_expression_prediction": "expression of a donor's cells",
    "cross_dataset_generation": "cells of one dataset as in another",
}
_TERMINATIONS = {
    "threshold": "the score reached the threshold",
    "max_rounds": "all rounds were used",
    "plateau": "the score no longer rose",
    "no_more_candidates": "nothing untried was left",
}


def query_card(record: RunRecord) -> Html:
    """The question as understood: terms with their ids, close seconds, terms not known."""
    query = record.query
    if query is None:
        return Html(paragraph("The question has not been read yet."))
    perturbation = query.perturbation
    shown = {
        "question": query.question,
        "task": _TASKS[query.task_type],
        "cells": _with_id(query.cell_type_name, query.cell_type_id),
        "perturbation": f"{perturbation.name} ({perturbation.type or 'type unknown'})" if perturbation else "",
        "targets": ", ".join(perturbation.targets) if perturbation else "",
        "expected pathways": ", ".join(
            f"{'+' if sign > 0 else '-'} {n}" for n, sign in query.expected_pathways.items()
        ),
        "expected genes": _signed(query.expected_targets),
        "tissue": _with_id(query.tissue_name, query.tissue_id),
        "disease": _with_id(query.disease_name, query.disease_id),
        "donor": query.donor_id,
        "reference dataset": query.reference_dataset,
        "target dataset": query.target_dataset,
        "compared with": query.control_strategy.replace("_", " "),
    }
    ambiguous = [_alternatives(item) for item in query.resolutions if item.ambiguous]
    unknown = [_nearest(item) for item in query.unresolved]
    warnings = items([*ambiguous, *unknown], kind="warning")
    return Html(f'<div class="card">{definitions(shown)}{warnings}</div>')


def candidate_table(record: RunRecord) -> Html:
    """Ranked prompt candidates with the reason for each and its matched control."""
    used = {key: [r.number for r in record.rounds if key in r.choice.candidate_keys] for key in _keys(record)}
    rows = [
        (
            ", ".join(item.prompt.cell_type_names) or "any cell type",
            item.prompt.perturbation or "unperturbed",
            f"{item.prompt.atlas} / {item.prompt.dataset}",
            item.prompt.n_cells,
            item.control.n_cells if item.control else 0,
            item.strategy,
            item.score,
            f"{item.reason} {item.control_reason}",
            ", ".join(map(str, used[item.key])),
        )
        for item in record.candidates
    ]
    columns = (
        "cell type",
        "perturbation",
        "atlas / dataset",
        "cells",
        "controls",
        "strategy",
        "rank score",
        "why",
        "rounds",
    )
    caption = f"{len(rows)} prompt candidates, best first"
    return Html(table(columns, rows, caption=caption, kind="sortable"))


def rounds_table(record: RunRecord) -> Html:
    """One row per round: prompt, cells, score, decision; the best round is marked."""
    rows = [
        (
            f"{item.number}{' (best)' if item.number == record.best_round else ''}",
            item.choice.reason,
            item.n_prompt,
            item.n_control,
            item.n_query,
            item.n_de,
            bar(item.composite.value) if item.composite else Html(MISSING),
            item.decision or "under way",
        )
        for item in record.rounds
    ]
    columns = ("round", "prompt", "prompt cells", "control cells", "query cells", "genes called", "score", "decision")
    return Html(table(columns, rows, caption="Rounds"))


def score_table(record: RunRecord) -> Html:
    """Components of the best round's score with both nulls; what could not be computed says why."""
    best = record.best
    if best is None or best.composite is None:
        return Html(paragraph("No round has been scored yet."))
    columns = ("component", "weight", "score", "statistic", "p signal", "p specificity", "genes", "note")
    rows = [_component_row(item) for item in best.components]
    note = f"Score {_score_text(best)}. {best.composite.reason}".strip()
    how = (
        "Each component is 1 at chance and 7 at about 1 in 200, by the worse of two nulls: prompt labels permuted "
        "within donor and cell type (signal), and matched gene decoys on the prediction (specificity). The composite "
        "is their weighted mean; it is not itself a probability."
    )
    return Html(f"{table(columns, rows, caption='Score components')}{paragraph(note)}{paragraph(how, kind='small')}")


def agreement_table(record: RunRecord) -> Html:
    """The baselines beside the run's engine, on the same query cells."""
    best = record.best
    if best is None or not best.agreement:
        return Html("")
    rows = [(item.engine, item.pearson, item.n_de, bar(item.composite), item.note) for item in best.agreement]
    columns = ("engine", "Pearson with this prediction", "genes called", "score", "note")
    return Html(table(columns, rows, caption=f"Baselines beside engine {record.config.engine}"))


def answer(record: RunRecord) -> Html:
    """The answer in words, the score, and what limits it."""
    said = record.interpretation
    if said is None:
        return Html(paragraph(f"No answer yet: the run is {record.status}."))
    best = record.best
    score = f'<p class="score">{escape(_score_text(best))}</p>' if best else ""
    why = _TERMINATIONS.get(record.termination or "", "")
    rounds = paragraph(f"Best of {len(record.rounds)} round(s); stopped because {why}." if why else "", kind="small")
    limits = f"<h3>What limits this</h3>{items(said.limitations)}" if said.limitations else ""
    body = "".join(paragraph(text) for text in said.paragraphs)
    return Html(f'<div class="card"><h3>{escape(said.headline)}</h3>{score}{rounds}{body}{limits}</div>')


def run_card(record: RunRecord) -> str:
    """The run at a glance, for notebooks: question, state, score."""
    best = record.best
    shown = {
        "question": record.question,
        "run": record.run_id,
        "state": record.status if record.failure is None else f"failed: {record.failure.message}",
        "rounds": len(record.rounds) or "",
        "score": _score_text(best) if best else "",
        "answer": record.interpretation.headline if record.interpretation else "",
    }
    return Html(f'<div class="card">{definitions(shown)}</div>')._repr_html_()


def _score_text(best: Round) -> str:
    if best.composite is None:
        return "not scored"
    value = best.composite.value
    return "not scored" if math.isnan(value) else f"{round(value)} of 10 ({value:.2f})"


def _component_row(item: Component) -> tuple[object, ...]:
    p_values = (number(item.p_signal, digits=3), number(item.p_specificity, digits=3))
    name = item.name.replace("_", " ")
    return name, item.weight, bar(item.score), item.statistic, *p_values, item.n_genes, item.reason


def _keys(record: RunRecord) -> list[str]:
    return [item.key for item in record.candidates]


def _with_id(name: str | None, identifier: str | None) -> str:
    return f"{name} ({identifier})" if name and identifier else name or identifier or ""


def _signed(genes: dict[str, int], *, n_shown: int = 20) -> str:
    shown = [f"{gene}{'+' if sign > 0 else '-'}" for gene, sign in list(genes.items())[:n_shown]]
    more = f" and {len(genes) - n_shown} more" if len(genes) > n_shown else ""
    return " ".join(shown) + more


def _alternatives(item: Resolution) -> str:
    others = ", ".join(match.name for match in item.alternatives)
    chosen = item.match.name if item.match else "nothing"
    return f"'{item.text}' was taken to be {chosen}; it may also mean {others}"


def _nearest(item: Resolution) -> str:
    nearest = ", ".join(match.name for match in item.alternatives) or "none"
    return f"'{item.text}' is not a known {item.kind.replace('_', ' ')}; nearest known: {nearest}"
