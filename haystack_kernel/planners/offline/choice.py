"""Which candidates a round tries: from the widest pool to single cell sets, never the same twice.

In: ranked candidates and the rounds so far. Out: a ``Choice``, or None when nothing untried is left.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.schema import MEASURED_EVIDENCE, Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.schema import Candidate, Feedback, FeedbackAction, Round, RunConfig, StructuredQuery

POOLED_ENGINES = ("mean", "weighted", "stack")  # engines that learn from several cell types at once
TWIN = 0.8  # relevance from which a related treatment tells as much as the same one in another cell type
_TIERS = {"same_pair": 0, "other_cell_type": 0, "same_cell_type": 0, "shared_target": 1, "text_only": 2}
_UNMATCHED = 0.5  # what a prompt without donor-matched control costs beside a feedback: its score is capped
_ACTIONS: dict[FeedbackAction, str] = {
    "other_cells": "so other cells, nearer to those asked for, come next",
    "nearer_evidence": "so other evidence, as near to the question as there is, comes next",
    "other_dataset": "so another dataset comes next",
    "matched_control": "so a prompt with controls of its own donors comes next",
    "wider_pool": "so more cells are pooled next",
}


def choose_candidates(
    query: StructuredQuery, candidates: Sequence[Candidate], history: Sequence[Round], *, config: RunConfig
) -> Choice | None:
    """Pick the candidates of the next round.

    Engines that pool cell types start with every candidate of the dataset and treatment of the top one whose donors
    have controls (all of them where none has), then keep the higher ranked half of these; sets of the treatment asked
    for are the top where there are any. After that, and for the other engines from the start, each candidate is taken
    alone: first those that show the treatment asked for or one with nearly the same targets and pathways, then those
    with some in common, last those found by their description. Pinned candidates join every choice; a set of
    candidates that a round has used is not chosen again.

    What the rounds so far taught (their feedback) goes before this order: of the sets not tried yet, the one that
    avoids the most of it comes next, and the reason names it.

    Parameters
    ----------
    candidates
        In the order of the ranked table.
    history
        The rounds so far; their scores are quoted in the reason, never used to choose.

    Returns
    -------
    None when every set was tried.
    """
    pinned = [candidate for candidate in candidates if candidate.pinned]
    free = sorted((item for item in candidates if not item.pinned), key=_tier)
    tried = {frozenset(past.choice.candidate_keys) for past in history}
    left = []
    for group, why in [*_plan(free, query=query, config=config), (pinned, "Uses the pinned candidates alone.")]:
        members = [*pinned, *(candidate for candidate in group if candidate not in pinned)]
        if members and frozenset(candidate.key for candidate in members) not in tried:
            left.append((members, f"{why}{_pin_note(pinned) if pinned and group is not pinned else ''}"))
    if not left:
        return None
    faults = [_faults(members, history=history, n_all=len(candidates)) for members, _ in left]
    cost = [sum(found.values()) + _UNMATCHED * _unmatched(left[i][0]) * bool(found) for i, found in enumerate(faults)]
    place = min(range(len(left)), key=lambda i: (round(cost[i], 9), i))
    members, why = left[place]
    last = _faults(history[-1].candidates, history=history, n_all=len(candidates)) if history else {}
    learned = _learned(history, better=[name for name, fault in faults[place].items() if fault < last[name]])
    keys = tuple(candidate.key for candidate in members)
    return Choice(candidate_keys=keys, reason=f"{_last_round(history)}{learned}{why}")


def cell_names(candidates: Sequence[Candidate]) -> str:
    """Cell types of the candidates for people, each once: "B cell, NK cell and monocyte"."""
    names = [item.prompt.label or ", ".join(item.prompt.cell_type_names) for item in candidates]
    return join_words(list(dict.fromkeys(names))) or "all cells"


def join_words(words: Sequence[str]) -> str:
    """Join as "a", "a and b", "a, b and c"; empty for nothing."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _plan(
    free: Sequence[Candidate], *, query: StructuredQuery, config: RunConfig
) -> list[tuple[Sequence[Candidate], str]]:
    if not free:
        return []
    top = next((item for item in free if item.evidence_distance in MEASURED_EVIDENCE), free[0]).prompt
    source = (top.atlas, top.dataset, top.perturbation)
    pool = [item for item in free if (item.prompt.atlas, item.prompt.dataset, item.prompt.perturbation) == source]
    pool = [item for item in pool if item.donor_matched] or pool  # one unmatched set would cap the score of all
    plan: list[tuple[Sequence[Candidate], str]] = []
    if config.engine in POOLED_ENGINES and len(pool) > 1:
        half = pool[: math.ceil(len(pool) / 2)]
        plan = [(pool, _pool_reason(pool, query=query))]
        plan += [(half, _half_reason(half, pool=pool, query=query))] if len(half) > 1 else []
    return [*plan, *(([item], _single_reason(item, is_top=item is free[0])) for item in free)]


