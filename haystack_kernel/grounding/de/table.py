"""Differential expression between predicted and control cells: effect sizes first, rank tests beside them.

In: raw counts of two arms over the same genes. Out: one row per gene, and the same in scanpy's form.

Generated cells are not replicates: their p values fall as more cells are generated. The table therefore carries the
number of cells of both arms, and neither the score nor a call uses these p values; calls come from ``uncertainty``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import ndtr

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.grounding.de.profiles import compute_profile, normalise_cp10k, pooled_sd
from haystack_kernel.grounding.distributions import adjust

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    from numpy.typing import ArrayLike, NDArray

    from haystack_kernel.schema import GroundingSettings

PSEUDO_CP10K = 0.1
MEAN_TREATED = "mean_treated"  # mean log1p(CP10k)
MEAN_CONTROL = "mean_control"
SD = "sd"  # of log1p(CP10k), pooled within the two arms
Z_RANK = "rank_z"  # signed z of the rank-sum test, scanpy's "score"
FLIPS = "flips"  # the call differs between the two control readings
N_TREATED = "n_treated"  # keys of the table's attrs
N_CONTROL = "n_control"
GROUP = "predicted"  # scanpy's group and reference
REFERENCE = "control"
GROUPBY = "role"  # obs column of predictions.h5ad that holds GROUP


def compute_de(
    treated: sparse.csr_matrix,
    control: sparse.csr_matrix,
    *,
    genes: Sequence[str],
    padded: ArrayLike,
    settings: GroundingSettings,
    also_detected: ArrayLike | None = None,
    expected: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
) -> pd.DataFrame:
    """Compare two arms gene by gene.

    Parameters
    ----------
    treated, control
        Raw counts, cells x genes, the same genes in the same order.
    genes
        Gene symbols of the columns.
    padded
        True for a gene that the prediction could not change: never tested.
    settings
        Threshold of detection.
    also_detected
        Largest detection (fraction of cells) of each gene in other arms (query, prompt), so that the choice of
        tested genes does not depend on the prediction alone.
    expected
        Mean log1p-CP10k per gene of the treated and of the control arm where the engine knows it without the noise of
        drawing counts. It replaces the mean over counts in ``delta``; tests and ``log2fc`` always use the counts.

    Returns
    -------
    One row per gene, in the order given: ``delta`` (mean log1p-CP10k, treated minus control), ``log2fc`` (of mean
    CP10k with a pseudo-count of 0.1), ``detection_diff`` (-1 to 1), ``auroc`` (0.5 = no difference), ``pval``
    (two-sided Wilcoxon rank-sum test with tie correction, without continuity correction, as in scanpy; 1 for a
    constant gene), ``padj`` (Benjamini-Hochberg over the tested genes; NaN where not tested), ``is_tested``,
    ``padded``, ``mean_treated`` and ``mean_control`` (mean log1p-CP10k), ``sd`` (pooled within the arms) and
    ``rank_z``. ``attrs`` holds ``n_treated`` and ``n_control``, the numbers of cells.

    Raises
    ------
    InvalidInputError
        The arms or lists differ in width, an arm is empty, or a value is no count.

    References
    ----------
    Benjamini and Hochberg, J R Stat Soc B 57:289 (1995), for ``padj``.
    """
    names, is_padded = np.asarray(genes, dtype=object), np.asarray(padded, dtype=bool)
    widths = {"treated": treated.shape[1], "control": control.shape[1], "genes": len(names), "padded": len(is_padded)}
    if len(set(widths.values())) != 1:
        msg = f"arms and gene list differ in length: {widths}; give the same genes in the same order"
        raise InvalidInputError(msg, **widths)
    arms = normalise_cp10k(treated), normalise_cp10k(control)
    one, two = compute_profile(arms[0]), compute_profile(arms[1])
    means = [
        profile.mean_log if known is None else np.asarray(known, dtype=float)
        for profile, known in zip((one, two), expected, strict=True)
    ]
    seen = np.maximum(one.detection, two.detection)
    if also_detected is not None:
        seen = np.maximum(seen, np.nan_to_num(np.asarray(also_detected, dtype=float)))
    tested = (seen >= settings.min_detection) & ~is_padded
    log2fc = np.log2((one.mean_cp10k + PSEUDO_CP10K) / (two.mean_cp10k + PSEUDO_CP10K))
    auroc, z_rank, pval = rank_sum(*arms)
    padj = np.full(len(names), np.nan)
    padj[tested] = adjust(pval[tested])  # Benjamini and Hochberg (1995); NaN where not tested
    de = pd.DataFrame(
        {
            keys.GENE: names,
            keys.DELTA: means[0] - means[1],
            keys.LOG2FC: log2fc,
            keys.DETECTION_DIFF: one.detection - two.detection,
            keys.AUROC: auroc,
            keys.PVAL: pval,
            keys.PADJ: padj,
            keys.IS_TESTED: tested,
            keys.PADDED: is_padded,
            MEAN_TREATED: means[0],
            MEAN_CONTROL: means[1],
            SD: pooled_sd(one, two),
            Z_RANK: z_rank,
        }
    )
    de.attrs.update({N_TREATED: one.n_cells, N_CONTROL: two.n_cells})
    return de


def rank_sum(
    treated: sparse.csr_matrix, control: sparse.csr_matrix
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Wilcoxon rank-sum test of every column.

    Parameters
    ----------
    treated, control
        Non-negative values, cells x genes, no stored zeros.

    Returns
    -------
    AUROC, signed z and two-sided p per column, tie-corrected, without continuity correction; z = 0 and p = 1 where all
    values are equal. The result equals ``scipy.stats.mannwhitneyu(use_continuity=False, method="asymptotic")``.

    References
    ----------
    Mann and Whitney, Ann Math Stat 18:50 (1947); tie correction as in Lehmann, Nonparametrics (1975).
    """
    # Single-cell counts are mostly zeros. All zeros of a gene are one tie at the bottom of its ranking, so only the
    # values above 0 are sorted: by value, then (stably) by gene, which leaves each gene's values in ascending order.
    n_one, n_two = float(treated.shape[0]), float(control.shape[0])
    n_cells, n_genes = n_one + n_two, treated.shape[1]
    stacked = sparse.vstack([treated, control], format="csc")
    column = np.repeat(np.arange(n_genes), np.diff(stacked.indptr))
    order = np.argsort(stacked.data)
    narrow = np.uint16 if n_genes <= np.iinfo(np.uint16).max else np.int64  # 16 bits: numpy sorts by radix
    order = order[np.argsort(column[order].astype(narrow), kind="stable")]
    values, is_treated = stacked.data[order], stacked.indices[order] < treated.shape[0]
    n_zero = n_cells - np.diff(stacked.indptr)
    n_zero_treated = n_one - np.bincount(column[is_treated], minlength=n_genes)
    rank_total, ties = n_zero_treated * (n_zero + 1) / 2, n_zero**3 - n_zero
    if values.size:  # each run of equal values of one gene is a tie and shares its mean rank
        starts = np.flatnonzero(np.r_[True, (values[1:] != values[:-1]) | (column[1:] != column[:-1])])
        sizes, group_column = np.diff(np.r_[starts, values.size]).astype(float), column[starts]
        rank = starts - stacked.indptr[group_column] + n_zero[group_column] + (sizes + 1) / 2
        n_in_group = np.add.reduceat(is_treated.astype(float), starts)
        rank_total = rank_total + np.bincount(group_column, weights=rank * n_in_group, minlength=n_genes)
        ties = ties + np.bincount(group_column, weights=sizes**3 - sizes, minlength=n_genes)
    # Mann and Whitney's U, its variance under the null with ties, and the normal approximation
    u = rank_total - n_one * (n_one + 1) / 2
    spread = np.maximum(n_one * n_two / 12 * ((n_cells + 1) - ties / (n_cells * max(n_cells - 1, 1))), 0.0)
    flat = ties >= n_cells**3 - n_cells
    z = np.where(flat, 0.0, (u - n_one * n_two / 2) / np.sqrt(np.where(flat, 1.0, spread)))
    return u / (n_one * n_two), z, np.where(flat, 1.0, 2 * ndtr(-np.abs(z)))


