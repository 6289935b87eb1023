"""The two nulls of a component: is there a signal in the prompt, and is it specific to the asked genes.

In: prompt cells with their labels; effects on the background of tested genes. Out: one-sided p values, both tails.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import MissingKeyError
from haystack_kernel.grounding.de.profiles import log_normalise
from haystack_kernel.grounding.signatures.sets import MIN_SET_GENES, standardise

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import anndata as ad
    from numpy.typing import NDArray

    from haystack_kernel.grounding.signatures.sets import Background, SignedSet

NAN = float("nan")
BIN_GENES = 100  # at least this many genes share an expression bin
MAX_BINS = 25
_BLOCK = 500  # permutations or decoys worked at a time
_PURPOSE_SIGNAL, _PURPOSE_DECOYS = 1, 2
_WORDS = {keys.DONOR: "donor", keys.CELL_TYPE: "cell type"}


class Tails(NamedTuple):
    """One-sided p values of one statistic: ``up`` for larger, ``down`` for smaller than chance; NaN not computed."""

    up: float = NAN
    down: float = NAN

    def expected(self, direction: int) -> float:
        """The p value of the expected direction, +1 or -1."""
        return self.up if direction > 0 else self.down


@dataclass(frozen=True)
class Signal:
    """p_signal of several sets by name; ``reason`` says why there is none, and is empty otherwise."""

    tails: dict[str, Tails] = field(default_factory=dict)
    reason: str = ""

    def get(self, name: str) -> Tails:
        """Tails of a set; NaN when not computed."""
        return self.tails.get(name, Tails())


def p_signal(
    prompt: ad.AnnData,
    control: ad.AnnData | None,
    *,
    sets: Mapping[str, SignedSet],
    tested: Collection[str],
    n_draws: int,
    seed: int,
    within: Sequence[str] = (keys.DONOR, keys.CELL_TYPE),
) -> Signal:
    """Permute the labels of the prompt's cells within strata of donor and cell type.

    Parameters
    ----------
    prompt, control
        Raw counts of treated and matched control cells; obs holds ``donor_id`` and ``cell_type_name``.
    sets
        Name -> signed genes.
    tested
        Genes to use; those absent from the prompt are left out.
    n_draws, seed
        Permutations, at least p = 1 / (n_draws + 1); the same permutations serve every set.
    within
        obs columns of the strata. Where cell types are compared, donor alone; where donors are, cell type alone.

    Returns
    -------
    Tails of the statistic mean(s_g z_g) of the prompt, z with a fixed denominator, so that each cell has one score.
    A set with fewer than five genes in the prompt has NaN. Without any stratum that holds both labels all are NaN
    and ``reason`` says so.

    Raises
    ------
    MissingKeyError
        obs lacks donor or cell type.
    """
    if control is None or control.n_obs == 0:
        return Signal(reason="the prompt has no matched control cells")
    labels = pd.concat([_labels(prompt), _labels(control)], ignore_index=True)
    strata = labels.groupby(list(within), sort=True).ngroup().to_numpy()
    is_treated = np.arange(len(labels)) < prompt.n_obs
    if not _usable(strata, is_treated).any():
        words = " and ".join(_WORDS.get(name, name) for name in within)
        return Signal(reason=f"no {words} of the prompt holds both treated and control cells")
    shared = prompt.var_names.intersection(control.var_names)
    genes = shared[shared.isin(list(tested))]
    wanted = {name: genes.get_indexer(list(signed)) for name, signed in sets.items()}
    kept = {name: where for name, where in wanted.items() if (where >= 0).sum() >= MIN_SET_GENES}
    if not kept:
        return Signal(reason=f"the prompt measures fewer than {MIN_SET_GENES} genes of every set")
    weights = np.zeros((len(genes), len(kept)))
    for column, (name, where) in enumerate(kept.items()):
        signs = np.fromiter(sets[name].values(), dtype=float, count=len(where))
        weights[where[where >= 0], column] = signs[where >= 0] / (where >= 0).sum()
    scores = _cell_scores(prompt, control, genes=genes, weights=weights)
    tails = permute_within(scores, is_treated=is_treated, strata=strata, n_draws=n_draws, seed=seed)
    return Signal(dict(zip(kept, tails, strict=True)))


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
        Number of permutations; p = (1 + count) / (n_draws + 1).

    Returns
    -------
    One pair of p values per column; NaN when no stratum holds both labels. The statistic is the sum over strata of
    n_t n_c / n times the difference of means, so differences between strata (donors) cannot count.
    """
    usable = _usable(strata, is_treated)
    if not usable.any():
        return [Tails() for _ in range(scores.shape[1])]
    scores, is_treated, strata = scores[usable], is_treated[usable], np.unique(strata[usable], return_inverse=True)[1]
    sizes = np.bincount(strata)
    means = np.stack([np.bincount(strata, weights=column) / sizes for column in scores.T], axis=1)
    centred = scores - means[strata]
    observed = centred[is_treated].sum(axis=0)
    slack = 1e-10 * (np.abs(centred).sum(axis=0) + np.finfo(float).tiny)  # equal labellings differ by rounding only
    above, below = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    rng = np.random.default_rng([seed, _PURPOSE_SIGNAL])
    members = [np.flatnonzero(strata == stratum) for stratum in range(sizes.size)]
    n_treated = np.bincount(strata, weights=is_treated).astype(int)
    for n_block in _blocks(n_draws):
        chosen = np.zeros((n_block, len(strata)))
        rows = np.arange(n_block)[:, None]
        for cells, n_take in zip(members, n_treated, strict=True):
            draw = rng.random((n_block, cells.size), dtype=np.float32)
            chosen[rows, cells[np.argpartition(draw, n_take - 1, axis=1)[:, :n_take]]] = 1.0
        permuted = chosen @ centred
        above += (permuted >= observed - slack).sum(axis=0)
        below += (permuted <= observed + slack).sum(axis=0)
    return [Tails(*pair) for pair in ((1 + np.stack([above, below], axis=1)) / (n_draws + 1)).tolist()]


