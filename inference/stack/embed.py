"""Computes the model's vectors of cells, without a prompt.

In: a loaded model and cells. Out: one vector per cell.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inference.errors import ModelError
from inference.stack.genes import align

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from scipy import sparse

    from inference.baselines import Cells
    from inference.stack.batches import Batches
    from inference.stack.engine import StackEngine
    from inference.stack.model import StackModel

    Floats = NDArray[np.float32]

_FILL_SEED = 42  # as in the reference; it determines which cells fill the last window
_SAY_EVERY = 50  # windows


@dataclass(frozen=True)
class Embedding:
    """Vectors of cells, and how they were computed."""

    vectors: Floats  # cells x (n_hidden * token_dim)
    known: NDArray[np.bool_]  # per gene of the cells: whether the model has it
    notes: tuple[str, ...]
    record: dict[str, Any]  # entries of the output's record


def embed_query(engine: StackEngine, query: Cells) -> Embedding:
    """Compute vectors of the query cells: the model's final tokens.

    Parameters
    ----------
    engine
        The loaded model. Of its settings only the batch size is used, which does not change the result on a CPU.
    query
        Cells in order: consecutive cells share a window, and cells of a window attend to each other.

    Raises
    ------
    InputError
        None of the genes is in the model.
    ModelError
        The model returned values that are not finite.
    """
    test = align(query.counts, query.genes, model_genes=engine.genes, role="query")
    model = engine.checkpoint.model
    vectors = embed_cells(model, test.counts, batches=engine.limits.windows, progress=engine.progress)
    record = {
        **engine.digests,
        "citation": engine.checkpoint.citation,
        "licence": engine.checkpoint.licence,
        "config": asdict(model.config),
        "device": str(model.device),
        "kernels": engine.kernels,
        "precision": model.precision,
        "frac_query_genes_in_model": test.own.size / len(query.genes),
        "frac_model_genes_in_query": test.model.size / len(engine.genes),
    }
    n_model = len(engine.genes)
    note = f"of the model's {n_model} genes the query has {test.model.size} ({test.model.size / n_model:.0%})"
    known = np.zeros(len(query.genes), dtype=bool)
    known[test.own] = True
    return Embedding(
        vectors, known, (*engine.checkpoint.notes, note, engine.computed, *engine.slower), {"model": record}
    )


def embed_cells(
    model: StackModel,
    counts: sparse.csr_matrix,
    *,
    batches: Batches,
    progress: Callable[[str], None] | None = None,
) -> Floats:
    """Compute the final tokens of every cell, flattened.

    Parameters
    ----------
    model
        The model.
    counts
        Raw counts, cells x model genes. Consecutive cells form the windows; the last window is filled with cells drawn
        from itself.
    batches
        Windows computed at once; a CPU computes them one by one, so that rounding does not depend on it.
    progress
        Receives a line about every 50 windows.

    Returns
    -------
    Float32, cells x (n_hidden * token_dim).

    References
    ----------
    Dong et al. 2026, doi 10.64898/2026.01.09.698608.
    """
    n_cells, size = counts.shape[0], model.config.n_cells
    result = np.empty((n_cells, model.config.cell_dim), dtype=np.float32)
    n_windows, said = -(-n_cells // size), 0

    def work(part: range) -> None:
        nonlocal said
        start, stop = part.start * size, min(part.stop * size, n_cells)
        rows = np.arange(start, stop)
        if missing := -rows.size % size:  # the last window is filled with cells drawn from itself
            own = rows[rows.size // size * size :]
            rows = np.concatenate([rows, own[np.random.RandomState(_FILL_SEED).choice(own.size, missing)]])
        windows = torch.from_numpy(counts[rows].toarray().astype(np.float32)).view(-1, size, counts.shape[1])
        tokens = model.embed(windows.to(model.device), n_ctx=size, n_keep=0)
        vectors = tokens.reshape(rows.size, -1)[: stop - start].float().cpu().numpy()
        if not np.isfinite(vectors).all():
            msg = "the model gave values that are not finite: its weights are damaged or the counts far too large"
            raise ModelError(msg)
        result[start:stop] = vectors
        if progress is not None and (part.start == 0 or stop == n_cells or part.stop - said >= _SAY_EVERY):
            progress(f"{stop} of {n_cells} cells embedded")
            said = part.stop

    batches.run(n_windows, work)
    return result
