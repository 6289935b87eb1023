"""Put a finished record into words: what changes, what supports it, how it was made, what limits it.

In: the record and the tables of its best round. Out: an ``Interpretation`` in plain text; every number in it is in the
record or follows by counting rows of the tables.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.planners.offline.choice import cell_names, join_words
from haystack_kernel.planners.offline.limits import list_limitations
from haystack_kernel.report.words import (
    CONTROLS,
    accuracy_text,
    change_text,
    counted,
    next_text,
    termination_text,
    twins_text,
)
from haystack_kernel.schema import EVIDENCE_WORDS, OBSERVATIONAL, PERTURBATIONAL, STATE_WORDS, Interpretation

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.schema import Round, RunRecord, StructuredQuery

    _Moved = list[tuple[str, float]]  # genes called in one direction, with log2 fold change

N_GENES_NAMED = 5
SMALL_CHANGE = 0.1  # of mean log1p(CP10k); a prediction without a larger one hardly changes anything
N_PATHWAYS_NAMED = 3
WEAK = 4.0  # a score below this gives little support


def interpret_record(record: RunRecord, *, de: pd.DataFrame, pathways: pd.DataFrame) -> Interpretation:
    """Put the best round into words.

    Parameters
    ----------
    record
        A run with its query; without a best round only the reason for that is stated.
    de
        Differential expression of the best round: ``gene``, ``delta``, ``log2fc``, ``padj``, ``is_de``, one row a gene.
    pathways
        One row per pathway: ``pathway``, ``statistic`` (sign = direction), ``score`` (1 to 10), ``p_signal``,
        ``p_specificity``, ``is_expected``; NaN: not computed. May be empty.

    Returns
    -------
    Headline, two to five paragraphs and the limitations, without markup. That nothing is called, and a missing score,
    are stated with the reason.

    Examples
    --------
    >>> interpret_record(record, de=de, pathways=pathways).headline  # doctest: +SKIP
    """
    best = record.best
    if best is None or record.query is None:
        reason = record.failure.message if record.failure else "no round was finished"
        return Interpretation(headline=f"No prediction was made: {reason}.".replace("..", "."))
    up, down = _moved(de, sign=1), _moved(de, sign=-1)
    change = "no gene can be called"
    if up or down:
        led = join_words([gene for gene, _ in (up or down)[:3]])
        change = f"{counted(len(up), 'gene')} higher and {len(down)} lower, led by {led}"
    paragraphs = (
        _genes(record.query, best, de=de, up=up, down=down),
        _support(record, best, pathways=pathways),
        _making(record, best),
        _agreement(record, best),
        " ".join(filter(None, (accuracy_text(record), change_text(record), next_text(record)))),
    )
    return Interpretation(
        headline=f"Predicted for {subject_of(record.query)}{_query_cells(best)}: {change}; {_verdict(record, best)}.",
        paragraphs=tuple(text for text in paragraphs if text),
        limitations=list_limitations(record, best, query=record.query),
    )


# --- the answer ---------------------------------------------------------------------------------------------------


def subject_of(query: StructuredQuery) -> str:
    """Return what the prediction is about: cells, treatment, donor, tissue and dataset as far as named."""
    parts = [query.cell_type_name or query.cell_type_text or "the cells asked for"]
    parts += [f"under {query.perturbation.name}"] if query.perturbation else []
    parts += [f"in donor {query.donor_id}"] if query.donor_id else []
    parts += [f"in {query.disease_name} against healthy donors"] if query.compared_disease else []
    parts += [f"in {query.tissue_name}"] if query.tissue_name and query.tissue_name not in parts[0] else []
    parts += [f"in dataset {query.target_dataset}"] if query.target_dataset else []
    return " ".join(parts)


def _query_cells(best: Round) -> str:
    """From which of the user's own cells, and what about the query cells was not checked or differs."""
    source = f" from {best.query_source}" if best.query_source else ""
    return source + (f" ({'; '.join(best.query_open)})" if best.query_open else "")


