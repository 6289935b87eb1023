"""How accurate a prediction can be expected to be, learned by hiding parts of the prompt from the rest.

In: what the prompt's cells say (:class:`Uncertain`), the query cells. Out: ``ExpectedAccuracy``.

Each cell type, donor or pair of both that the prompt measured is predicted from the others, as the question's cells are
predicted from all of them. Its correlation with what was measured, divided by the root of the measurement's
reliability, is the accuracy against a measurement without noise. The prompt is small, so the units are few: their mean
is drawn towards what other data sets showed, and their spread towards the spread seen there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.de.profiles import correlate, log_normalise
from haystack_kernel.grounding.distributions import t_quantile
from haystack_kernel.grounding.uncertainty.prompt import CONTROL, LINEAR, TREATED
from haystack_kernel.grounding.uncertainty.transfer import MOST_C
from haystack_kernel.schema import ExpectedAccuracy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    from numpy.typing import NDArray

    from haystack_kernel.grounding.uncertainty.calls import Uncertain
    from haystack_kernel.grounding.uncertainty.prompt import PromptEffects
    from haystack_kernel.grounding.uncertainty.transfer import Transfer

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

MIN_CELLS = 10  # of a unit that is left out, and of what it is predicted from, in both arms
MAX_UNITS = 12
MAX_CORRELATION = 0.99  # beyond it Fisher's z would rest on noise
MIN_RELIABILITY = 0.05
TELLING_RELIABILITY = 0.2  # shuffled labels and split controls stay below .1, real prompts of 30 cells lie above .3
SIMILARITY_DECAY, SHRINK_CELLS = 8.0, 30.0
# Before a unit was left out: accuracy, and its spread as Fisher's z, over Kang, Papalexi and panobinostat; of
# differences between cell types and between donors, over the control cells of Kang.
PRIOR_Z, PRIOR_WEIGHT = 1.0, 0.5
PRIOR_Z_TYPES, PRIOR_Z_DONORS = 1.4, 0.25
PRIOR_SPREAD, PRIOR_DEGREES = 0.35, 2.0
COVERAGE = 0.8
MAX_WIDTH = 1.0  # a wider interval says nothing
WORTH_IT = 0.85  # share of the interval that is left by a measurement worth naming
SEEN_CELLS = 100  # cells of each arm of the measurement that the prediction is imagined to be compared with
TYPE, DONOR, BOTH, PAIR = "cell type", "donor", "cell type and donor", "cell type of one donor"


class Unit(NamedTuple):
    """One part of the prompt that was predicted from the rest."""

    cell_type: str
    donor: str
    n_cells: int  # of the smaller arm
    z: float  # Fisher's z of the accuracy against a measurement without noise
    reliability: float  # share of signal in what was measured
    weight: float  # how much it tells about the question


class Interval(NamedTuple):
    """Expected accuracy with its 80 % interval, and the number of independent units that it rests on."""

    value: float
    low: float
    high: float
    n_effective: float
    spread: float


def expect_accuracy(studied: Uncertain | str, *, query: ad.AnnData, engine: str, similarity: float) -> ExpectedAccuracy:
    """Expect the correlation of a prediction with the true response.

    Parameters
    ----------
    studied
        Effects of the prompt, from :func:`study_prompt`; a sentence where it could not be studied.
    query
        Query cells.
    engine
        Engine of the prediction.
    similarity
        For an engine that is not linear: correlation of its response with that of ``weighted``. It cannot be repeated
        here, so that its accuracy is taken to be that of ``weighted`` times this number.

    Returns
    -------
    ExpectedAccuracy
        NaN with a reason where the prompt's own effects are mostly noise, or where the interval is wider than 1.
    """
    if isinstance(studied, str):
        return ExpectedAccuracy(reason=studied)
    is_linear = engine in LINEAR
    if not is_linear and not similarity > 0:
        return ExpectedAccuracy(reason=f"{engine} predicts another response than any engine that can be left out")
    design, units = left_out_units(studied)
    # where cell types differ between the arms by design, donors are what the cells are grouped by
    left_out = DONOR if design and studied.within == keys.DONOR else design
    reliability = _reliability(studied.prompt, studied.prompt.everything)
    if why := _why_nothing(units, prompt=studied.prompt, reliability=reliability):
        return ExpectedAccuracy(reason=why, left_out=left_out, n_left_out=len(units))
    found = combine(units, design=design, prior_z=_prior_z(studied))
    factor = 1.0 if units else math.sqrt(reliability)
    words = _rests_on(left_out, units, transfer=studied.transfer)
    if not is_linear:
        factor *= similarity
        words += f"; times r = {similarity:.2f} with engine weighted"
    value, low, high = (factor * one for one in found[:3])
    if high - low > MAX_WIDTH:
        reason = f"from {words}, anything between {low:.1f} and {high:.1f} is possible"
        return ExpectedAccuracy(reason=reason, left_out=left_out, n_left_out=len(units))
    return ExpectedAccuracy(
        value=value,
        low=low,
        high=high,
        measured=value * math.sqrt(_imagined_reliability(studied, query, reliability=reliability)),
        n_cells=SEEN_CELLS,
        left_out=left_out,
        n_left_out=len(units),
        words=words,
        narrower=_narrower(units, left_out=left_out, found=found, factor=factor),
    )


def left_out_units(studied: Uncertain) -> tuple[str, list[Unit]]:
    """Predict parts of the prompt from the rest, in the design that is most like the question.

    Parameters
    ----------
    studied
        Effects of the prompt, and what of the question it lacks.

    Returns
    -------
    The design, and its units, the largest 12 with ten cells in both arms. "" and no unit where the prompt holds fewer
    than two parts that differ as the question's cells differ from it.
    """
    for design in _designs(has_type=studied.has_type, has_donor=studied.has_donor):
        units = []
        for own, rest in _parts(studied.prompt, design):
            if min(studied.prompt.smaller(own), studied.prompt.smaller(rest)) >= MIN_CELLS:
                unit = _leave_out(studied, own, rest)
                units += [unit] if unit is not None else []
        if len(units) > 1:
            return design, sorted(units, key=lambda unit: -unit.n_cells)[:MAX_UNITS]
    return "", []


def combine(units: Sequence[Unit], *, design: str, prior_z: float = PRIOR_Z) -> Interval:
    """Mean accuracy of the left-out units with its 80 % interval, both drawn towards what other data sets showed.

    Notes
    -----
    With w = weight times reliability, mean z = (0.5 prior_z + sum w z) / (0.5 + sum w). The variance of z is that of
    the units with n - 1 degrees of freedom and 0.35^2 with two, n = (sum w)^2 / sum w^2, at most the number of cell
    types or donors that were left out, and 1 where two units predict each other. Interval: t with as many degrees of
    freedom times the root of that variance and of 1 + 1 / (1 + n).
    """
    z = np.array([unit.z for unit in units])
    w = np.array([unit.weight * unit.reliability for unit in units])
    mean = (PRIOR_WEIGHT * prior_z + float(w @ z)) / (PRIOR_WEIGHT + float(w.sum()))
    n, observed = 0.0, 0.0
    if units:
        labels = [unit.donor if design == DONOR else unit.cell_type for unit in units]
        n_labels = len(units) if design == PAIR else len(set(labels))
        n = 1.0 if n_labels < 3 else min(float(w.sum() ** 2 / (w**2).sum()), float(n_labels))
        centre = float(w @ z / w.sum())
        observed = float(w @ (z - centre) ** 2 / w.sum()) * n
    free = max(n - 1, 0.0)
    spread = math.sqrt((PRIOR_DEGREES * PRIOR_SPREAD**2 + (observed if free else 0.0)) / (PRIOR_DEGREES + free))
    half = _half_width(n, spread=spread)
    return Interval(math.tanh(mean), math.tanh(mean - half), math.tanh(mean + half), n, spread)


def _prior_z(studied: Uncertain) -> float:
    """What other data sets showed of differences of this kind."""
    if studied.within == keys.DONOR:
        return PRIOR_Z_TYPES
    return PRIOR_Z_DONORS if studied.shows_donor else PRIOR_Z


def _half_width(n: float, *, spread: float) -> float:
    """Half of the interval of Fisher's z that rests on ``n`` independent units."""
    free = PRIOR_DEGREES + max(n - 1, 0.0)
    return t_quantile((1 + COVERAGE) / 2, free) * spread * math.sqrt(1 + 1 / (1 + n))


