"""Cells and mean profiles of a simulated world, for tools and measurements only.

In: a world, cell types, a treatment. Out: ``Cells`` as the engines take them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from haystack_kernel.atlas.demo.facts import CYTOKINE_LABELS, DRUG_LABELS
from haystack_kernel.atlas.demo.sampling import Group, Sample, sample_counts
from inference.baselines import Cells
from inference.draw import log_normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.atlas.demo.world import World

PROMPT_TYPES = {  # kind of treatment -> cell types that the demo atlas measures under it
    kind: [cl for cl, _ in labels.values()] for kind, labels in (("cytokine", CYTOKINE_LABELS), ("drug", DRUG_LABELS))
}


def draw(
    world: World, cell_types: Sequence[str], treatment: str | None, *, n_cells: int, donors: Sequence[str]
) -> Cells:
    """Draw ``n_cells`` cells of each type and donor, with their labels; ``treatment`` None: control cells."""
    parts, types, names = [], [], []
    for donor in donors:
        sample = Sample("measured", donor, treatment, tuple(Group(cl, n_cells) for cl in cell_types))
        parts.append(sample_counts(world, sample))
        types += [cl for cl in cell_types for _ in range(n_cells)]
        names += [donor] * (n_cells * len(cell_types))
    counts = sparse.vstack(parts, format="csr")
    return Cells(counts, world.genes, np.array(types), np.array(names))


def mean_log(counts: Any) -> NDArray[np.float64]:
    """Mean log1p(CP10k) per gene."""
    return np.asarray(log_normalise(sparse.csr_matrix(counts)).mean(axis=0)).ravel()