def _why_unscored(record: RunRecord, best: Round) -> str:
    if record.query is not None and record.query.compared_disease:  # everything rests on the difference of people
        reason = next((item.reason for item in best.components if item.name == keys.DONOR_EFFECT), "")
    else:
        reason = best.composite.reason if best.composite else ""
    return reason.removeprefix("not scored: ").rstrip(".") or "no component could be computed"


def _verdict(record: RunRecord, best: Round) -> str:
    """The score with what was possible, what it means, and what the response cannot be told from."""
    if math.isnan(record.score) or best.composite is None:
        return f"not scored: {_why_unscored(record, best)}"
    twins = twins_text(best)
    return f"score {best.composite.shown}, {_consistency(record)}{f'; {twins}' if twins else ''}"


def _consistency(record: RunRecord) -> str:
    value = record.score
    if record.query is not None and record.query.compared_disease:
        how_far = "beyond" if value >= record.config.threshold else "not clearly beyond"
        return f"{how_far} what sets people apart"
    if value >= record.config.threshold:
        return "consistent with known biology"
    if value >= WEAK:
        return "partly consistent with known biology"
    return "with little support from known biology"


def _genes(query: StructuredQuery, best: Round, *, de: pd.DataFrame, up: _Moved, down: _Moved) -> str:
    tested = de[de[keys.IS_TESTED].astype(bool)] if keys.IS_TESTED in de.columns else de
    reference = CONTROLS[best.control_strategy]
    if up or down:
        sides = [
            f"{word}: {', '.join(f'{gene} ({value:+.1f})' for gene, value in side[:N_GENES_NAMED])}"
            for word, side in (("Highest", up), ("Lowest", down))
            if side
        ]
        text = (
            f"Of {len(tested):,} tested genes, {len(up):,} are called higher and {len(down):,} lower than in "
            f"{reference} (predicted log2 fold change in brackets). {'. '.join(sides)}."
        )
    else:
        text = _nothing_called(best, de, n_tested=len(tested), reference=reference)
    expected = query.expected_targets
    if not expected:
        return text
    rows = tested[tested[keys.GENE].isin(expected)]
    changes = zip(rows[keys.GENE], rows[keys.LOG2FC], strict=True)
    n_agree = sum(value * expected[gene] > 0 for gene, value in changes)
    n_passing = int(rows[keys.IS_DE].astype(bool).sum())
    return (
        f"{text} Of the {len(expected)} genes known to respond, {len(rows)} were tested, {n_agree} change in "
        f"the known direction and {n_passing} are called."
    )


def _nothing_called(best: Round, de: pd.DataFrame, *, n_tested: int, reference: str) -> str:
    text = f"Of {n_tested:,} tested genes, none is called, because the direction of any single change may be wrong."
    if de[keys.DELTA].abs().max() < SMALL_CHANGE:
        why = "either the cells do not respond, or the prompt shows no effect"
        text += f" The prediction hardly differs from {reference}: {why}."
    aspects = best.confidence.aspects if best.confidence else ()
    return " ".join([text, *(one.words for one in aspects if one.name == "gene intervals" and one.words)])


def _moved(de: pd.DataFrame, *, sign: int) -> _Moved:
    """Return the genes called in one direction with log2 fold change, the largest mean change of log counts first.

    The fold change alone would put barely detected genes first, so it only breaks ties.
    """
    rows = de[de[keys.IS_DE].astype(bool) & (sign * de[keys.LOG2FC] > 0)]
    rows = rows.assign(_change=-rows[keys.DELTA].abs(), _fold=-rows[keys.LOG2FC].abs())
    rows = rows.sort_values(["_change", "_fold", keys.GENE], kind="stable")
    return [(str(gene), float(value)) for gene, value in zip(rows[keys.GENE], rows[keys.LOG2FC], strict=True)]


# --- what supports it ---------------------------------------------------------------------------------------------


def _support(record: RunRecord, best: Round, *, pathways: pd.DataFrame) -> str:
    if math.isnan(record.score) or best.composite is None:
        sentences = [f"The prediction is not scored: {_why_unscored(record, best)}."]
    else:
        side = "at or above" if record.score >= record.config.threshold else "below"
        threshold = f"{side} the threshold of {record.config.threshold:g}"
        sentences = [f"The score is {best.composite.shown}, {_consistency(record)} and {threshold}."]
    parts = []
    for part in best.components:
        if not math.isnan(part.score):
            opposite = ", opposite to expectation" if part.statistic < 0 else ""
            parts.append(f"{part.name.replace('_', ' ')} {part.score:.1f}{opposite}")
    if parts:
        sentences.append(f"Components: {', '.join(parts)}.")
    return " ".join([*sentences, *_pathway_sentences(pathways)])