def _designs(*, has_type: bool, has_donor: bool) -> tuple[str, ...]:
    """What to leave out; what the prompt lacks must be left out, or nothing is learned about it."""
    if has_type:
        return (PAIR, DONOR) if has_donor else (DONOR,)
    return (TYPE,) if has_donor else (BOTH, TYPE)


def _parts(prompt: PromptEffects, design: str) -> list[tuple[Mask, Mask]]:
    """Entries of each unit, and those it is predicted from."""
    types, donors = prompt.types, prompt.donors
    if design == TYPE:
        return [(types == name, types != name) for name in np.unique(types)]
    found = []
    for kind, donor in sorted(set(zip(types.tolist(), donors.tolist(), strict=True))):
        own = (types == kind) & (donors == donor)
        rest = {DONOR: donors != donor, BOTH: (donors != donor) & (types != kind), PAIR: ~own}[design]
        found.append((own, rest))
    return found


def _leave_out(studied: Uncertain, own: Mask, rest: Mask) -> Unit | None:
    """Predict one unit from the rest; None where one of them has no effect at all."""
    prompt = studied.prompt
    treated, control = prompt.arm(TREATED, own), prompt.arm(CONTROL, own)
    response = prompt.respond(studied.linear, rest, base=control.mean)
    r = correlate(response.effect, treated.mean - control.mean)
    if math.isnan(r):
        return None
    reliability = _reliability(prompt, own)
    clean = min(max(r / math.sqrt(reliability), -MAX_CORRELATION), MAX_CORRELATION)
    n_cells = prompt.smaller(own)
    similar = math.exp(-SIMILARITY_DECAY * abs(response.similarity - studied.own.similarity))
    weight = similar * n_cells / (n_cells + SHRINK_CELLS)
    return Unit(str(prompt.types[own][0]), str(prompt.donors[own][0]), n_cells, math.atanh(clean), reliability, weight)


