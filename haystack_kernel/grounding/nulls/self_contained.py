"""The self-contained null: the prompt's treatment changes nothing in a gene set.

In: prompt cells with their labels, signed gene sets. Out: one-sided p values of every set over cells (field
``p_signal``) and over donors (field ``p_donors``).

The test permutes the labels of measured cells, because generated cells are not replicates: a prediction cannot carry
more evidence than the prompt that it was made from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import MissingKeyError
from haystack_kernel.grounding.de.background import min_set_genes, standardise
from haystack_kernel.grounding.de.profiles import log_normalise
from haystack_kernel.grounding.nulls.donors import DonorEffects, DonorGroups, compare_donors
from haystack_kernel.grounding.nulls.tails import Tails, block_sizes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import anndata as ad
    from numpy.typing import NDArray

    from haystack_kernel.grounding.de.background import SignedSet
    from haystack_kernel.grounding.nulls.response import ResponseTest

_PURPOSE = 1  # second word of the seed, so that no two tests share random numbers
_WORDS = {keys.DONOR: "donor", keys.CELL_TYPE: "cell type"}


@dataclass(frozen=True, eq=False)
class CellScores:
    """The statistic of every set in every cell of the prompt, treated cells first, with the labels of the cells."""

    names: tuple[str, ...]
    scores: NDArray[np.float64]  # cells x sets
    is_treated: NDArray[np.bool_]
    strata: NDArray[np.integer[Any]]
    types: NDArray[np.integer[Any]]  # cell type, of cells that are compared within their type; else 0
    donors: NDArray[np.str_]
    datasets: NDArray[np.str_]

    def subset(self, kept: NDArray[np.bool_]) -> CellScores:
        """Some of the cells."""
        return CellScores(
            self.names,
            self.scores[kept],
            self.is_treated[kept],
            self.strata[kept],
            self.types[kept],
            self.donors[kept],
            self.datasets[kept],
        )

    def of_sets(self, names: Collection[str]) -> CellScores:
        """Some of the sets."""
        columns = [column for column, name in enumerate(self.names) if name in names]
        kept = tuple(self.names[column] for column in columns)
        return replace(self, names=kept, scores=self.scores[:, columns])

    def over_donors(self) -> DonorEffects | DonorGroups:
        """The statistics of the sets by donor."""
        return compare_donors(self.scores, is_treated=self.is_treated, strata=self.types, donors=self.donors)


@dataclass(frozen=True)
class SelfContained:
    """P values of the self-contained null for several sets.

    Attributes
    ----------
    tails
        Name of the set -> its p values over cells.
    donor_tails
        Name of the set -> its p values over donors, see :class:`DonorEffects` and :class:`DonorGroups`.
    effects
        The statistics of the sets by donor, one column per set in the order of ``tails``.
    cells
        What the tests rest on, of the cells; None where nothing could be tested.
    reason
        Why no set could be tested over cells; empty otherwise.
    people
        Where patients are compared with healthy donors: whether they differ by more than people do.
    """

    tails: dict[str, Tails] = field(default_factory=dict)
    donor_tails: dict[str, Tails] = field(default_factory=dict)
    effects: DonorEffects | DonorGroups = field(default_factory=DonorEffects)
    cells: CellScores | None = None
    reason: str = ""
    people: ResponseTest | None = None

    def get(self, name: str) -> Tails:
        """P values of a set over cells; NaN when not computed."""
        return self.tails.get(name, Tails())

    def over_donors(self, name: str) -> Tails:
        """P values of a set over donors; NaN below three donors."""
        return self.donor_tails.get(name, Tails())

    @property
    def replication(self) -> float:
        """Donors that the response was measured in, see :class:`DonorEffects` and :class:`DonorGroups`."""
        return self.effects.replication


def self_contained_null(
    prompt: ad.AnnData,
    control: ad.AnnData | None,
    *,
    sets: Mapping[str, SignedSet],
    tested: Collection[str],
    n_draws: int,
    seed: int,
    within: Sequence[str] = (keys.DONOR, keys.CELL_TYPE),
) -> SelfContained:
    """Permute the labels (treated, control) of the prompt's cells within donors and cell types.

    Parameters
    ----------
    prompt, control
        Raw counts of treated and matched control cells; obs holds ``donor_id`` and ``cell_type_name``.
    sets
        Name -> signed genes.
    tested
        Genes to use; those that the prompt does not measure are left out.
    n_draws, seed
        Number of permutations, so that p is at least 1 / (n_draws + 1), and their random seed. The same permutations
        serve every set.
    within
        obs columns that make the strata: donor alone where cell types are compared, cell type alone where donors are.

    Returns
    -------
    P values of mean(s_g z_g) of the prompt over cells, and over donors. A set of which the prompt
    measures fewer than five genes (two in a panel) has NaN. Where no stratum holds both labels, those over cells are
    NaN and ``reason`` says so.

    Raises
    ------
    MissingKeyError
        obs lacks donor or cell type.

    References
    ----------
    Goeman and Buehlmann, Bioinformatics 23:980 (2007), for the self-contained null; Phipson and Smyth, Stat Appl Genet
    Mol Biol 9:39 (2010), for p = (1 + count) / (n_draws + 1).
    """
    if control is None or control.n_obs == 0:
        return SelfContained(reason="the prompt has no matched control cells")
    labels = pd.concat([_labels(prompt), _labels(control)], ignore_index=True)
    strata = labels.groupby(list(within), sort=True).ngroup().to_numpy()
    types = labels.groupby(keys.CELL_TYPE, sort=True).ngroup().to_numpy()
    if keys.CELL_TYPE not in within:  # the two sides are of different types by design
        types = np.zeros_like(types)
    is_treated = np.arange(len(labels)) < prompt.n_obs
    names, scores = _score_sets(prompt, control, sets=sets, tested=tested)
    donors = labels[keys.DONOR].to_numpy(str)
    datasets = np.concatenate([_datasets(prompt), _datasets(control)])
    cells = CellScores(tuple(names), scores, is_treated, strata, types, donors, datasets)
    reason = "" if names else f"the prompt measures fewer than {min_set_genes(len(tested))} genes of every set"
    if not _in_mixed_strata(strata, is_treated).any():
        words = " and ".join(_WORDS.get(name, name) for name in within)
        reason = f"no {words} of the prompt holds both treated and control cells"
    tails = permute_within(scores, is_treated=is_treated, strata=strata, n_draws=n_draws, seed=seed) if names else []
    effects = cells.over_donors()
    over_donors = dict(zip(names, effects.tails(), strict=True))
    return SelfContained(dict(zip(names, tails, strict=True)), over_donors, effects, cells, reason)


def permute_within(
    scores: NDArray[np.float64],
    *,
    is_treated: NDArray[np.bool_],
    strata: NDArray[np.integer[Any]],
    n_draws: int,
    seed: int,
) -> list[Tails]:
    """Stratified permutation test of the difference in mean score.

    Parameters
    ----------
    scores
        Cells x statistics.
    is_treated, strata
        Label and stratum of each cell; strata with one label only do not take part.
    n_draws, seed
        Number of permutations and their random seed; p = (1 + count) / (n_draws + 1).

    Returns
    -------
    P values per column; NaN when no stratum holds both labels. The statistic is the sum over strata of n_t n_c / n
    times the difference of means, so that differences between strata (donors) cannot count.
    """
    usable = _in_mixed_strata(strata, is_treated)
    if not usable.any():
        return [Tails() for _ in range(scores.shape[1])]
    scores, is_treated, strata = scores[usable], is_treated[usable], np.unique(strata[usable], return_inverse=True)[1]
    sizes = np.bincount(strata)
    means = np.stack([np.bincount(strata, weights=column) / sizes for column in scores.T], axis=1)
    # Centred within the stratum, the sum over treated cells is n_t n_c / n times the difference of means.
    centred = scores - means[strata]
    observed = centred[is_treated].sum(axis=0)
    # Two labellings with the same sum differ by rounding only, so a tie must count as reached on both sides.
    slack = 1e-10 * (np.abs(centred).sum(axis=0) + np.finfo(float).tiny)
    above, below = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    rng = np.random.default_rng([seed, _PURPOSE])
    members = [np.flatnonzero(strata == stratum) for stratum in range(sizes.size)]
    n_treated = np.bincount(strata, weights=is_treated).astype(int)
    for n_block in block_sizes(n_draws):
        chosen = np.zeros((n_block, len(strata)))
        rows = np.arange(n_block)[:, None]
        for cells, n_take in zip(members, n_treated, strict=True):
            # the cells with the smallest of independent random keys are a random subset of the right size
            draw = rng.random((n_block, cells.size), dtype=np.float32)
            chosen[rows, cells[np.argpartition(draw, n_take - 1, axis=1)[:, :n_take]]] = 1.0
        permuted = chosen @ centred
        above += (permuted >= observed - slack).sum(axis=0)
        below += (permuted <= observed + slack).sum(axis=0)
    return [Tails(*pair) for pair in ((1 + np.stack([above, below], axis=1)) / (n_draws + 1)).tolist()]


def _labels(adata: ad.AnnData) -> pd.DataFrame:
    if absent := [name for name in (keys.DONOR, keys.CELL_TYPE) if name not in adata.obs]:
        msg = f"prompt cells lack {absent} in obs; take them from an atlas, or add the columns"
        raise MissingKeyError(msg, absent=absent)
    return adata.obs[[keys.DONOR, keys.CELL_TYPE]].astype(object).fillna("").astype(str)


def _datasets(adata: ad.AnnData) -> NDArray[np.str_]:
    """Data set of each cell; "" where it is not known."""
    if keys.DATASET not in adata.obs:
        return np.full(adata.n_obs, "")
    return adata.obs[keys.DATASET].astype(object).fillna("").astype(str).to_numpy(str)


def _in_mixed_strata(strata: NDArray[np.integer[Any]], is_treated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Per cell: its stratum holds both treated and control cells."""
    n_treated = np.bincount(strata, weights=is_treated)
    both = (n_treated > 0) & (n_treated < np.bincount(strata))
    return both[strata]


