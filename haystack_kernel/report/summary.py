"""The answer of a run: a strip of the few numbers that matter, then the words and what limits them.

In: a run record, and the tables of its best round where the caller has them. Out: HTML, every text escaped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.report.html import DOWN, UP, Html, bar_picture, escape, items, paragraph
from haystack_kernel.report.words import TERMINATIONS, counted, score_text, simulated_atlases
from haystack_kernel.schema import EVIDENCE_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from haystack_kernel.schema import Round, RunRecord


_STATES = {"running": "has not ended", "cancelled": "was cancelled", "failed": "failed"}


@dataclass(frozen=True)
class Tile:
    """One fact of the strip: its name, the value in large, a note beneath."""

    name: str
    value: str | Html
    note: str = ""


def answer(record: RunRecord, *, de: pd.DataFrame | None = None, pathways: pd.DataFrame | None = None) -> Html:
    """The answer: score first, then what is predicted in words, then what limits it.

    Parameters
    ----------
    record
        The run; without an answer its state is shown.
    de
        Differential expression of the best round; with it the strip counts the genes that rise and fall.
    pathways
        Pathway table of the best round; with it the strip names the leading pathway.
    """
    notes = items(notices(record), kind="warning")
    tiles = "".join(_tile(item) for item in summary(record, de=de, pathways=pathways))
    strip = f'<dl class="strip">{tiles}</dl>' if tiles else ""
    said = record.interpretation
    if said is None:
        return Html(f'<div class="answer">{notes}{strip}{paragraph("There is no answer in words yet.")}</div>')
    words = "".join(paragraph(text) for text in said.paragraphs)
    limits = f"<h3>What limits this</h3>{items(said.limitations)}" if said.limitations else ""
    columns = f'<div class="columns"><div><h3>In words</h3>{words}</div><div class="limits">{limits}</div></div>'
    return Html(f'<div class="answer">{notes}{strip}{paragraph(said.headline, kind="headline")}{columns}</div>')


def notices(record: RunRecord) -> list[str]:
    """What a reader must know first: simulated cells, a run that did not end."""
    found = [
        f"Simulated data: the cells of atlas '{name}' were drawn from a model, never measured."
        for name in simulated_atlases(record)
    ]
    if record.status == "done":
        return found
    state = _STATES[record.status]
    if record.failure is not None:
        state = f"failed at step '{record.failure.step}': {record.failure.message.rstrip('.')}"
    return [*found, f"The run {state}. `haystack resume {record.run_id}` goes on from its last finished step."]


def summary(record: RunRecord, *, de: pd.DataFrame | None, pathways: pd.DataFrame | None) -> list[Tile]:
    """The facts of the strip; none before a round was scored."""
    best = record.best
    if best is None:
        return []
    return [
        _score_tile(record, best),
        _gene_tile(best, de=de),
        *_pathway_tiles(pathways),
        _evidence_tile(record, best),
        *_baseline_tiles(best),
        _round_tile(record, best),
    ]


def _score_tile(record: RunRecord, best: Round) -> Tile:
    if best.composite is None or math.isnan(best.composite.value):
        reason = best.composite.reason if best.composite else ""
        return Tile("score", "not scored", reason or "no component could be computed")
    value, threshold = best.composite.value, record.config.threshold
    computed = sum(not math.isnan(item.score) for item in best.components)
    side = "reaches" if value >= threshold else "below"
    notes = [f"{side} the threshold {threshold:g}", f"{computed} of {len(best.components)} components computed"]
    if best.composite.cap < 10:
        notes.append(f"at most {best.composite.cap:.1f} possible")
    return Tile("score (1 is chance)", Html(f"{escape(score_text(best))} {bar_picture(value)}"), "; ".join(notes))


def _gene_tile(best: Round, *, de: pd.DataFrame | None) -> Tile:
    if de is None:
        led = f"led by {', '.join(best.top_genes[:3])}" if best.top_genes else ""
        return Tile("genes called", f"{best.n_de:,}", led)
    called = de[de[keys.IS_DE].astype(bool)]
    up, down = int((called[keys.LOG2FC] > 0).sum()), int((called[keys.LOG2FC] < 0).sum())
    n_tested = int(de[keys.IS_TESTED].astype(bool).sum())
    led = f"; led by {', '.join(best.top_genes[:3])}" if best.top_genes else ""
    return Tile("genes called up and down", f"{UP} {up:,}   {DOWN} {down:,}", f"of {n_tested:,} tested{led}")


def _pathway_tiles(pathways: pd.DataFrame | None) -> Iterator[Tile]:
    if pathways is None:
        return
    scored = pathways[pathways["score"].notna() & pathways["statistic"].notna()]
    scored = scored.sort_values(["score", "statistic"], ascending=False, kind="stable")
    if scored.empty or scored.iloc[0]["score"] <= 1:
        yield Tile("leading pathway", "none", "no pathway is above chance")
        return
    top = scored.iloc[0]
    arrow = UP if top["statistic"] > 0 else DOWN
    expected = "expected by the question" if bool(top["is_expected"]) else "not expected by the question"
    yield Tile("leading pathway", f"{arrow} {top['pathway']}", f"score {top['score']:.1f}; {expected}")


def _evidence_tile(record: RunRecord, best: Round) -> Tile:
    distances = [name for name in EVIDENCE_WORDS if name in {item.evidence_distance for item in best.candidates}]
    words = "; ".join(EVIDENCE_WORDS[name] for name in distances) or "unknown"
    matched = "donor-matched controls" if all(item.donor_matched for item in best.candidates) else "donors not matched"
    control = matched if best.n_control else "no matched controls"
    simulated = "simulated " if simulated_atlases(record) else ""
    return Tile("evidence", words, f"{counted(best.n_prompt, f'{simulated}prompt cell')}; {control}")


def _baseline_tiles(best: Round) -> Iterator[Tile]:
    """The simple baseline that comes closest: where it says the same, the engine adds little."""
    compared = [item for item in best.agreement if not math.isnan(item.pearson)]
    if compared:
        nearest = max(compared, key=lambda item: item.pearson)
        score = "" if math.isnan(nearest.composite) else f"; it scores {nearest.composite:.1f}"
        yield Tile(
            "closest simple baseline",
            f"{nearest.engine}, r = {nearest.pearson:.2f}",
            f"r = 1: the same response{score}",
        )


def _round_tile(record: RunRecord, best: Round) -> Tile:
    why = TERMINATIONS.get(record.termination or "", "")
    return Tile("best round", f"{best.number} of {len(record.rounds)}", f"stopped: {why}" if why else "")


def _tile(item: Tile) -> str:
    value = str(item.value) if isinstance(item.value, Html) else escape(item.value)
    note = f'<dd class="note">{escape(item.note)}</dd>' if item.note else ""
    return f'<div><dt>{escape(item.name)}</dt><dd class="value">{value}</dd>{note}</div>'
