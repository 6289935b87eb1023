"""Which candidates to keep: relevant, unlike each other, and measured well.

In: candidates with relevance and quality. Out: the best, in the order they were picked, with diversity and score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.schema import Candidate, CellSet, RetrievalSettings

_HALF_CELLS = 50.0  # cells at which that share of quality is one half
_HALF_DEPTH = 1000.0  # median counts per cell, likewise
_SHARE_CELLS, _SHARE_DEPTH, _SHARE_CONTROL = 0.4, 0.2, 0.4


def compute_quality(*, n_cells: int, median_total_counts: float, has_control: bool, donor_matched: bool) -> float:
    """How well a candidate is measured, in [0, 1].

    Parameters
    ----------
    n_cells
        Cells of the prompt; saturates (50 cells give half of this share).
    median_total_counts
        Counts per cell; saturates (1,000 give half of this share). NaN counts as 0.
    has_control, donor_matched
        No control gives nothing of this share, one of other donors half of it.

    References
    ----------
    Defined here: 0.4 n / (n + 50) + 0.2 d / (d + 1000) + 0.4 c.
    """
    depth = median_total_counts if median_total_counts > 0 else 0.0
    control = 1.0 if donor_matched else 0.5 if has_control else 0.0
    return (
        _SHARE_CELLS * n_cells / (n_cells + _HALF_CELLS)
        + _SHARE_DEPTH * depth / (depth + _HALF_DEPTH)
        + _SHARE_CONTROL * control
    )


def rank_candidates(candidates: Sequence[Candidate], *, settings: RetrievalSettings) -> tuple[Candidate, ...]:
    """Greedy top ``settings.n_top``: pinned first in the order given, then what shows the very pair asked for.

    Each step takes the candidate of highest score = weighted mean of relevance, diversity and quality, where
    diversity = 1 less a penalty for a perturbation, cell type or dataset that one already picked has. Ties go to the
    smaller key. Sets of the same pair that have a control come before all others: no analogue is better evidence than
    the measurement, however many cells it has. Pinned candidates are kept even beyond ``n_top``.
    """
    picked: list[Candidate] = []
    for one in candidates:
        if one.pinned:
            picked.append(_scored(one, picked=picked, settings=settings))
    free = sorted((one for one in candidates if not one.pinned), key=lambda one: one.key)
    for is_measured in (True, False):
        left = {one.key: one for one in free if _is_measured(one) is is_measured}
        while left and len(picked) < settings.n_top:
            scored = [_scored(one, picked=picked, settings=settings) for one in left.values()]
            best = max(scored, key=lambda one: round(one.score, 12))  # the first of equals
            picked.append(best)
            del left[best.key]
    return tuple(picked)


def _is_measured(one: Candidate) -> bool:
    return one.evidence_distance == "same_pair" and one.control is not None


def _scored(candidate: Candidate, *, picked: Sequence[Candidate], settings: RetrievalSettings) -> Candidate:
    diversity = _diversity(candidate.prompt, [one.prompt for one in picked], settings=settings)
    parts = (
        (settings.weight_relevance, candidate.relevance),
        (settings.weight_diversity, diversity),
        (settings.weight_quality, candidate.quality),
    )
    total = sum(weight for weight, _ in parts)
    score = sum(weight * value for weight, value in parts) / total if total else 0.0
    return candidate.model_copy(update={"diversity": diversity, "score": min(1.0, max(0.0, score))})


def _diversity(prompt: CellSet, others: Sequence[CellSet], *, settings: RetrievalSettings) -> float:
    perturbation = any(prompt.perturbation is not None and one.perturbation == prompt.perturbation for one in others)
    cell_type = any(_type(one) == _type(prompt) for one in others)
    dataset = any((one.atlas, one.dataset) == (prompt.atlas, prompt.dataset) for one in others)
    penalty = (
        perturbation * settings.penalty_same_perturbation
        + cell_type * settings.penalty_same_cell_type
        + dataset * settings.penalty_same_dataset
    )
    return max(0.0, 1.0 - penalty)


def _type(prompt: CellSet) -> tuple[str, ...]:
    return prompt.cell_type_ids or prompt.cell_type_names
