"""A prediction held against the measured response that was kept out of it: reported, never scored.

In: treated and control cells of the response, the DE table of the prediction. Out: ``Truth``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.de.profiles import correlate, log_normalise
from haystack_kernel.schema import Truth
from inference.effects import measure_effect, summarise_arm

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

MIN_GENES = 100
MIN_CELLS = 10  # of an arm: with fewer nothing is compared
N_TOP = 50
CLEAR = 3.0  # standard errors of the measurement: genes of which the measured direction is beyond doubt


def compare_with_truth(
    treated: ad.AnnData,
    control: ad.AnnData,
    *,
    de: pd.DataFrame,
    label: str,
    pair: str,
    sides: tuple[str, str] = ("treated", "control"),
) -> Truth:
    """Compare a prediction with the measured response.

    Parameters
    ----------
    treated, control
        Raw counts of the measured arms, genes by name; no cell of them may be among the query cells, which would put
        the same noise on both sides.
    de
        Differential expression of the prediction, one row per gene; its tested genes are used.
    label
        Name of the response.
    pair
        The hidden pair, ``CELL TYPE : PERTURBATION``.
    sides
        What the cells of the two arms are called.

    Returns
    -------
    Pearson correlation of predicted and measured mean log-shifts; share of the genes measured beyond three standard
    errors whose direction is predicted; share of the 50 largest measured rises among the 50 largest predicted ones.
    NaN with a reason where there are too few cells or genes.

    Examples
    --------
    >>> compare_with_truth(treated, control, de=run.de, label="IFN-beta in B cell", pair="B cell : IFN-beta").pearson
    ... # doctest: +SKIP
    0.83
    """
    found = Truth(label=label, pair=pair, sides=sides, n_treated=treated.n_obs, n_control=control.n_obs)
    if min(treated.n_obs, control.n_obs) < MIN_CELLS:
        reason = f"{treated.n_obs} {sides[0]} and {control.n_obs} {sides[1]} cells; {MIN_CELLS} of each are needed"
        return found.model_copy(update={"reason": reason})
    predicted = de.loc[de[keys.IS_TESTED]].drop_duplicates(keys.GENE).set_index(keys.GENE)[keys.DELTA]
    shared = predicted.index.intersection(treated.var_names.intersection(control.var_names))
    if len(shared) < MIN_GENES:
        reason = f"{len(shared)} tested genes were measured; {MIN_GENES} are needed"
        return found.model_copy(update={"reason": reason})
    arms = [
        summarise_arm(log_normalise(adata.X)[:, adata.var_names.get_indexer(shared)]) for adata in (treated, control)
    ]
    measured, told = measure_effect(*arms), predicted.loc[shared].to_numpy(float)
    clear = np.abs(measured.delta) > CLEAR * measured.se
    agree = np.sign(told[clear]) == np.sign(measured.delta[clear])
    top = [set(np.argsort(-values, kind="stable")[:N_TOP]) for values in (told, measured.delta)]
    update = {
        "n_genes": len(shared),
        "pearson": correlate(told, measured.delta),
        "n_clear": int(clear.sum()),
        "same_direction": float(agree.mean()) if clear.any() else float("nan"),
        "top_overlap": len(top[0] & top[1]) / N_TOP,
    }
    return found.model_copy(update=update)
