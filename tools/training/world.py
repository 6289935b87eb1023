"""Reads a simulated world: cells, their true profiles, and what training may not see.

In: an ``.npz`` of ``tools.lessons``. Out: :class:`World`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Ints = NDArray[np.int64]

UNTREATED = -1  # in place of a treatment's number


@dataclass(frozen=True)
class World:
    """One simulated world. Shares are of a cell's counts and sum to 1 over genes."""

    genes: tuple[str, ...]
    share: Floats  # (1 + treatments, cell types, genes), the untreated first
    control: sparse.csr_matrix  # counts of untreated cells
    control_type: Ints
    control_share: Floats  # expected share of each of them
    treated: dict[tuple[int, int], sparse.csr_matrix]  # (treatment, cell type) -> counts
    held_pairs: Bools  # (treatments, cell types): never shown, neither as prompt nor as answer
    families: Bools  # (2, cell types): types measured together, under cytokines and under drugs
    is_drug: Bools  # per treatment

    @property
    def n_types(self) -> int:
        """Number of cell types."""
        return int(self.held_pairs.shape[1])

    def shown(self, treatment: int) -> Ints:
        """Cell types that training may see under a treatment."""
        if treatment == UNTREATED:
            return np.arange(self.n_types)
        return np.flatnonzero(~self.held_pairs[treatment])

    def trainable(self) -> Ints:
        """Treatments with at least two cell types to be shown: one for the prompt, one to ask about."""
        return np.flatnonzero((~self.held_pairs).sum(axis=1) >= 2)

    def cells(self, treatment: int, cell_type: int) -> sparse.csr_matrix:
        """Counts of the cells of a type under a treatment."""
        if treatment == UNTREATED:
            return self.control[np.flatnonzero(self.control_type == cell_type)]
        return self.treated[treatment, cell_type]

    def true_share(self, cells: Ints, treatment: int) -> Floats:
        """Expected share of untreated cells, had they been treated: what goes up is added, what goes down scaled."""
        own = self.control_share[cells]
        if treatment == UNTREATED:
            return own
        types = self.control_type[cells]
        before, after = self.share[0, types], self.share[1 + treatment, types]
        share = own * np.minimum(after / before, 1.0) + np.maximum(after - before, 0.0)
        return np.asarray(share / share.sum(axis=1, keepdims=True))


def read_world(path: Path) -> World:
    """Read a world.

    Raises
    ------
    KeyError
        The file holds something else.
    """
    with np.load(path, allow_pickle=False) as raw:
        parts = {name: raw[name] for name in raw.files}
    n_genes = parts["genes"].size

    def matrix(name: str) -> sparse.csr_matrix:
        found = (parts[f"{name}_data"].astype(np.float32), parts[f"{name}_indices"], parts[f"{name}_indptr"])
        return sparse.csr_matrix(found, shape=(found[2].size - 1, n_genes))

    treated, kind, which = matrix("treated"), parts["treated_type"], parts["treated_treatment"]
    return World(
        genes=tuple(parts["genes"].tolist()),
        share=parts["share"].astype(np.float64),
        control=matrix("control"),
        control_type=parts["control_type"],
        control_share=parts["control_expected"].astype(np.float64),
        treated={
            (treatment, cell_type): treated[np.flatnonzero((which == treatment) & (kind == cell_type))]
            for treatment, cell_type in np.ndindex(parts["held_pairs"].shape)
        },
        held_pairs=parts["held_pairs"],
        families=parts["families"],
        is_drug=parts["is_drug"],
    )
