"""Six metrics of predicted cells against measured ones, on a scale from the mean response (0) to a replicate (1).

In: raw counts of predicted, measured and control cells. Out: one :class:`Sixfold` per prediction, and their scores.

Definitions follow cell-eval2 0.20, profile vcc2026 (reference edition of 2026-08-19); its code is not used, and its
values are reached to rounding (an opt-in test). Two things differ: fold changes have a pseudo-count of 1 CPM on both
sides instead of 1e-9, with which genes absent from one arm decide everything; and no gene is taken out as the
perturbation's own target, because most treatments here have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.de.profiles import mean_cp10k, normalise_cp10k
from haystack_kernel.grounding.de.table import rank_sum
from haystack_kernel.grounding.distributions import adjust

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    Floats = NDArray[np.float64]

BULK_TOTAL = 5e4  # counts that a pseudobulk profile is scaled to
LEAST_CPM = 5.0  # mean of the control cells above which a gene is tested
ALPHA = 0.05
PURITY = 0.9  # share of right directions down to which a ranking reaches
MIN_GATE = 10  # changed genes without which fold changes are not compared
PSEUDO_CPM = 1.0
WORST_ERROR = -6.0  # floor of the score of fold changes, as the definition has it
LEAST_RANGE = 0.05  # between mean response and replicate, below which a metric tells nothing here
HIGHER_IS_BETTER = {
    "discrimination": True,
    "expression_error": False,
    "direction_fidelity": True,
    "direction_reach": True,
    "changed_genes": True,
    "fold_change_error": False,
}
SIX = tuple(HIGHER_IS_BETTER)


@dataclass(frozen=True, eq=False)
class Bulk:
    """A pseudobulk profile, log1p of counts per 50,000, and the sampling noise of its squared length (a jackknife)."""

    profile: Floats
    noise: float


@dataclass(frozen=True, eq=False)
class RankTests:
    """Rank tests of one arm against the control cells, over the genes that the control cells express."""

    lfc: Floats
    padj: Floats
    pval: Floats

    @property
    def is_changed(self) -> NDArray[np.bool_]:
        """Genes with an adjusted p below .05."""
        return self.padj < ALPHA


@dataclass(frozen=True)
class Sixfold:
    """The metrics of one prediction that need no other prediction; NaN where not defined."""

    error: float  # squared distance from the measured profile, without the correction for the prediction's own noise
    own_noise: float  # the correction, at most that of the measurement
    size: float  # squared length of the measured change, without noise
    direction_fidelity: float
    direction_reach: float
    changed_genes: float
    fold_change_error: float


def bulk_profile(counts: sparse.csr_matrix) -> Bulk:
    """Pseudobulk profile of raw counts, cells x genes, with its delete-one jackknife noise (0 for one cell)."""
    total = np.asarray(counts.sum(axis=0)).ravel().astype(float)
    whole = total.sum()
    n_cells = counts.shape[0]
    profile = np.log1p(BULK_TOTAL * total / max(whole, 1.0))
    if n_cells < 2:
        return Bulk(profile, 0.0)
    library = np.asarray(counts.sum(axis=1)).ravel().astype(float)
    rest = np.maximum(whole - library, 1.0)
    # sums of v and v^2 over cells, where v = log1p(TS (P - y) / (S - l)); y is 0 for most cells
    base = np.log1p(BULK_TOTAL * total[None, :] / rest[:, None])
    coo = counts.tocoo()
    base[coo.row, coo.col] = np.log1p(BULK_TOTAL * (total[coo.col] - coo.data) / rest[coo.row])
    return Bulk(profile, float((n_cells - 1) * base.var(axis=0).sum()))


def rank_tests(cells: sparse.csr_matrix, control: sparse.csr_matrix, *, expressed: NDArray[np.bool_]) -> RankTests:
    """Wilcoxon tests of raw counts against those of control cells, over the genes given.

    Parameters
    ----------
    cells, control
        Raw counts, cells x genes; each cell is scaled over all genes.
    expressed
        Genes that are tested.
    """
    arms = [normalise_cp10k(one)[:, expressed] for one in (cells, control)]
    _, _, pval = rank_sum(*arms)
    means = [100 * np.asarray(one.mean(axis=0)).ravel() + PSEUDO_CPM for one in arms]
    padj = adjust(pval)
    return RankTests(np.log2(means[0] / means[1]), padj, pval)


def expressed_genes(control: sparse.csr_matrix) -> NDArray[np.bool_]:
    """Genes whose mean in the measured control cells is above 5 counts per million."""
    return 100 * mean_cp10k(control) > LEAST_CPM


def compare_cells(predicted: RankTests, measured: RankTests, *, bulk: Bulk, truth: Bulk, control: Bulk) -> Sixfold:
    """Compute the metrics of one prediction.

    Parameters
    ----------
    predicted, measured
        Tests of the predicted and of the measured cells against the same measured control cells.
    bulk, truth, control
        Their profiles.
    """
    n_genes = bulk.profile.size
    error = (float(((bulk.profile - truth.profile) ** 2).sum()) - truth.noise) / n_genes
    size = (float(((truth.profile - control.profile) ** 2).sum()) - truth.noise - control.noise) / n_genes
    real, called = measured.is_changed, predicted.is_changed
    right = np.sign(predicted.lfc) == np.sign(measured.lfc)
    decided = measured.lfc != 0
    n_real, n_called = int(real.sum()), int((called & decided).sum())
    n_right = int((called & decided & right).sum())
    either = int((real | called).sum())
    weight = float(np.abs(measured.lfc[real]).sum())
    miss = float(np.abs(predicted.lfc - measured.lfc)[real].sum())
    return Sixfold(
        error=error,
        own_noise=min(bulk.noise, truth.noise) / n_genes,
        size=size,
        direction_fidelity=n_right / max(n_called, n_real) if max(n_called, n_real) else np.nan,
        direction_reach=_reach(predicted, right=right, pool=real & decided, n_real=n_real),
        changed_genes=int((real & called).sum()) / either if either else 1.0,
        fold_change_error=miss / weight if n_real >= MIN_GATE and weight > 0 else np.nan,
    )


def _reach(predicted: RankTests, *, right: NDArray[np.bool_], pool: NDArray[np.bool_], n_real: int) -> float:
    """Depth, as a share of the changed genes, to which 90 % of the directions are right in the prediction's order."""
    if not n_real:
        return np.nan
    places = np.flatnonzero(pool)
    order = np.lexsort(
        (-np.abs(predicted.lfc[places]), predicted.pval[places], predicted.padj[places], ~predicted.is_changed[places])
    )
    share = np.cumsum(right[places][order]) / np.arange(1, places.size + 1)
    deep = np.flatnonzero(share >= PURITY - 1e-12)
    return (int(deep[-1]) + 1) / n_real if deep.size else 0.0