def _reliability(prompt: PromptEffects, entries: Mask) -> float:
    """Share of signal in the measured effects of a subset; its error is that of plain means, as their spread is."""
    treated, control = prompt.arm(TREATED, entries), prompt.arm(CONTROL, entries)
    variance = float((treated.mean - control.mean).var())
    error = float((treated.variance / treated.n_cells + control.variance / control.n_cells).mean())
    is_known = variance > 0 and min(treated.n_cells, control.n_cells) > 1  # one cell has no spread
    return max(MIN_RELIABILITY, 1 - error / variance) if is_known else MIN_RELIABILITY


def _imagined_reliability(studied: Uncertain, query: ad.AnnData, *, reliability: float) -> float:
    """Share of signal in a measurement of ``SEEN_CELLS`` cells an arm, from the spread of the query cells."""
    logs = log_normalise(query.X)[:, np.flatnonzero(studied.is_known)]
    mean = np.asarray(logs.mean(axis=0)).ravel()
    variance = np.asarray(logs.multiply(logs).mean(axis=0)).ravel() - mean**2
    noise = 2 * float(variance.mean()) / SEEN_CELLS
    signal = reliability * float(studied.own.effect.var())
    return signal / (signal + noise) if signal + noise > 0 else 0.0


def _rests_on(design: str, units: Sequence[Unit], *, transfer: Transfer) -> str:
    if not units:
        return "other data sets, because nothing in the prompt could be left out"
    words = f"{len(units)} parts of the prompt that were left out in turn, each a {design}"
    c = math.sqrt(transfer.c2)
    return f"{words} (effects differ by {c:.0%} between {transfer.left_out}s)" if c >= MOST_C else words


def _why_nothing(units: Sequence[Unit], *, prompt: PromptEffects, reliability: float) -> str:
    """Why nothing is expected, and how many cells would change that; empty where the evidence is enough."""
    n = prompt.smaller(prompt.everything)
    if n < MIN_CELLS:  # their spread is not known
        return f"the smaller arm of the prompt has {n} cells; at least {MIN_CELLS} are needed"
    best = max((unit.reliability for unit in units), default=reliability)
    if best >= TELLING_RELIABILITY:
        return ""
    needed = math.ceil(n * (1 - best) / best)
    return (
        f"the effects of the prompt are mostly noise ({best:.0%} signal with {n} cells in the smaller arm; "
        f"about {needed:,} would make it half)"
    )


def _narrower(units: Sequence[Unit], *, left_out: str, found: Interval, factor: float) -> str:
    """What to measure next so that the interval narrows most; empty where it hardly helps."""
    wanted = DONOR if left_out in (DONOR, PAIR) else TYPE
    z = math.atanh(found.value)
    half = _half_width(max(found.n_effective + 1, 2.0), spread=found.spread)
    now = factor * (found.high - found.low)
    then = factor * (math.tanh(z + half) - math.tanh(z - half))
    if then > WORTH_IT * now:
        return ""
    more = f"one more {wanted}" if units else f"two more {wanted}s"  # one unit alone can be predicted from nothing
    return f"{more} in the prompt would narrow the interval from {now:.2f} to about {then:.2f}"
