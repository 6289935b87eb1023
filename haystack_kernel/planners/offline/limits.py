"""List what limits a prediction, one sentence for each limitation that applies.

In: the record, its best round and its query. Out: sentences, the most general first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.planners.offline.choice import join_words
from haystack_kernel.schema import MEASURED_EVIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.schema import Round, RunRecord, StructuredQuery

FEW_CELLS = 50
LOW_COVERAGE = 0.8


def list_limitations(record: RunRecord, best: Round, *, query: StructuredQuery) -> tuple[str, ...]:
    """Return the limitations from the cells, control cells, evidence, score, question and rounds.

    Parameters
    ----------
    record
        The run.
    best
        Its best round.
    query
        Its parsed question.

    Returns
    -------
    Sentences, the most general first; last what the tables of other tools may be misread by.

    Examples
    --------
    >>> list_limitations(record, record.best, query=record.query)  # doctest: +SKIP
    """
    found = [*_of_cells(best), *_of_people(query), *_of_prompt(best, query), *_of_score(best), *_of_words(query)]
    found += [f"A language model read the question and notes: {doubt}" for doubt in query.doubts]
    if query.perturbation is not None:
        used = query.perturbation.name
        named = [term.match.name for term in query.resolutions if term.kind == "perturbation" and term.match]
        further = [name for name in dict.fromkeys(named) if name != used]
        if further:
            verb = "is" if len(further) == 1 else "are"
            found.append(f"One treatment at a time is predicted: {used}. {join_words(further)} {verb} not included.")
    if len(record.rounds) > 1:
        found.append(
            f"The best of {len(record.rounds)} rounds is shown; the best of several scores tends to be higher than a "
            "single score."
        )
    cells = f"{best.n_query:,} predicted cells" if best.n_query else "predicted cells"
    found.append(
        f"Generated cells are not replicates: p values of the rank test depend on the number of generated cells (here "
        f"{cells}), not on the number of donors. No call rests on them."
    )
    return tuple(found)


def _of_cells(best: Round) -> Iterator[str]:
    for left_open in best.query_open:
        yield f"{left_open[0].upper()}{left_open[1:]}."
    if 0 < best.n_query < FEW_CELLS:
        yield f"Only {best.n_query} query cells were found; averages over so few cells are noisy."
    if 0 < best.n_prompt < FEW_CELLS:
        yield f"The prompt has only {best.n_prompt} cells, so its effect is uncertain."
    if not math.isnan(best.frac_genes_found) and best.frac_genes_found < LOW_COVERAGE:
        yield f"Only {best.frac_genes_found:.0%} of the genes could be predicted; the others are unchanged."
    if best.n_de == 0:
        yield _nothing_called(best)


def _nothing_called(best: Round) -> str:
    """Why no gene is called, where that is known, and what it means for the score."""
    said = [item.words or item.reason for item in best.confidence.aspects] if best.confidence else []
    why = next((text.partition(keys.NOTHING_CALLED)[2] for text in said if keys.NOTHING_CALLED in text), "")
    because = f": {why.rstrip('.')};" if why else ", so"
    return f"No gene is called{because} the scores rest on sets of genes rather than on single ones."


def _of_people(query: StructuredQuery) -> Iterator[str]:
    if query.compared_disease:
        yield (
            "Patients and healthy donors are different people: what else differs between them (age, sex, medicines, "
            "the day of the sample) is part of the difference."
        )


def _of_prompt(best: Round, query: StructuredQuery) -> Iterator[str]:
    """Yield what the control cells of the prompt and its relation to the question leave open."""
    bare = [item for item in best.candidates if item.control is None]
    if bare:
        reasons = "; ".join(dict.fromkeys([item.control_reason.rstrip(".") for item in bare]))
        yield (
            "Part of the prompt has no matched control cells, so treatment and batch effects cannot be separated: "
            f"{reasons}."
        )
    elif not query.compared_disease and any(not item.donor_matched for item in best.candidates):
        yield "The control cells come from other donors than the prompt, so donor differences are part of the effect."
    distances = {item.evidence_distance for item in best.candidates}
    if distances == {"text_only"}:
        yield "The prompt was found by similar descriptions only; no measurement links it to the question."
    elif distances and distances.isdisjoint(MEASURED_EVIDENCE):
        yield "The treatment asked for was not measured in the prompt; a related treatment replaces it."


def _of_score(best: Round) -> Iterator[str]:
    if best.components or best.composite:
        yield (
            "The score measures how well the prediction agrees with prior knowledge, not how close it is to an "
            "experiment."
        )
    for part in best.components:
        if math.isnan(part.score):
            yield f"Not computed: {part.name.replace('_', ' ')} ({part.reason.rstrip('.')})."
    if best.composite and not math.isnan(best.composite.value) and best.composite.cap < 10:
        reason = f": {best.composite.reason.rstrip('.')}" if best.composite.reason else ""
        yield f"The score was capped at {best.composite.cap:.1f}{reason}."


def _of_words(query: StructuredQuery) -> Iterator[str]:
    if query.unused:
        yield f"Not used from the question: {query.unused_text}."
    if query.condition:
        yield f"The condition {query.condition!r} was not used to choose cells."
    for term in query.unresolved:
        nearest = join_words([match.name for match in term.alternatives])
        hint = f"; the closest known terms are {nearest}" if nearest else ""
        yield f"The term {term.text!r} was not recognised and was ignored{hint}."
    for term in query.resolutions:
        if term.ambiguous and term.match and term.alternatives:
            others = join_words([match.name for match in term.alternatives])
            yield f"{term.text!r} was read as {term.match.name}; it may also mean {others}."
        if term.note:
            yield f"{term.text!r}: {term.note.rstrip('.')}."
