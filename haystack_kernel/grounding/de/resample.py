"""The prediction repeated without some of the prompt's donors, for the engines that cost nothing to run.

In: cells by role and the engine. Out: further treated predictions, as counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from inference.baselines import Cells, predict
from inference.manifest import BASELINES

if TYPE_CHECKING:
    import anndata as ad
    from scipy import sparse

    from haystack_kernel.grounding.records import GroundingCells

MAX_GROUPS = 4  # donors are left out one by one, or in as many groups
MIN_DONORS = 3


def without_donors(cells: GroundingCells, *, engine: str, seed: int) -> list[sparse.csr_matrix]:
    """Predict from the prompt without one donor, or one group of donors, at a time.

    Parameters
    ----------
    cells
        Prompt cells, their control cells and query cells.
    engine
        Engine of the prediction that is scored.
    seed
        Random seed of the sampled molecules.

    Returns
    -------
    Raw counts in the shape of the query cells, one matrix per donor that was left out (one per group of donors where
    there are more than four). The list is empty for an engine with a model, without control cells, and where fewer
    than three donors have both treated and control cells.
    """
    prompt, control = cells.prompt, cells.prompt_control
    if engine not in BASELINES or engine == "none" or control is None or control.n_obs == 0:
        return []
    names = [adata.obs[keys.DONOR].astype(str).to_numpy() for adata in (prompt, control)]
    donors = sorted(set(names[0]) & set(names[1]))
    if len(donors) < MIN_DONORS:
        return []
    query, predictions = baseline_cells(cells.query), []
    for left_out in np.array_split(np.array(donors, dtype=object), min(len(donors), MAX_GROUPS)):
        kept = [~np.isin(name, left_out.astype(str)) for name in names]
        arms = [baseline_cells(adata[keep]) for adata, keep in zip((prompt, control), kept, strict=True)]
        predictions.append(predict(engine, prompt=arms[0], control=arms[1], query=query, seed=seed).counts)
    return predictions


def baseline_cells(adata: ad.AnnData) -> Cells:
    """Cells as the baselines read them."""
    labels = [adata.obs[name].astype(str).to_numpy() for name in (keys.CELL_TYPE, keys.DONOR)]
    return Cells(adata.X.tocsr(), tuple(map(str, adata.var_names)), labels[0], labels[1])
