"""How similar the prediction is to responses that were measured and are not part of its prompt: shown, never scored.

In: measured treated and control cells, the DE table. Out: one correlation each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.de.profiles import compute_profile, correlate, normalise_cp10k

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad
    import pandas as pd

MIN_GENES = 100


class MeasuredSimilarity(NamedTuple):
    """Pearson correlation of the mean log-shifts over ``n_genes`` tested genes; NaN below 100 shared genes."""

    label: str
    pearson: float
    n_genes: int


def compare_measured(
    measured: Mapping[str, tuple[ad.AnnData, ad.AnnData]], *, de: pd.DataFrame
) -> list[MeasuredSimilarity]:
    """Correlate the predicted mean log-shift with each measured one.

    Parameters
    ----------
    measured
        Label -> raw counts of treated and control cells, genes by name.
    de
        From :func:`compute_de`; its tested genes are used where both arms measure them.

    Returns
    -------
    The most similar response first, NaN last.
    """
    predicted = de.loc[de[keys.IS_TESTED]].drop_duplicates(keys.GENE).set_index(keys.GENE)[keys.DELTA]
    found = []
    for label, (treated, control) in measured.items():
        shared = predicted.index.intersection(treated.var_names.intersection(control.var_names))
        if len(shared) < MIN_GENES:
            found.append(MeasuredSimilarity(label, float("nan"), len(shared)))
            continue
        arms = [
            compute_profile(normalise_cp10k(adata.X)).mean_log[adata.var_names.get_indexer(shared)]
            for adata in (treated, control)
        ]
        r = correlate(predicted.loc[shared].to_numpy(float), arms[0] - arms[1])
        found.append(MeasuredSimilarity(label, r, len(shared)))
    return sorted(found, key=lambda one: (np.isnan(one.pearson), -np.nan_to_num(one.pearson), one.label))
