"""Choose the candidates that a round tries: from the widest pool to single cell sets, never the same set twice.

In: ranked candidates and the rounds so far. Out: a ``Choice``, or None when nothing untried is left.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel.schema import MEASURED_EVIDENCE, Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.schema import Candidate, Feedback, FeedbackAction, Round, RunConfig, StructuredQuery

    _Reasoned = tuple[Sequence[Candidate], str]  # a set of candidates and why it is tried

ONE_BY_ONE = ("none", "shift")  # engines that learn nothing from several cell types at once
TWIN = 0.8  # relevance from which a related treatment counts as much as the same one in another cell type
_TIERS = {"same_pair": 0, "other_cell_type": 0, "same_cell_type": 0, "shared_target": 1, "text_only": 2}
_UNMATCHED = 0.5  # added cost of a prompt without donor-matched control cells, whose score is capped
_ACTIONS: dict[FeedbackAction, str] = {
    "other_cells": "so cells more similar to those asked for are tried next",
    "nearer_evidence": "so other evidence close to the question is tried next",
    "other_dataset": "so another dataset is tried next",
    "matched_control": "so a prompt with control cells of its own donors is tried next",
    "wider_pool": "so more cells are pooled next",
}


def choose_candidates(
    query: StructuredQuery, candidates: Sequence[Candidate], history: Sequence[Round], *, config: RunConfig
) -> Choice | None:
    """Choose the candidates of the next round.

    Engines that pool cell types start with every candidate of the dataset and treatment of the top one whose donors
    have control cells (all of them where none has), then keep the higher ranked half of these; sets of the treatment
    asked for are the top where there are any. After that, and for the other engines from the start, each candidate is
    taken alone: first those that show the treatment asked for or one with nearly the same targets and pathways, then
    those with some in common, last those found by their description. Pinned candidates join every choice; a set of
    candidates that a round has used is not chosen again.

    The feedback of the rounds so far takes precedence over this order: of the sets not tried yet, the one that avoids
    most of what the feedback criticises comes next, and the reason names it.

    Parameters
    ----------
    query
        The parsed question; it words the reasons.
    candidates
        In the order of the ranked table.
    history
        The rounds so far; their scores are quoted in the reason, never used to choose.
    config
        The engine decides whether candidates are pooled.

    Returns
    -------
    The choice and its reason; None when every set was tried.

    Examples
    --------
    >>> choose_candidates(query, candidates, [], config=config).reason  # doctest: +SKIP
    """
    pinned = [candidate for candidate in candidates if candidate.pinned]
    free = sorted((item for item in candidates if not item.pinned), key=_tier)
    plan = _pools(free, query=query) if pools(config.engine) else []
    plan += [([item], _single_reason(item, is_top=item is free[0])) for item in free]
    plan.append((pinned, "Uses the pinned candidates alone."))
    left = _untried(plan, pinned=pinned, history=history)
    if not left:
        return None
    costs = []
    for members, _ in left:
        faults = _faults(members, history=history, n_all=len(candidates))
        unmatched = _UNMATCHED * _unmatched(members) if faults else 0.0  # without feedback every set costs nothing
        costs.append(round(sum(faults.values()) + unmatched, 9))
    members, why = left[costs.index(min(costs))]  # of equal costs the first in the plan
    keys = tuple(candidate.key for candidate in members)
    return Choice(candidate_keys=keys, reason=f"{_learned(members, history, n_all=len(candidates))}{why}")


def pools(engine: str) -> bool:
    """Whether an engine learns from several cell types at once."""
    return engine not in ONE_BY_ONE


def cell_names(candidates: Sequence[Candidate]) -> str:
    """Return the cell types of the candidates, each once, as "B cell, NK cell and monocyte"."""
    names = [item.prompt.label or ", ".join(item.prompt.cell_type_names) for item in candidates]
    return join_words(list(dict.fromkeys(names))) or "all cells"


def join_words(words: Sequence[str]) -> str:
    """Join as "a", "a and b", "a, b and c"; by semicolons where a name contains a comma; empty for nothing.

    Examples
    --------
    >>> join_words(["B cell", "CD4-positive, alpha-beta T cell", "monocyte"])
    'B cell; CD4-positive, alpha-beta T cell; and monocyte'
    """
    if len(words) < 3:
        return " and ".join(words)
    if any("," in word for word in words):
        return f"{'; '.join(words[:-1])}; and {words[-1]}"
    return f"{', '.join(words[:-1])} and {words[-1]}"


# --- the order of sets --------------------------------------------------------------------------------------------


def _pools(free: Sequence[Candidate], *, query: StructuredQuery) -> list[_Reasoned]:
    """Return the pool of the top candidate's dataset and treatment, and its higher ranked half."""
    if not free:
        return []
    top = next((item for item in free if item.evidence_distance in MEASURED_EVIDENCE), free[0]).prompt
    source = (top.atlas, top.dataset, top.perturbation)
    pool = [item for item in free if (item.prompt.atlas, item.prompt.dataset, item.prompt.perturbation) == source]
    pool = [item for item in pool if item.donor_matched] or pool  # one unmatched set would cap the score of all
    if len(pool) < 2:
        return []
    why = (
        f"Pools {cell_names(pool)} of dataset {top.dataset}, {_shown(pool[0])}. "
        f"A response shared by several cell types is the best guide to that of {query.cell_type_name or 'other cells'}."
    )
    pools: list[_Reasoned] = [(pool, why)]
    half = pool[: math.ceil(len(pool) / 2)]
    if len(half) > 1:
        why = (
            f"Keeps the {len(half)} highest ranked of the {len(pool)} pooled sets ({cell_names(half)} of dataset "
            f"{top.dataset}), so that less similar cells no longer dilute the effect."
        )
        pools.append((half, why))
    return pools


