"""Effect, error, probabilities and call of every gene of a prediction.

In: cells by role, the prediction's differences, its engine. Out: the columns that a DE table gains, and ``Transfer``.

The columns describe the true effect in the cells that were asked about. What the prompt's cells say of it is shrunk by
the prior over all genes, and widened by the transfer error. For linear engines no generated cell enters; any other
engine is taken at its word, with the spread of its predictions from resampled prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.uncertainty.between import between_donors
from haystack_kernel.grounding.uncertainty.prior import posterior
from haystack_kernel.grounding.uncertainty.prompt import CONTROL, LINEAR, POOLED, Response, summarise_prompt
from haystack_kernel.grounding.uncertainty.transfer import (
    DONOR,
    INTERVAL,
    MIN_CELLS,
    SIMILARITY_DECAY,
    TYPE,
    Transfer,
    excess,
    learn_transfer,
)
from inference.baselines import profile_similarity
from inference.effects import profile_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.grounding.records import GroundingCells
    from haystack_kernel.grounding.uncertainty.prompt import PromptEffects

    Floats = NDArray[np.float64]

LARGE = 0.1  # an effect that prob_de counts, in log1p(CP10k)
LEAST_SCALE = 1e-3  # of that error, where an engine repeats itself exactly
CELL_DEGREES = 10.0  # weight of the prompt's own error in the spread of resampled predictions, in resamples
TRANSFER = "transfer_error"  # key of the table's attrs: c, as a share of the effect
SQUARE, SQUARE_ERROR = "mean_square", "mean_square_error"  # of the prediction's effects without their noise, its error
COLUMNS = (keys.EFFECT, keys.EFFECT_SD, keys.EFFECT_LOW, keys.EFFECT_HIGH, keys.LFSR, keys.PROB_DE)


@dataclass(frozen=True, eq=False)
class Uncertain:
    """What every prediction from the same prompt shares.

    Attributes
    ----------
    is_known
        Per gene of the prediction: whether the columns can be computed. The other arrays hold these genes only.
    prompt
        Effects by cell type and donor.
    base
        Mean log1p(CP10k) of the cells that were asked about.
    linear, own
        The engine, or a linear one in its place, and what it expects from the whole prompt.
    transfer
        The transfer error, learned with that engine.
    within, has_type, has_donor, shows_donor
        Label of the cells that are compared with each other; whether the prompt holds this label, and the donor, of the
        cells that were asked about; whether the difference is that between this donor and others.
    """

    is_known: NDArray[np.bool_]
    prompt: PromptEffects
    base: Floats
    linear: str
    own: Response
    transfer: Transfer
    within: str
    has_type: bool
    has_donor: bool
    shows_donor: bool


def study_prompt(
    cells: GroundingCells,
    *,
    engine: str,
    detection: Floats,
    min_detection: float,
    within: str = keys.CELL_TYPE,
    shows_donor: bool = False,
    of_people: bool = False,
) -> Uncertain | str:
    """Measure the prompt's effects and learn from them how far effects differ between cell types or donors.

    Parameters
    ----------
    cells
        Raw counts by role. The columns ``query_mean`` and ``query_detection`` of the query cells' var describe all
        cells that could have been query cells, so that the number of query cells does not matter; without them the
        query cells do.
    engine
        Engine of the prediction; any that is not linear is represented by ``weighted``.
    detection
        Largest detection of each gene in the query cells and in either arm of the prompt.
    min_detection
        Genes detected less are left out.
    within
        Label of the cells that are compared with each other: their cell type, or their donor where cell types differ
        between the arms by design.
    shows_donor
        Whether the prompt's cells are of the donor asked about by design, although the query cells are of others.
    of_people
        Whether the two sides are samples of people, so that the difference would be another one with other people.

    Returns
    -------
    Uncertain
        Or the reason why there is none, as a sentence.
    """
    control = cells.prompt_control
    if control is None or not control.n_obs:
        return "the prompt has no matched control cells, so its effects cannot be told from other differences"
    names = cells.treated.var_names
    everywhere = names.isin(cells.prompt.var_names) & names.isin(control.var_names)
    is_known = np.asarray(everywhere) & (detection >= min_detection)
    if keys.PADDED in cells.treated.var:
        is_known &= ~cells.treated.var[keys.PADDED].to_numpy(bool)
    if not is_known.any():
        return "no gene is detected in enough cells of the prompt"
    prompt = summarise_prompt(cells.prompt, control, genes=list(names[is_known]), within=within)
    base, _, error = (values[is_known] for values in query_profile(cells.query))
    linear = engine if engine in LINEAR else LINEAR[0]
    if within == keys.DONOR:  # no cell type is in both arms: the baselines compare across types
        linear = POOLED
    own = prompt.respond(linear, prompt.everything, base=base, base_error=float(error.mean()))
    if not np.isfinite(own.variance).all():
        return "one treated and one control cell do not say how much cells vary"
    has_type, has_donor = (
        not set(cells.query.obs[name].astype(str)).isdisjoint(cells.prompt.obs[name].astype(str))
        for name in (within, keys.DONOR)
    )
    has_donor |= shows_donor
    transfer = learn_transfer(prompt, engine=linear, base=base, has_type=has_type, has_donor=has_donor, asked=own)
    spread = between_donors(prompt, engine=linear, base=base) if of_people else own.variance
    if isinstance(spread, str):
        return spread
    own = replace(own, variance=np.maximum(own.variance, spread))
    transfer = _in_words(transfer, within=within)
    return Uncertain(is_known, prompt, base, linear, own, transfer, within, has_type, has_donor, shows_donor)


def _in_words(transfer: Transfer, *, within: str) -> Transfer:
    """The same with "donor" for what was left out where cells are compared within a donor, not within a type."""
    words = {TYPE: DONOR} if within == keys.DONOR else {}
    return replace(
        transfer,
        left_out=words.get(transfer.left_out, transfer.left_out),
        missing=words.get(transfer.missing, transfer.missing),
    )


def query_profile(query: ad.AnnData) -> tuple[Floats, Floats, Floats]:
    """Mean log1p(CP10k), detection and squared error of the mean of the cells asked about, as their var states them."""
    mean, detection, error = profile_counts(query.X)
    if keys.QUERY_MEAN in query.var:
        mean, detection = query.var[keys.QUERY_MEAN].to_numpy(float), query.var[keys.QUERY_DETECTION].to_numpy(float)
    if keys.QUERY_ERROR in query.var:  # runs made before it was kept know the error of their query cells alone
        error = query.var[keys.QUERY_ERROR].to_numpy(float)
    return mean, detection, error


def call_genes(
    de: pd.DataFrame,
    *,
    studied: Uncertain | str,
    engine: str,
    max_lfsr: float,
    resampled: Sequence[Floats] = (),
    drawn: Floats | None = None,
) -> pd.DataFrame:
    """Add what is known of each gene's true effect, and call the genes whose sign is beyond doubt.

    Parameters
    ----------
    de
        From :func:`compute_de`.
    studied
        From :func:`study_prompt`, of the same genes.
    engine
        Engine of the prediction in ``de``.
    max_lfsr
        A gene with a lower local false sign rate is called.
    resampled
        For an engine that is not linear: ``delta`` per gene of its predictions from resampled prompts.
    drawn
        For the same: error variance of ``delta`` per gene from drawing counts; None where ``delta`` has none.

    Returns
    -------
    A copy with ``effect``, ``effect_sd``, ``effect_low`` and ``effect_high`` (80 % interval), ``lfsr`` and ``prob_de``,
    all on the scale of ``delta``; NaN for genes of which nothing is known. ``is_de`` is ``lfsr < max_lfsr``. ``attrs``
    holds ``transfer_error``, c, and the mean square over genes of what the prediction shows beyond its noise
    (``mean_square``, negative where there is nothing but noise) with its standard error.
    """
    de = de.copy()
    for name in COLUMNS:
        de[name] = np.nan
    de[keys.IS_DE] = False
    if isinstance(studied, str) or engine == "none":
        return de
    c2, response = studied.transfer.c2, studied.own
    if engine in LINEAR and engine != studied.linear:
        response = studied.prompt.respond(engine, studied.prompt.everything, base=studied.base)
    if engine not in LINEAR:
        where = studied.is_known
        effect = de[keys.DELTA].to_numpy(float)[where]
        spread = [np.square(again[where] - effect) for again in resampled]
        variance = _spread(studied.own.variance, spread) + (0.0 if drawn is None else drawn[where])
        response = Response(effect, variance, studied.own.similarity)
        c2 = max(c2, _misses(studied, response))
    de.attrs[TRANSFER] = math.sqrt(c2)
    squares, noise = response.effect**2, response.variance
    de.attrs[SQUARE] = float((squares - noise).mean())
    signal = np.maximum(squares - noise, 0.0)
    de.attrs[SQUARE_ERROR] = float(np.sqrt((2 * noise**2 + 4 * signal * noise).sum()) / len(noise))
    here = posterior(response.effect, response.variance).no_lower_than(-studied.base)
    there = replace(studied.transfer, c2=c2).carry(here, base=studied.base)
    mean, variance = there.moments()
    sd, negative = np.sqrt(variance), there.below(0.0)
    found = {
        keys.EFFECT: mean,
        keys.EFFECT_SD: sd,
        keys.EFFECT_LOW: mean - INTERVAL * sd,
        keys.EFFECT_HIGH: mean + INTERVAL * sd,
        keys.LFSR: np.minimum(negative, 1 - negative),
        keys.PROB_DE: np.clip(there.below(-LARGE) + 1 - there.below(LARGE), 0.0, 1.0),
    }
    for name in COLUMNS:
        de.loc[studied.is_known, name] = found[name]
    de[keys.IS_DE] = de[keys.LFSR].to_numpy(float) < max_lfsr
    return de


def _spread(of_cells: Floats, resampled: list[Floats]) -> Floats:
    """Error variance of an engine's effects: squares of their change under resampling, drawn to the prompt's own error.

    The prompt's error, gene by gene, is scaled to the median of the differences and counts as much as ten resamples.
    """
    if not resampled:
        return of_cells
    scale = float(np.median(np.mean(resampled, axis=0) / of_cells))
    total = CELL_DEGREES * max(scale, LEAST_SCALE) * of_cells + np.sum(resampled, axis=0)
    return np.asarray(total / (CELL_DEGREES + len(resampled)))


def _misses(studied: Uncertain, response: Response) -> float:
    """How far the prompt's own cell types lie from the prediction, as a share of the squared effect.

    An engine that is not linear cannot be repeated without a type here, so each type stands in for the asked one.
    """
    prompt, expected = studied.prompt, posterior(response.effect, response.variance).no_lower_than(-studied.base)
    found, weights = [], []
    for name in np.unique(prompt.types):
        entries = prompt.types == name
        if prompt.smaller(entries) < MIN_CELLS:
            continue
        c2 = excess(prompt.effect(entries), expected)
        if c2 is not None:
            near = float(profile_similarity(prompt.arm(CONTROL, entries).mean[None], studied.base)[0])
            found.append(c2)
            weights.append(math.exp(-SIMILARITY_DECAY * (1 - near)))
    return float(np.average(found, weights=weights)) if found else 0.0
