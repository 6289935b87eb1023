"""How the prediction compares with responses that were measured and are not part of its prompt: shown, never scored.

In: measured treated and control cells, the DE table. Out: one correlation each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.confidence.agreement import correlate
from haystack_kernel.grounding.de.profiles import compute_profile, normalise_cp10k

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad
    import pandas as pd

MIN_GENES = 100


class Likeness(NamedTuple):
    """``pearson`` of the mean log-shifts over ``n_genes`` tested genes; NaN below 100 shared genes."""

    label: str
    pearson: float
    n_genes: int


def compare_measured(measured: Mapping[str, tuple[ad.AnnData, ad.AnnData]], *, de: pd.DataFrame) -> list[Likeness]:
    """Correlate the predicted with each measured mean log-shift.

    Parameters
    ----------
    measured
        Label -> raw counts of treated and control cells, genes by name.
    de
        From :func:`compute_de`; its tested genes are used where both arms have them.

    Returns
    -------
    Most alike first, NaN last.
    """
    predicted = de.loc[de[keys.IS_TESTED]].drop_duplicates(keys.GENE).set_index(keys.GENE)[keys.DELTA]
    found = []
    for label, (treated, control) in measured.items():
        genes = treated.var_names.intersection(control.var_names)
        shared = predicted.index.intersection(genes)
        if len(shared) < MIN_GENES:
            found.append(Likeness(label, float("nan"), len(shared)))
            continue
        arms = [
            compute_profile(normalise_cp10k(adata.X)).mean_log[adata.var_names.get_indexer(shared)]
            for adata in (treated, control)
        ]
        r = correlate(predicted.loc[shared].to_numpy(float), arms[0] - arms[1])
        found.append(Likeness(label, r, len(shared)))
    return sorted(found, key=lambda one: (np.isnan(one.pearson), -np.nan_to_num(one.pearson), one.label))
