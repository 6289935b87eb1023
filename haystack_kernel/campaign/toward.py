"""How far an effect moves cells toward a target state, against random states of the same size and structure.

In: effects with their standard deviations (rows) and the direction that is wanted. Out: one row per effect with its
alignment, an interval and a p value.

Both sides are shrunk before they are compared: a direction made of noise points nowhere. The random states hold the
values of the direction itself, given to other genes of the same expression, so that genes which rise and fall together
in the effects do so in the random states.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.uncertainty.transfer import INTERVAL

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MIN_GENES = 10  # of the state that an effect must tell about
BIN_GENES, MAX_BINS = 100, 25  # genes of one expression bin, as in the competitive null
N_DRAWS = 4999
COMMON = 0.5  # share of the structure in the random states and in errors; the rest is gene by gene
_BLOCK = 500  # random states at a time
LEVEL = "level"
COLUMNS = ("toward", "toward_sd", "toward_low", "toward_high", "p_toward", "share", "n_genes_toward")


@dataclass(frozen=True, eq=False)
class TargetState:
    """Where cells are to be moved.

    Attributes
    ----------
    name
        For tables and titles.
    direction
        Gene -> change that is wanted: natural log1p-CP10k from the state of today to the target, or +1 and -1 of a
        gene set.
    variance
        Its error variance by gene; None: it is taken as exact.
    kind
        ``cells``, ``contrast`` or ``genes``.
    notes
        What was left out or taken for granted, one sentence each.

    Examples
    --------
    >>> import pandas as pd
    >>> TargetState("interferon", pd.Series({"ISG15": 1.0, "MX1": 1.0}), kind="genes").n_genes
    2
    """

    name: str
    direction: pd.Series
    variance: pd.Series | None = None
    kind: str = "cells"
    notes: tuple[str, ...] = field(default=())

    @property
    def n_genes(self) -> int:
        """Genes with a direction."""
        return len(self.direction)

    @property
    def certainty(self) -> float:
        """Share of the squared size that is no error, 0 to 1; 1 of a state that is taken as exact."""
        if self.variance is None:
            return 1.0
        size = float(np.square(self.direction.to_numpy(float)).sum())
        return size / max(size + float(self.variance.sum()), 1e-300)


def compute_toward(
    effects: ad.AnnData,
    state: TargetState,
    *,
    structure: pd.DataFrame | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute how far each effect moves cells toward a state.

    Parameters
    ----------
    effects
        One row per effect: ``X`` the expected true effect (NaN: not known), layer ``effect_sd`` its standard
        deviation. ``var["level"]``, the mean level of each gene, is used where there is one.
    state
        The target state.
    structure
        Rows x genes whose co-movement random states and errors share; None: the effects themselves.
    n_draws, seed
        Number of random states, and the random seed.

    Returns
    -------
    DataFrame
        By the names of the rows: ``toward``, the cosine between effect and direction over the genes that both know
        (1 the wanted direction, 0 none of it, -1 the opposite); ``toward_sd`` and the 80 % interval ``toward_low`` to
        ``toward_high``; ``p_toward``, the share of random states that the effect moves toward as much, (1 + count) /
        (n_draws + 1), one-sided; ``share``, the part of the way that the effect covers (for a gene set the mean change
        of its genes); ``n_genes_toward``, genes of the state that were compared. NaN where fewer than ten are known.

    Raises
    ------
    InvalidInputError
        No gene of the state is among those of the effects, or all its changes are 0.

    Notes
    -----
    With effect m and variance v, direction t and variance u: toward = sum(t m) / sqrt(sum(t^2 + u) sum(m^2 + v)), so
    that what is uncertain counts for less. Its variance is that of the numerator, t'Ct + sum(u (m^2 + v)), over the
    same denominator; C has the variances v and half of the correlation that the structure shows.

    Examples
    --------
    >>> compute_toward(effects, state)["toward"].idxmax()  # doctest: +SKIP
    '0012'
    """
    genes, direction, error = _aligned(effects, state)
    mean, sd = (np.asarray(one, dtype=float)[:, genes] for one in (effects.X, effects.layers[keys.EFFECT_SD]))
    known = np.isfinite(mean) & np.isfinite(sd)
    mean, variance = np.where(known, mean, 0.0), np.where(known, sd, 0.0) ** 2
    moves = _structure(structure, effects.var_names[genes], mean=mean)
    wanted = known @ (direction**2 + error)  # sum of squares of the direction over the genes of each row
    size = (mean**2 + variance).sum(axis=1)
    scale = np.sqrt(wanted * size)
    dot = mean @ direction
    spread = _error_of(direction * np.sqrt(variance), moves) + (mean**2 + variance) @ error
    n_genes = (known & (direction != 0)).sum(axis=1)
    rows = np.flatnonzero((n_genes >= min(MIN_GENES, max(state.n_genes // 2, 2))) & (scale > 0))
    toward, sd_toward = dot[rows] / scale[rows], np.sqrt(spread[rows]) / scale[rows]
    level = _level(effects, genes, sd=np.where(known, sd, np.nan))
    rng = np.random.default_rng([seed, zlib.crc32(state.name.encode())])
    found = {
        "toward": toward,
        "toward_sd": sd_toward,
        "toward_low": np.maximum(toward - INTERVAL * sd_toward, -1.0),
        "toward_high": np.minimum(toward + INTERVAL * sd_toward, 1.0),
        "p_toward": _p_values(
            direction, mean[rows], known=known[rows], level=level, moves=moves, n_draws=n_draws, rng=rng
        ),
        "share": dot[rows] / (known[rows] @ direction**2),
    }
    table = pd.DataFrame(found, index=effects.obs_names[rows]).reindex(effects.obs_names)
    return table.assign(n_genes_toward=n_genes)[list(COLUMNS)]


def _aligned(effects: ad.AnnData, state: TargetState) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Places of the genes of the effects that any row knows, and direction and error variance at each (0: no wish)."""
    names = effects.var_names
    values = state.direction[~state.direction.index.duplicated()]
    values = values[np.isfinite(values.to_numpy(float))]
    held = values.index.intersection(names)
    if held.empty or not np.any(values[held].to_numpy(float)):
        what = ", ".join(map(str, values.index[:5])) or "none"
        msg = (
            f"no gene of the state {state.name!r} ({state.n_genes} genes: {what}…) changes among the {len(names):,} "
            "genes of the effects; name genes by symbol, and give a state that differs from the cells of today"
        )
        raise InvalidInputError(msg, state=state.name)
    is_known = np.isfinite(np.asarray(effects.X, dtype=float)).any(axis=0)
    # genes outside of a set may do what they want, but a random set is drawn from them
    genes = np.flatnonzero(is_known if state.kind == "genes" else is_known & np.asarray(names.isin(held)))
    direction = values.reindex(names[genes]).fillna(0.0).to_numpy(float)
    error = np.zeros(len(genes))
    if state.variance is not None:
        error = state.variance.reindex(names[genes]).fillna(0.0).to_numpy(float)
    return genes, direction, error


def _structure(structure: pd.DataFrame | None, names: pd.Index, *, mean: Floats) -> Floats:
    """Rows x genes of unit variance whose co-movement counts; no rows where nothing tells it."""
    rows = mean if structure is None else structure.reindex(columns=names).fillna(0.0).to_numpy(float)
    size = np.sqrt(np.square(rows).mean(axis=0)) if len(rows) else np.zeros(len(names))
    scaled = np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)
    return np.asarray(scaled[np.abs(scaled).any(axis=1)])


def _error_of(weighted: Floats, moves: Floats) -> Floats:
    """Variance of the sum of the errors over genes: rows x genes of direction times standard deviation."""
    alone = np.square(weighted).sum(axis=1)
    if not len(moves):
        return np.asarray(alone)
    together = np.square(weighted @ moves.T).sum(axis=1) / len(moves)
    return np.asarray((1 - COMMON) * alone + COMMON * together)


def _level(effects: ad.AnnData, genes: NDArray[np.intp], *, sd: Floats) -> Floats:
    """What random states match genes by: their level, else the smallest error that any effect has of them."""
    if LEVEL in effects.var:
        level = effects.var[LEVEL].to_numpy(float)[genes]
        if np.isfinite(level).all():
            return np.asarray(level)
    return np.asarray(np.nanmin(sd, axis=0))


def _p_values(
    direction: Floats,
    mean: Floats,
    *,
    known: NDArray[np.bool_],
    level: Floats,
    moves: Floats,
    n_draws: int,
    rng: np.random.Generator,
) -> Floats:
    """Share of random states that each row is aligned with at least as much as with the direction."""
    order = np.argsort(level, kind="stable")
    n_bins = min(max(order.size // BIN_GENES, 1), MAX_BINS)
    bins = np.array_split(order, n_bins)
    values = [np.sort(direction[one]).astype(np.float32) for one in bins]
    mask, effects, common = (one.astype(np.float32) for one in (known, mean, moves))

    def aligned(states: NDArray[np.float32]) -> Floats:
        norm = np.sqrt(mask @ np.square(states).T)
        dots = effects @ states.T
        return np.asarray(np.divide(dots, norm, out=np.zeros_like(dots), where=norm > 0), dtype=float)

    observed = aligned(direction[None].astype(np.float32))[:, 0]
    slack = 1e-5 * np.abs(observed)  # the same state, summed in another order
    above = np.zeros(len(mean))
    for start in range(0, n_draws, _BLOCK):
        n = min(_BLOCK, n_draws - start)
        drawn = rng.standard_normal((n, direction.size), dtype=np.float32)
        if len(moves):
            weights = rng.standard_normal((n, len(moves)), dtype=np.float32)
            drawn *= np.float32(np.sqrt((1 - COMMON) / COMMON))  # the ranks alone count
            drawn += weights @ common / np.float32(np.sqrt(len(moves)))
        states = np.empty_like(drawn)
        for places, sorted_values in zip(bins, values, strict=True):
            smallest_first = places[np.argsort(drawn[:, places], axis=1)]
            np.put_along_axis(states, smallest_first, np.broadcast_to(sorted_values, smallest_first.shape), axis=1)
        above += (aligned(states) >= (observed - slack)[:, None]).sum(axis=1)
    return np.asarray((1 + above) / (n_draws + 1))