def _pathway_sentences(pathways: pd.DataFrame) -> list[str]:
    if pathways.empty:
        return []
    scored = pathways[pathways["score"].notna() & pathways["statistic"].notna()]
    if scored.empty:
        return ["No pathway could be tested."]
    scored = scored.sort_values(["score", "statistic", "pathway"], ascending=[False, False, True], kind="stable")
    leading, weak = [], []
    for row in scored.to_dict("records"):
        if row["score"] >= WEAK:
            direction = "up" if row["statistic"] > 0 else "down"
            expected = ", expected" if row["is_expected"] else ""
            leading.append(f"{row['pathway']} {direction} (score {row['score']:.1f}{expected})")
        elif row["is_expected"]:
            weak.append(str(row["pathway"]))
    sentences = ["No pathway stands out from its null distributions."]
    if leading:
        sentences = [f"Leading pathways: {', '.join(leading[:N_PATHWAYS_NAMED])}."]
    if weak:
        sentences.append(f"Expected but weakly supported: {join_words(weak[:N_PATHWAYS_NAMED])}.")
    return sentences


# --- how it was made ----------------------------------------------------------------------------------------------


def _other_treatments(record: RunRecord, best: Round) -> str:
    """The treatments of the prompt cells in brackets where they are not the one asked for."""
    asked = record.query.perturbation.name if record.query and record.query.perturbation else None
    shown = list(dict.fromkeys(item.prompt.perturbation for item in best.candidates if item.prompt.perturbation))
    return f" ({join_words(shown)})" if shown and shown != [asked] else ""


def _making(record: RunRecord, best: Round) -> str:
    sentences = []
    if best.candidates:
        datasets = join_words(list(dict.fromkeys(item.prompt.dataset for item in best.candidates)))
        is_state = record.query is not None and record.query.task_type in OBSERVATIONAL
        named = STATE_WORDS if is_state else EVIDENCE_WORDS
        evidence = join_words(list(dict.fromkeys(named[item.evidence_distance] for item in best.candidates)))
        cells = f"{cell_names(best.candidates)} of {datasets} ({counted(best.n_prompt, 'cell')})"
        sentences.append(f"The prompt was {cells}, which show {evidence}{_other_treatments(record, best)}.")
    query_cells = counted(best.n_query, "query cell")
    if best.query_cells:
        query_cells += f" ({best.query_cells.rstrip('.')})"
    engine = f"Engine '{record.config.engine}' was applied to {query_cells}"
    sentences.append(f"{engine}; the reference is {CONTROLS[best.control_strategy]}.")
    if best.control_note:
        sentences.append(best.control_note.rstrip(".") + ".")
    rounds = "One round was run"
    if len(record.rounds) != 1:
        rounds = f"Round {best.number} of {len(record.rounds)} is the best and is shown"
    ended = f"; the run ended because {termination_text(record)}" if record.termination else ""
    return " ".join([*sentences, f"{rounds}{ended}."]).strip()


def _agreement(record: RunRecord, best: Round) -> str:
    if not best.agreement:
        return ""
    parts = []
    for other in best.agreement:
        if math.isnan(other.pearson):
            words = other.note.rstrip(".") or "no correlation can be computed"
            parts.append(f"{other.engine}: {words}")
        else:
            parts.append(f"{other.engine}: correlation {other.pearson:.2f}, {counted(other.n_de, 'DE gene')}")
    asked = record.query is not None and record.query.task_type in PERTURBATIONAL
    effect = "response" if asked else "difference"
    verdict = best.confidence.verdict_words if best.confidence else ""
    return (
        f"Simple baselines on the same cells, compared by the predicted {effect} over the tested genes: "
        f"{'; '.join(parts)}. {verdict or 'Where a baseline predicts the same, the engine adds little to it.'}"
    )
