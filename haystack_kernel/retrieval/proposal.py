"""A candidate made of its parts, the same way for every strategy.

In: prompt rows with their control, and how relevant they are. Out: a :class:`Candidate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.retrieval.rank import compute_quality
from haystack_kernel.retrieval.view import DEPTH, N_CELLS, TYPE_KEY, cell_set, cells_of, type_label
from haystack_kernel.schema import Candidate

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.retrieval.control import ControlMatch
    from haystack_kernel.schema import EvidenceDistance, Strategy


@dataclass(frozen=True)
class Evidence:
    """Why a cell set is proposed. ``words`` continue the sentence "120 B cell cells of dataset d …:"."""

    strategy: Strategy
    relevance: float
    distance: EvidenceDistance
    words: str


def build_candidate(match: ControlMatch, evidence: Evidence, *, by_tissue: bool = False) -> Candidate:
    """Put prompt, control and evidence together.

    The key, ``atlas/dataset/perturbation/cell type``, is what users pin and ban: it does not depend on donors.
    """
    prompt = cell_set(match.prompt, by_tissue=by_tissue or match.by_tissue)
    first = match.prompt.iloc[0]
    return Candidate(
        key="/".join((prompt.atlas, prompt.dataset, prompt.perturbation or "control", first[TYPE_KEY])),
        strategy=evidence.strategy,
        prompt=prompt,
        control=match.control,
        control_reason=match.reason,
        donor_matched=match.donor_matched,
        relevance=round(evidence.relevance, 6),
        quality=compute_quality(
            n_cells=prompt.n_cells,
            median_total_counts=_depth(match.prompt),
            has_control=match.control is not None,
            donor_matched=match.donor_matched,
        ),
        evidence_distance=evidence.distance,
        reason=f"{_what(match.prompt, n_cells=prompt.n_cells, n_donors=len(prompt.donor_ids))}: {evidence.words}",
    )


def _what(rows: pd.DataFrame, *, n_cells: int, n_donors: int) -> str:
    treated = not rows[keys.IS_CONTROL].iloc[0]
    state = f" treated with {rows[keys.PERTURBATION].iloc[0]}" if treated else ""
    donors = f" from {n_donors} {'donor' if n_donors == 1 else 'donors'}" if n_donors else ""
    return f"{n_cells} {cells_of(type_label(rows))} of dataset {rows[keys.DATASET].iloc[0]}{state}{donors}"


def _depth(rows: pd.DataFrame) -> float:
    """Median counts per cell, averaged over the conditions by their cells."""
    depth = rows[DEPTH].astype(float).fillna(0.0)
    return float(np.average(depth, weights=rows[N_CELLS])) if rows[N_CELLS].sum() else 0.0