def _score_sets(
    prompt: ad.AnnData, control: ad.AnnData, *, sets: Mapping[str, SignedSet], tested: Collection[str]
) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the sets of which the prompt measures enough genes, and cells x these sets: their statistic."""
    shared = prompt.var_names.intersection(control.var_names)
    genes = shared[shared.isin(list(tested))]
    wanted = {name: genes.get_indexer(list(signed)) for name, signed in sets.items()}
    least = min_set_genes(len(tested))
    kept = {name: where for name, where in wanted.items() if (where >= 0).sum() >= least}
    weights = np.zeros((len(genes), len(kept)))
    for column, (name, where) in enumerate(kept.items()):
        signs = np.fromiter(sets[name].values(), dtype=float, count=len(where))
        weights[where[where >= 0], column] = signs[where >= 0] / (where >= 0).sum()
    return list(kept), _cell_scores(prompt, control, genes=genes, weights=weights)


def _cell_scores(
    prompt: ad.AnnData, control: ad.AnnData, *, genes: pd.Index, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Cells x sets: the set's statistic of each cell.

    The denominator of z is each gene's spread over all cells, whatever their label. It therefore stays the same under
    every permutation, and one matrix product gives the score of a cell once and for all.
    """
    # library sizes over all genes of an arm, then the genes wanted
    arms = [log_normalise(adata.X)[:, adata.var_names.get_indexer(genes)] for adata in (prompt, control)]
    n_cells = prompt.n_obs + control.n_obs
    mean = sum(np.asarray(y.sum(axis=0)).ravel() for y in arms) / n_cells
    squares = sum(np.asarray(y.multiply(y).sum(axis=0)).ravel() for y in arms) - n_cells * mean**2
    sd = np.sqrt(np.maximum(squares, 0) / max(n_cells - 1, 1))
    scaled = weights * standardise(np.ones(len(genes)), sd)[:, None]
    return np.vstack([y @ scaled for y in arms])
