"""What is asked of a model, and what it generates.

In: cells. Out: records that also a process without torch can hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy import sparse

    from inference.baselines import Cells


@dataclass(frozen=True)
class Asked:
    """One prediction of several."""

    prompt: Cells
    query: Cells
    seed: int


@dataclass(frozen=True)
class Generated:
    """Generated counts in the shape of the query cells, without the expectations of a ``Prediction``."""

    counts: sparse.csr_matrix
    changeable: NDArray[np.bool_]
    logits: NDArray[np.float32]
    notes: tuple[str, ...]
    record: dict[str, Any]