def _faults(members: Sequence[Candidate], *, history: Sequence[Round], n_all: int) -> dict[FeedbackAction, float]:
    """For each thing the rounds so far asked to change, how much of a set still has it, 0 to 1."""
    found: dict[FeedbackAction, float] = {}
    for past in history:
        for item in past.feedback if members else ():
            fault = sum(_fault(item, one, past=past) for one in members) / len(members)
            if item.action == "wider_pool":
                fault = 1 - len(members) / n_all
            found[item.action] = max(found.get(item.action, 0.0), fault)
    return found


def _fault(item: Feedback, one: Candidate, *, past: Round) -> float:
    """How much of what ``item`` found in a past round a candidate would bring again."""
    used = [other.prompt for other in past.candidates]
    if item.action == "other_cells":
        names = {cell_names([other]) for other in past.candidates}
        misled = {item.about} if item.about in names else names
        return 0.5 * (cell_names([one]) in misled) + 0.5 * (1 - one.relevance)
    if item.action == "nearer_evidence":
        is_used = any(one.key == other.key for other in past.candidates)
        return 0.5 * is_used + 0.25 * _TIERS[one.evidence_distance]
    if item.action == "other_dataset":
        return float(any((one.prompt.atlas, one.prompt.dataset) == (prompt.atlas, prompt.dataset) for prompt in used))
    return _unmatched([one]) if item.action == "matched_control" else 0.0


def _unmatched(members: Sequence[Candidate]) -> float:
    """Share of a set without donor-matched control; a control of other donors is half of one."""
    return sum(1 - 0.5 * (one.control is not None) - 0.5 * one.donor_matched for one in members) / len(members)


def _learned(history: Sequence[Round], *, better: Sequence[FeedbackAction]) -> str:
    """What a set does better than the last round, in the words of the rounds that asked for it."""
    said = {
        item.action: f"Round {past.number}: {item.sentence}; {_ACTIONS[item.action]}. "
        for past in history
        for item in past.feedback
        if item.action in better
    }
    return "".join(said.values())


def _tier(item: Candidate) -> int:
    """How near the evidence is; sorting by it keeps the order of the ranking within a tier."""
    is_twin = item.evidence_distance == "shared_target" and item.relevance >= TWIN
    return 0 if is_twin else _TIERS[item.evidence_distance]


# --- reasons ------------------------------------------------------------------------------------------------------


def _pool_reason(pool: Sequence[Candidate], *, query: StructuredQuery) -> str:
    return (
        f"Pools {cell_names(pool)} of dataset {pool[0].prompt.dataset}, {_shown(pool[0])}. "
        f"What several cell types share is the safest guide to {_asked(query)}."
    )


def _half_reason(half: Sequence[Candidate], *, pool: Sequence[Candidate], query: StructuredQuery) -> str:
    return (
        f"Keeps the {len(half)} highest ranked of the {len(pool)} pooled sets ({cell_names(half)} of dataset "
        f"{half[0].prompt.dataset}), so that cells less like {_asked(query)} no longer dilute the effect."
    )


def _single_reason(item: Candidate, *, is_top: bool) -> str:
    rank = "the highest ranked candidate" if is_top else "the next candidate in rank"
    donors = f" (donor {join_words(item.prompt.donor_ids)})" if item.prompt.donor_ids else ""
    return (
        f"Takes {cell_names([item])}{donors} of dataset {item.prompt.dataset} alone, {_shown(item)}: {rank} that was "
        f"not tried yet. {item.reason}"
    ).rstrip()


def _shown(item: Candidate) -> str:
    if item.prompt.perturbation:
        return f"measured under {item.prompt.perturbation}"
    return "measured without treatment" if item.prompt.is_control else "measured as they are"


def _asked(query: StructuredQuery) -> str:
    return query.cell_type_name or "the cells asked for"


def _pin_note(pinned: Sequence[Candidate]) -> str:
    datasets = list(dict.fromkeys(item.prompt.dataset for item in pinned))
    return f" Pinned and always in: {cell_names(pinned)} of {join_words(datasets)}."


def _last_round(history: Sequence[Round]) -> str:
    scored = [past for past in history if past.composite is not None and not math.isnan(past.composite.value)]
    if not scored or scored[-1] is not history[-1]:
        return ""
    return f"Round {scored[-1].number} reached {scored[-1].composite.value:.1f} of 10. " if scored[-1].composite else ""