def rank_genes_groups(de: pd.DataFrame) -> dict[str, Any]:
    """Write the table in the form of ``scanpy.tl.rank_genes_groups``: one group, "predicted", against "control".

    Parameters
    ----------
    de
        From :func:`compute_de`.

    Returns
    -------
    ``params`` and structured arrays, ordered by falling score. ``logfoldchanges`` has scanpy's own form (log2 ratio of
    back-transformed means with 1e-9 added) and is unbounded where a gene is absent in one arm. It is there for
    compatibility only: decisions use ``log2fc``. ``pvals_adj`` is NaN for genes that were not tested.

    Raises
    ------
    MissingKeyError
        ``de`` lacks a column.
    """
    needed = [keys.GENE, keys.PVAL, keys.PADJ, MEAN_TREATED, MEAN_CONTROL, Z_RANK]
    if absent := [name for name in needed if name not in de.columns]:
        msg = f"DE table lacks {absent}; it has {list(de.columns)}: make it with compute_de"
        raise MissingKeyError(msg, absent=absent)
    ranked = de.sort_values(Z_RANK, ascending=False, kind="stable")
    means = [np.expm1(np.maximum(ranked[name].to_numpy(float), 0.0)) + 1e-9 for name in (MEAN_TREATED, MEAN_CONTROL)]
    fields = {
        "names": (ranked[keys.GENE].to_numpy(object), "O"),
        "scores": (ranked[Z_RANK].to_numpy(float), "float32"),
        "pvals": (ranked[keys.PVAL].to_numpy(float), "float64"),
        "pvals_adj": (ranked[keys.PADJ].to_numpy(float), "float64"),
        "logfoldchanges": (np.log2(means[0] / means[1]), "float32"),
    }
    params = {  # scanpy's "layer" is left out: it is None here, which h5ad cannot hold
        "groupby": GROUPBY,
        "reference": REFERENCE,
        "method": "wilcoxon",
        "use_raw": False,
        "corr_method": "benjamini-hochberg",
    }
    groups: dict[str, Any] = {"params": params}
    for name, (values, kind) in fields.items():
        array = np.empty(len(ranked), dtype=[(GROUP, kind)])
        array[GROUP] = values
        groups[name] = array.view(np.recarray)
    return groups


def padded_genes(predicted: ad.AnnData) -> NDArray[np.bool_]:
    """Which genes a prediction could not change (``var["padded"]``); none where it does not say."""
    if keys.PADDED in predicted.var:
        return predicted.var[keys.PADDED].to_numpy(bool)
    return np.zeros(predicted.n_vars, dtype=bool)
