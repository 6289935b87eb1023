"""What a prediction is set beside: simple baselines, measured responses, another run.

In: effects per gene. Out: :class:`Side` with its agreement. Effects are differences of mean log1p(CP10k), treated minus
control, as in column ``delta`` of the DE table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.de.profiles import compute_profile, correlate, normalise_cp10k

if TYPE_CHECKING:
    import anndata as ad

    from haystack_kernel.explorer.arms import Arm

N_TOP = 50
MIN_GENES = 3


@dataclass(frozen=True, eq=False)
class Side:
    """One response to compare the prediction with.

    Attributes
    ----------
    name
        Key, e.g. ``baseline mean``.
    label, note
        What it is in words, and what it was measured or predicted against.
    effect
        Effect per gene, indexed by gene.
    arms
        Its cells, shown beside the others in the violins.
    """

    name: str
    label: str
    note: str
    effect: pd.Series
    arms: tuple[Arm, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """How far two responses agree.

    Attributes
    ----------
    n_genes
        Number of tested genes that both have; all figures are over these.
    pearson
        Correlation of the effects; NaN below three genes and for a constant shift.
    n_called, n_same_sign
        Genes called in the prediction, and how many of them move the same way on the other side.
    n_top, n_top_shared
        Size of both lists of the largest effects, and how many genes they share.
    """

    n_genes: int
    pearson: float
    n_called: int
    n_same_sign: int
    n_top: int
    n_top_shared: int

    @property
    def words(self) -> str:
        """One sentence with all figures."""
        if self.n_genes < MIN_GENES:
            return f"Only {self.n_genes} tested genes are shared, which is too few to compare."
        r = "no correlation (one side is a constant)" if np.isnan(self.pearson) else f"Pearson r {self.pearson:.2f}"
        called = (
            f"{self.n_same_sign:,} of {self.n_called:,} called genes move the same way"
            if self.n_called
            else "no gene is called"
        )
        top = f"{self.n_top_shared} of the {self.n_top} largest changes are shared"
        return f"{r} over {self.n_genes:,} tested genes; {called}; {top}."


def effect_between(treated: ad.AnnData, control: ad.AnnData) -> pd.Series:
    """Return the difference of mean log1p(CP10k), treated minus control, for the genes that both hold."""
    shared = treated.var_names[treated.var_names.isin(control.var_names)]
    shared = shared[~shared.duplicated()]
    arms = [
        compute_profile(normalise_cp10k(adata.X)).mean_log[adata.var_names.get_indexer(shared)]
        for adata in (_unique(treated), _unique(control))
    ]
    return pd.Series(arms[0] - arms[1], index=pd.Index(shared.astype(str), dtype=object))


def agreement(de: pd.DataFrame, effect: pd.Series) -> Agreement:
    """Compare an effect with that of a run.

    Parameters
    ----------
    de
        DE table of the run; its tested genes are used where ``effect`` knows them.
    effect
        Effect per gene of the other side.

    Returns
    -------
    The figures.

    Examples
    --------
    >>> agreement(run.de, side.effect).pearson  # doctest: +SKIP
    0.91
    """
    tested = de[de[keys.IS_TESTED].astype(bool)].drop_duplicates(keys.GENE).set_index(keys.GENE)
    other = effect.dropna()
    shared = tested.index.intersection(other.index)
    ours, theirs = tested.loc[shared, keys.DELTA].to_numpy(float), other.loc[shared].to_numpy(float)
    called = tested.loc[shared, keys.IS_DE].to_numpy(bool)
    n_top = min(N_TOP, len(shared))
    largest = [set(np.argsort(-np.abs(values), kind="stable")[:n_top].tolist()) for values in (ours, theirs)]
    return Agreement(
        n_genes=len(shared),
        pearson=correlate(ours, theirs),
        n_called=int(called.sum()),
        n_same_sign=int((ours[called] * theirs[called] > 0).sum()),
        n_top=n_top,
        n_top_shared=len(largest[0] & largest[1]),
    )


def _unique(adata: ad.AnnData) -> ad.AnnData:
    return adata if adata.var_names.is_unique else adata[:, ~adata.var_names.duplicated()]