def _untried(plan: Sequence[_Reasoned], *, pinned: Sequence[Candidate], history: Sequence[Round]) -> list[_Reasoned]:
    """Add the pinned candidates to every set of the plan and drop the sets that a round has used."""
    tried = {frozenset(past.choice.candidate_keys) for past in history}
    datasets = join_words(list(dict.fromkeys(item.prompt.dataset for item in pinned)))
    left: list[_Reasoned] = []
    for group, why in plan:
        members = [*pinned, *(candidate for candidate in group if candidate not in pinned)]
        if members and frozenset(candidate.key for candidate in members) not in tried:
            is_joined = bool(pinned) and group is not pinned
            note = f" Pinned in every round: {cell_names(pinned)} of {datasets}." if is_joined else ""
            left.append((members, f"{why}{note}"))
    return left


# --- what feedback makes of a set ---------------------------------------------------------------------------------


def _faults(members: Sequence[Candidate], *, history: Sequence[Round], n_all: int) -> dict[FeedbackAction, float]:
    """Return for each action that feedback asked for how much of a set still needs it, 0 to 1."""
    found: dict[FeedbackAction, float] = {}
    if not members:
        return found
    for past in history:
        for item in past.feedback:
            if item.action == "wider_pool":
                fault = 1 - len(members) / n_all
            else:
                fault = sum(_fault(item, one, past=past) for one in members) / len(members)
            found[item.action] = max(found.get(item.action, 0.0), fault)
    return found


def _fault(item: Feedback, one: Candidate, *, past: Round) -> float:
    """Return how much of what ``item`` criticises in a past round a candidate would repeat, 0 to 1."""
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
    """Return the share of a set without donor-matched control cells; control cells of other donors count half."""
    return sum(1 - 0.5 * (one.control is not None) - 0.5 * one.donor_matched for one in members) / len(members)


def _learned(members: Sequence[Candidate], history: Sequence[Round], *, n_all: int) -> str:
    """Return the last score, and what a set improves over its round in the words of the rounds that asked for it."""
    if not history:
        return ""
    # What a set repeats less of than the last round did is what it improves.
    last = history[-1]
    before = _faults(last.candidates, history=history, n_all=n_all)
    now = _faults(members, history=history, n_all=n_all)
    said: dict[FeedbackAction, str] = {}
    for past in history:
        for item in past.feedback:
            if now[item.action] < before[item.action]:
                said[item.action] = f"Round {past.number}: {item.sentence}; {_ACTIONS[item.action]}. "
    score = last.composite
    scored = f"Round {last.number} scored {score.shown}. " if score and score.is_scored else ""
    return scored + "".join(said.values())


def _tier(item: Candidate) -> int:
    """Return how close the evidence is; sorting by it keeps the order of the ranking within a tier."""
    is_twin = item.evidence_distance == "shared_target" and item.relevance >= TWIN
    return 0 if is_twin else _TIERS[item.evidence_distance]


# --- reasons ------------------------------------------------------------------------------------------------------


def _single_reason(item: Candidate, *, is_top: bool) -> str:
    rank = "the highest ranked candidate" if is_top else "the next candidate in rank"
    donors = f" (donor {join_words(item.prompt.donor_ids)})" if item.prompt.donor_ids else ""
    return (
        f"Uses {cell_names([item])}{donors} of dataset {item.prompt.dataset} alone, {_shown(item)}: {rank} that was "
        f"not tried yet. {item.reason}"
    ).rstrip()


def _shown(item: Candidate) -> str:
    if item.prompt.perturbation:
        return f"measured under {item.prompt.perturbation}"
    return "measured without treatment" if item.prompt.is_control else "measured as they are"
