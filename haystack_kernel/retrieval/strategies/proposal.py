"""What a strategy yields, and how it becomes a candidate.

In: prompt rows, the evidence for them, and a function that finds their control. Out: a :class:`Candidate`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from haystack_kernel import keys
from haystack_kernel.retrieval.rank import compute_quality
from haystack_kernel.retrieval.view import DEPTH, N_CELLS, TYPE_KEY, cell_set, cells_of, type_label
from haystack_kernel.schema import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

    from haystack_kernel.retrieval.cells.matched_control import ControlMatch
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import EvidenceDistance, Strategy, StructuredQuery


_KEY = (keys.ATLAS, keys.DATASET, keys.PERTURBATION, TYPE_KEY)


class Propose(Protocol):
    """A strategy: yields proposals, most relevant first, none with fewer cells than ``settings.min_cells``.

    It yields lazily, so that controls are looked up only for the proposals that are kept.
    """

    def __call__(self, query: StructuredQuery, view: AtlasView) -> Iterator[Proposal]:
        """Propose cell sets for the question."""
        ...


@dataclass(frozen=True)
class Evidence:
    """Why a cell set is proposed; ``words`` continues the sentence "120 B cells of dataset d …:"."""

    strategy: Strategy
    relevance: float
    distance: EvidenceDistance
    words: str


@dataclass(frozen=True, eq=False)
class Proposal:
    """A set of prompt cells before its control is looked up.

    Attributes
    ----------
    rows
        Conditions of one (atlas, dataset, perturbation or control, cell type).
    match
        Finds the control of the rows.
    by_tissue
        Whether the tissues of the rows become a criterion of the cell set.
    variant
        Part of the key that distinguishes sets of the same condition, such as those of different donors.
    """

    rows: pd.DataFrame
    evidence: Evidence
    match: Callable[[pd.DataFrame], ControlMatch]
    by_tissue: bool = False
    variant: str = ""

    @property
    def base_key(self) -> str:
        """``atlas/dataset/perturbation/cell type``."""
        atlas, dataset, perturbation, cell_type = (str(self.rows[name].iat[0]) for name in _KEY)
        state = "control" if self.rows[keys.IS_CONTROL].iat[0] else perturbation
        return f"{atlas}/{dataset}/{state}/{cell_type}"

    @functools.cached_property
    def key(self) -> str:
        """The key that users pin and ban; it does not list donors."""
        return f"{self.base_key}/{self.variant}" if self.variant else self.base_key

    @property
    def n_cells(self) -> int:
        """Cells of the rows."""
        return int(self.rows[N_CELLS].sum())

    def keep(self, rows: pd.DataFrame) -> Proposal:
        """Return the same proposal with fewer rows."""
        return replace(self, rows=rows)

    def build(self, view: AtlasView, *, is_pinned: bool = False) -> Candidate:
        """Look up the control, and combine prompt, control and evidence into a candidate."""
        match, evidence = self.match(self.rows), self.evidence
        prompt = cell_set(match.prompt, by_tissue=self.by_tissue or match.by_tissue, view=view)
        rows = match.prompt
        treated = not rows[keys.IS_CONTROL].iloc[0]
        state = f" treated with {rows[keys.PERTURBATION].iloc[0]}" if treated else ""
        n_donors = len(prompt.donor_ids)
        donors = f" from {n_donors} {'donor' if n_donors == 1 else 'donors'}" if n_donors else ""
        what = f"{prompt.n_cells} {cells_of(type_label(rows))} of dataset {rows[keys.DATASET].iloc[0]}{state}{donors}"
        # Median counts per cell, averaged over the conditions by their cells.
        depth = rows[DEPTH].astype(float).fillna(0.0)
        return Candidate(
            key=self.key,
            strategy=evidence.strategy,
            prompt=prompt,
            control=match.control,
            control_reason=match.reason,
            donor_matched=match.donor_matched,
            pinned=is_pinned,
            relevance=round(evidence.relevance, 6),
            quality=compute_quality(
                n_cells=prompt.n_cells,
                median_total_counts=float(np.average(depth, weights=rows[N_CELLS])) if rows[N_CELLS].sum() else 0.0,
                has_control=match.control is not None,
                donor_matched=match.donor_matched,
            ),
            evidence_distance=evidence.distance,
            reason=f"{'pinned by you; ' if is_pinned else ''}{what}: {evidence.words}",
        )
