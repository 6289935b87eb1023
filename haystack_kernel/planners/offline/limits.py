"""What limits the reading of a prediction, one sentence for each thing that applies.

In: the record, its best round and its query. Out: sentences, the most general first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.planners.offline.choice import join_words
from haystack_kernel.schema import MEASURED_EVIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.schema import Round, RunRecord, StructuredQuery

FEW_CELLS = 50
LOW_COVERAGE = 0.8


def list_limitations(record: RunRecord, best: Round, *, query: StructuredQuery) -> tuple[str, ...]:
    """Sentences about cells, control, components, evidence and words of the question that limit the result."""
    return (*_of_cells(best), *_of_prompt(best), *_of_score(best), *_of_words(query), *_of_run(record))


def _of_cells(best: Round) -> Iterator[str]:
    cells = f"{best.n_query:,} predicted cells" if best.n_query else "predicted cells"
    yield (
        f"Generated cells are not replicates: p values depend on how many cells were generated (here {cells}) and do "
        "not stand for donors."
    )
    if 0 < best.n_query < FEW_CELLS:
        yield f"Only {best.n_query} query cells were found; averages over so few cells are noisy."
    if 0 < best.n_prompt < FEW_CELLS:
        yield f"The prompt holds only {best.n_prompt} cells; the effect it shows is uncertain."
    if not math.isnan(best.frac_genes_found) and best.frac_genes_found < LOW_COVERAGE:
        yield f"Only {best.frac_genes_found:.0%} of the genes could be predicted; the others are left as they were."
    if best.n_de == 0:
        yield "No gene passes the thresholds, so the genes behind the scores are single weak shifts."


def _of_prompt(best: Round) -> Iterator[str]:
    bare = [item for item in best.candidates if item.control is None]
    if bare:
        reasons = "; ".join(dict.fromkeys(item.control_reason.rstrip(".") for item in bare))
        yield f"Part of the prompt has no matched control, so treatment and batch cannot be told apart: {reasons}."
    elif best.candidates and not all(item.donor_matched for item in best.candidates):
        yield "The control cells come from other donors than the prompt: donor differences are mixed into the effect."
    distances = {item.evidence_distance for item in best.candidates}
    if distances == {"text_only"}:
        yield "The prompt was found by similar descriptions only; nothing measured links it to the question."
    elif distances and distances.isdisjoint(MEASURED_EVIDENCE):
        yield "The treatment asked for was not measured in the prompt; a related one stands in for it."


def _of_score(best: Round) -> Iterator[str]:
    if best.components or best.composite:
        yield (
            "The score says how far the prediction agrees with prior knowledge; it does not measure how close it is to "
            "an experiment."
        )
    for part in best.components:
        if math.isnan(part.score):
            yield f"Not computed: {part.name.replace('_', ' ')} ({part.reason.rstrip('.')})."
    if best.composite and not math.isnan(best.composite.value) and best.composite.cap < 10:
        reason = f": {best.composite.reason.rstrip('.')}" if best.composite.reason else ""
        yield f"The score was capped at {best.composite.cap:.1f}{reason}."


def _of_words(query: StructuredQuery) -> Iterator[str]:
    for term in query.unresolved:
        nearest = join_words([match.name for match in term.alternatives])
        hint = f"; the nearest known terms are {nearest}" if nearest else ""
        yield f"Not understood and left out: {term.text!r}{hint}."
    for term in query.resolutions:
        if term.ambiguous and term.match and term.alternatives:
            others = join_words([match.name for match in term.alternatives])
            yield f"{term.text!r} was taken to mean {term.match.name}; it may also mean {others}."
    used = query.perturbation.name if query.perturbation else None
    further = [term.match.name for term in query.resolutions if term.kind == "perturbation" and term.match and used]
    further = [name for name in dict.fromkeys(further) if name != used]
    if further:
        yield f"One treatment at a time is predicted: {used}, without {join_words(further)} named beside it."


def _of_run(record: RunRecord) -> Iterator[str]:
    best = record.best
    if best and len(record.rounds) > 1:
        yield f"The best of {len(record.rounds)} rounds is shown; a best of several is higher than a single try."