def discriminate(predicted: Floats, measured: Sequence[Floats], *, own: int) -> float:
    """Rank of the right measured change among those of all treatments, by cosine distance: 1 first, 0 last, .5 chance.

    Parameters
    ----------
    predicted
        Predicted change of the profile.
    measured
        Measured changes of every treatment of the cell type.
    own
        Place of the right one.

    Returns
    -------
    NaN with one treatment, among which nothing can be told apart.
    """
    if len(measured) < 2:
        return np.nan
    table = np.asarray(measured)
    norms = np.linalg.norm(table, axis=1) * np.linalg.norm(predicted)
    distance = 1 - np.divide(table @ predicted, norms, out=np.zeros(len(table)), where=norms > 0)
    nearer = int((distance < distance[own]).sum())
    ties = int((distance == distance[own]).sum()) - 1
    return 1 - (nearer + ties / 2) / (len(table) - 1)


def noise_share(rows: Sequence[Sixfold], profiles: Sequence[Floats]) -> float:
    """Share of the predictions' own noise that may be taken off their errors.

    It is at most the spread of the predictions over treatments, so that a prediction which is the same for all
    treatments is not credited with noise.

    Parameters
    ----------
    rows
        Predictions of one engine for one cell type under several treatments.
    profiles
        Their predicted profiles.
    """
    credited = sum(row.own_noise for row in rows)
    table = np.asarray(profiles)
    spread = float(((table - table.mean(axis=0)) ** 2).sum()) / table.shape[1]
    return min(1.0, spread / credited) if credited > 0 else 0.0


def anchor(value: float, *, mean: float, replicate: float) -> float:
    """Place a value on the scale from the mean response (0) to a replicate (1); NaN where these are too near."""
    reach = replicate - mean
    return (value - mean) / reach if abs(reach) >= LEAST_RANGE else np.nan
