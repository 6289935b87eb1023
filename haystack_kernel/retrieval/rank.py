"""Ranks candidates: relevant, different from each other, and well measured.

In: candidates with relevance and quality. Out: the best ones in the order they were picked, with diversity and score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.schema import Candidate, CellSet, RetrievalSettings

_HALF_CELLS = 50.0  # number of cells that gives half of the share for cells
_HALF_DEPTH = 1000.0  # median counts per cell that give half of the share for depth
_SHARE_CELLS, _SHARE_DEPTH, _SHARE_CONTROL = 0.4, 0.2, 0.4


def compute_quality(*, n_cells: int, median_total_counts: float, has_control: bool, donor_matched: bool) -> float:
    """Compute how well a candidate is measured, in [0, 1].

    Parameters
    ----------
    n_cells
        Cells of the prompt; saturating, 50 cells give half of this share.
    median_total_counts
        Counts per cell; saturating, 1,000 give half of this share. NaN counts as 0.
    has_control, donor_matched
        A control of the same donors gives the whole share, one of other donors half of it, none nothing.

    References
    ----------
    Defined here: 0.4 n / (n + 50) + 0.2 d / (d + 1000) + 0.4 c.
    """
    depth = median_total_counts if median_total_counts > 0 else 0.0
    control = 0.5 if has_control else 0.0
    if donor_matched:
        control = 1.0
    return (
        _SHARE_CELLS * n_cells / (n_cells + _HALF_CELLS)
        + _SHARE_DEPTH * depth / (depth + _HALF_DEPTH)
        + _SHARE_CONTROL * control
    )


def rank_candidates(candidates: Sequence[Candidate], *, settings: RetrievalSettings) -> tuple[Candidate, ...]:
    """Pick the best ``settings.n_top`` candidates greedily.

    Pinned candidates come first, in the order given, and are kept even beyond ``n_top``. Sets of the same pair that
    have a control come next: a substitute is never better evidence than the measurement, however many cells it has.
    Each step takes the candidate with the highest score, the weighted mean of relevance, diversity and quality.
    Diversity is 1 minus a penalty for each of perturbation, cell type and dataset that an already picked candidate has.
    Of equal scores the smaller key wins.
    """
    picked: list[Candidate] = []
    measured: dict[str, Candidate] = {}
    others: dict[str, Candidate] = {}
    for one in candidates:
        if one.pinned:
            picked.append(_scored(one, picked=picked, settings=settings))
        elif one.evidence_distance == "same_pair" and one.control is not None:
            measured[one.key] = one
        else:
            others[one.key] = one
    for left in (measured, others):
        while left and len(picked) < settings.n_top:
            scored = [_scored(left[key], picked=picked, settings=settings) for key in sorted(left)]
            best = max(scored, key=lambda one: round(one.score, 12))  # the first of equals
            picked.append(best)
            del left[best.key]
    return tuple(picked)


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
    own_type = prompt.cell_type_ids or prompt.cell_type_names
    cell_type = any((one.cell_type_ids or one.cell_type_names) == own_type for one in others)
    dataset = any((one.atlas, one.dataset) == (prompt.atlas, prompt.dataset) for one in others)
    penalty = (
        perturbation * settings.penalty_same_perturbation
        + cell_type * settings.penalty_same_cell_type
        + dataset * settings.penalty_same_dataset
    )
    return max(0.0, 1.0 - penalty)