def p_specificity(
    background: Background,
    genes: SignedSet,
    *,
    removed: Collection[str] = (),
    n_draws: int,
    seed: int,
    name: str = "",
) -> Tails:
    """Compare a set with random sets of the same size, signs and expression.

    Parameters
    ----------
    background
        Tested genes, their effects and control levels.
    genes
        Signed set.
    removed
        Genes left out of set and background alike (those of competing perturbations).
    n_draws, seed, name
        Number of decoys; ``name`` gives each set random numbers of its own.

    Returns
    -------
    p = (1 + count) / (n_draws + 1). Both tails are 1 when fewer than five genes of the set remain: nothing specific
    is left. Decoys are drawn with replacement within bins of control-mean expression of about 100 genes or more.
    """
    out = background.genes.isin(list(removed)) if len(removed) else np.zeros(len(background.genes), dtype=bool)
    where, signs = background.place(genes)
    where, signs = where[~out[where]], signs[~out[where]]
    if where.size < MIN_SET_GENES:
        return Tails(1.0, 1.0)
    pool = np.flatnonzero(~out)
    pool = pool[np.argsort(background.level[pool], kind="stable")]
    edges = np.linspace(0, pool.size, min(max(pool.size // BIN_GENES, 1), MAX_BINS) + 1).astype(int)
    place = np.empty(len(background.genes), dtype=int)
    place[pool] = np.arange(pool.size)
    bins = np.searchsorted(edges, place[where], side="right") - 1
    low, size = edges[bins], np.diff(edges)[bins]
    effects = background.z[pool]
    observed = float(signs @ background.z[where])
    slack = 1e-10 * float(np.abs(background.z[where]).sum())
    rng = np.random.default_rng([seed, _PURPOSE_DECOYS, zlib.crc32(name.encode())])
    above = below = 0
    for n_block in _blocks(n_draws):
        drawn = low + (rng.random((n_block, where.size)) * size).astype(np.intp)
        sums = effects[drawn] @ signs
        above += int((sums >= observed - slack).sum())
        below += int((sums <= observed + slack).sum())
    return Tails((1 + above) / (n_draws + 1), (1 + below) / (n_draws + 1))


def _labels(adata: ad.AnnData) -> pd.DataFrame:
    if absent := [name for name in (keys.DONOR, keys.CELL_TYPE) if name not in adata.obs]:
        msg = f"prompt cells lack {absent} in obs; take them from an atlas, or add the columns"
        raise MissingKeyError(msg, absent=absent)
    return adata.obs[[keys.DONOR, keys.CELL_TYPE]].astype(object).fillna("").astype(str)


def _usable(strata: NDArray[np.integer[Any]], is_treated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    n_treated = np.bincount(strata, weights=is_treated)
    both = (n_treated > 0) & (n_treated < np.bincount(strata))
    return both[strata]


def _cell_scores(
    prompt: ad.AnnData, control: ad.AnnData, *, genes: pd.Index, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One number per cell and set: y times the sets' weights over each gene's spread over all cells, label-free."""
    # library sizes over all genes of an arm, then the genes wanted
    arms = [log_normalise(adata.X)[:, adata.var_names.get_indexer(genes)] for adata in (prompt, control)]
    n_cells = prompt.n_obs + control.n_obs
    mean = sum(np.asarray(y.sum(axis=0)).ravel() for y in arms) / n_cells
    squares = sum(np.asarray(y.multiply(y).sum(axis=0)).ravel() for y in arms) - n_cells * mean**2
    sd = np.sqrt(np.maximum(squares, 0) / max(n_cells - 1, 1))
    scaled = weights * standardise(np.ones(len(genes)), sd)[:, None]
    return np.vstack([y @ scaled for y in arms])


def _blocks(n_draws: int) -> Iterator[int]:
    yield from (min(_BLOCK, n_draws - start) for start in range(0, n_draws, _BLOCK))
