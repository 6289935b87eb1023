"""What one round teaches the next: findings by rule, each with what to do about it.

In: a scored round, its query and the thresholds. Out: ``Feedback``, the gravest first; the planner acts on it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.grounding.uncertainty.transfer import LEAST_COVERAGE
from haystack_kernel.knowledge import distance
from haystack_kernel.schema import PERTURBATIONAL, Feedback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import Component, Round, StructuredQuery

WEAK = 4.0  # a score below this is little support
LOW_COVERAGE = 0.8
FAR_STEPS = 3  # steps in the cell ontology from which on a prompt is of another lineage


def find_feedback(
    scored: Round, *, query: StructuredQuery, knowledge: Knowledge, threshold: float
) -> tuple[Feedback, ...]:
    """Say what another prompt could do better than that of a scored round.

    Parameters
    ----------
    scored
        A round with components, confidence and candidates.
    query, knowledge
        The cell type asked for, and the cell ontology, in which the prompt's types have a distance to it.
    threshold
        Composite from which on nothing has to change.

    Returns
    -------
    tuple of Feedback
        Empty for a round that reached ``threshold``. Kinds: ``wrong_lineage`` (the prediction is more similar to
        another type, or no prompt cell type lies within two steps of the asked one and the score is weak),
        ``competing_signature_leads`` (another perturbation fits the response better), ``weak_pathway``,
        ``control_mismatch`` (no matched control), ``donor_unmatched`` (the control comes from other donors),
        ``low_coverage``, ``unstable``.

    Examples
    --------
    >>> find_feedback(scored, query=query, knowledge=knowledge, threshold=7)  # doctest: +SKIP
    """
    value = scored.composite.value if scored.composite else math.nan
    if value >= threshold:
        return ()
    found = {item.name: item for item in scored.components if not math.isnan(item.score)}
    feedback = [
        *_of_lineage(scored, found=found, query=query, knowledge=knowledge),
        *_of_response(found, query=query),
        *_of_control(scored, query=query),
    ]
    if scored.frac_genes_found < LOW_COVERAGE:
        sentence = f"only {scored.frac_genes_found:.0%} of the genes could be predicted"
        feedback.append(Feedback(kind="low_coverage", sentence=sentence, action="other_dataset"))
    aspects = {item.name: item.value for item in scored.confidence.aspects} if scored.confidence else {}
    if aspects.get("gene intervals", math.nan) < LEAST_COVERAGE:
        sentence = (
            f"only {aspects['gene intervals']:.0%} of the effects left out of the prompt lay in their 80 % interval"
        )
        feedback.append(Feedback(kind="unstable", sentence=sentence, action="wider_pool"))
    return tuple(feedback)


def _of_lineage(
    scored: Round, *, found: dict[str, Component], query: StructuredQuery, knowledge: Knowledge
) -> Iterator[Feedback]:
    coherence = found.get(keys.CELL_TYPE_COHERENCE)
    if coherence is not None and coherence.statistic < 0:
        other = coherence.detail.get("nearest_other", "another cell type")
        sentence = f"the prediction is more similar to {other} than to {query.cell_type_name}"
        yield Feedback(kind="wrong_lineage", sentence=sentence, action="other_cells", about=other)
        return
    is_weak = max((item.score for item in found.values()), default=0.0) < WEAK
    if query.task_type not in PERTURBATIONAL or not is_weak:
        return  # a far prompt that works is no fault
    nearest = _nearest_steps(scored, query.cell_type_id, knowledge)
    if nearest >= FAR_STEPS:
        how_far = "not connected with" if math.isinf(nearest) else f"{nearest:.0f} steps from"
        sentence = f"every cell type of the prompt is {how_far} {query.cell_type_name} in the cell ontology"
        yield Feedback(kind="wrong_lineage", sentence=sentence, action="other_cells")


def _of_response(found: dict[str, Component], *, query: StructuredQuery) -> Iterator[Feedback]:
    asked = query.perturbation.name if query.perturbation else "the perturbation asked for"
    facts = found[keys.TARGET].detail if keys.TARGET in found else {}
    if facts.get("ridge_competing_value", -math.inf) > facts.get("ridge_asked", 0):
        other = facts.get("ridge_competing") or "another perturbation"
        sentence = f"{other} fits the response better than {asked}"
        yield Feedback(kind="competing_signature_leads", sentence=sentence, action="nearer_evidence")
    elif keys.PATHWAY in found and found[keys.PATHWAY].score < WEAK:
        sentence = f"the pathways expected of {asked} hardly move (score {found[keys.PATHWAY].score:.1f})"
        yield Feedback(kind="weak_pathway", sentence=sentence, action="nearer_evidence")


def _of_control(scored: Round, *, query: StructuredQuery) -> Iterator[Feedback]:
    without = [item for item in scored.candidates if item.control is None]
    if without or not scored.n_control:
        why = without[0].control_reason if without else scored.control_note
        sentence = "the prompt has no matched control cells"
        if why:
            sentence += f" ({why.rstrip('.')})"
        yield Feedback(kind="control_mismatch", sentence=sentence, action="matched_control")
    elif query.task_type in PERTURBATIONAL and not all(item.donor_matched for item in scored.candidates):
        sentence = "the control cells come from other donors than the prompt"
        yield Feedback(kind="donor_unmatched", sentence=sentence, action="matched_control")


def _nearest_steps(scored: Round, asked: str | None, knowledge: Knowledge) -> float:
    """Fewest steps in the ontology from the asked cell type to one of the prompt; infinite: not connected or known."""
    shown = [one for item in scored.candidates for one in item.prompt.cell_type_ids]
    if not shown:
        return 0.0
    known = knowledge.cell_types
    nearest = math.inf
    for one in shown:
        if asked is not None and asked in known and one in known:
            steps = distance(asked, one, knowledge=knowledge)
            nearest = nearest if steps is None else min(nearest, steps)
    return nearest
