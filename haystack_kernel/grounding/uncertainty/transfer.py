"""How far an effect differs between the cells that show it and those that were asked about, learned inside the prompt.

In: the prompt's effects, what of the question the prompt does not hold. Out: ``Transfer``.

Cell types, or the donors of each type, are left out in turn and predicted from the rest. The variance that neither the
measurement's error nor the prediction's explains, as a share c2 of the squared effect, is the transfer error.
Where the cells asked about are farther from the prompt's than those left out were, effects differ by more than that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.uncertainty.prior import posterior
from haystack_kernel.grounding.uncertainty.prompt import CONTROL, LINEAR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.grounding.uncertainty.prior import Mixture
    from haystack_kernel.grounding.uncertainty.prompt import PromptEffects, Response
    from inference.effects import Effect

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

ASSUMED_C2 = 0.25  # before anything was left out
ASSUMED_WEIGHT = 2.0  # of that, in left-out units
LEAST = 1e-4  # variance between cell types of an effect of 0
# Variance beyond c2, in mean squares of an effect, for cells as far again as those left out; constant from three times.
BEYOND, MAX_REACH = 2.0, 3.0
SAID_REACH = 1.1  # from which on the report says so
SHARE_OF_NOISE = 0.1  # of the noise of a distance that its mean over genes still has
MIN_CELLS = 10  # of a unit that is left out, in both arms
MIN_UNITS, MAX_UNITS = 2, 12
MIN_GENES, MIN_EFFECT = 20, 0.08  # genes with such effects that a unit needs
SHOWN_EFFECT = 0.05  # coverage is counted over genes with a larger effect
INTERVAL = 1.2816  # standard deviations on either side of the mean that hold 80 %
MAX_LFSR = 0.05
LEAST_COVERAGE = 0.7  # of 80 % intervals; below that they are not calibrated
LEAST_UNITS = 3  # left out, so that one may say so
MOST_C = 0.61  # from which on no sign is certain
TYPE, DONOR = "cell type", "donor"
_PLURAL = {TYPE: "cell types", DONOR: "donors"}
SIMILARITY_DECAY, SHRINK_CELLS = 8.0, 30.0


@dataclass(frozen=True)
class Transfer:
    """The transfer error and how it was learned.

    Attributes
    ----------
    c2
        Its variance as a share of the squared effect; from 0.37 on nothing can be called.
    left_out
        What was left out in turn, "cell type" or "donor", where ``c2`` is largest; empty: nothing, it is assumed.
    n_units
        How many of these were predicted from the others.
    coverage
        Share of their effects inside their 80 % interval; NaN without units.
    sign_agreement, n_called
        Share of the calls made for them whose sign was measured, and the number of these calls.
    missing
        What the prompt could not teach: "cell type", "donor" or "".
    reach
        How far the cells that were asked about are from the prompt's, in mean distances of the cell types left out,
        from 1 to 3; 1 where that is not to be compared.
    """

    c2: float = ASSUMED_C2
    left_out: str = ""
    n_units: int = 0
    coverage: float = float("nan")
    sign_agreement: float = float("nan")
    n_called: int = 0
    missing: str = ""
    reach: float = 1.0

    @property
    def is_far(self) -> bool:
        """Whether the cells that were asked about are farther than the transfer error follows."""
        return self.reach >= MAX_REACH

    def carry(self, here: Mixture, *, base: Floats) -> Mixture:
        """Distribution of the effects elsewhere, in cells whose mean profile is ``base``."""
        return _carry(here, c2=self.c2, reach=self.reach, base=base)


@dataclass(frozen=True, eq=False)
class LeftOut:
    """One unit: what was measured, what the rest of the prompt made of it, and how much it tells about the question."""

    measured: Effect
    expected: Mixture
    weight: float
    c2: float
    distance: float  # see Response
    noise: float
    base: Floats  # mean profile of its control cells
    size: float  # weight by its number of cells alone


def describe(transfer: Transfer, *, engine: str, used_c: float | None = None) -> str:
    """Say what the intervals rest on and how they held, in one to three sentences.

    Parameters
    ----------
    transfer
        What was learned.
    engine
        Engine of the prediction; only a linear one was itself asked to predict what was left out.
    used_c
        The transfer error that was used, where it is larger, because the engine's prediction is unlike all that the
        prompt shows; None: the one that was learned.
    """
    c, said = np.sqrt(transfer.c2), _say_learned(transfer)
    name = engine or "the engine of this run"
    if engine not in LINEAR:
        said.append(f"They were predicted by a simple engine, not by {name}.")
    if used_c is not None and used_c > c:
        said.append(
            f"What {name} predicts differs by {_percent(used_c)} of its effects from what the prompt's cells show."
        )
        c = used_c
    if c >= MOST_C:
        limit = f"from {_percent(MOST_C)} on no sign is certain"
        said.append(f"{keys.NOTHING_CALLED}effects may differ by {_percent(c)}, and {limit}.")
    return " ".join(said)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _say_learned(transfer: Transfer) -> list[str]:
    """What was left out and how the intervals held, one sentence each."""
    said = []
    if transfer.n_units:
        is_tested = not transfer.missing and not transfer.is_far
        held = transfer.n_units >= LEAST_UNITS and transfer.coverage >= LEAST_COVERAGE and is_tested
        what = f"{transfer.n_units} {_PLURAL[transfer.left_out]} of the prompt were left out in turn"
        inside = f"{_percent(transfer.coverage)} of their effects lay in the 80 % interval predicted from the rest"
        said.append(f"{'' if held else 'Not calibrated: '}{what}, and {inside}.")
    else:
        why = "no part of the prompt could be left out and predicted from the rest"
        said.append(
            f"Not calibrated: {why}, so that effects are taken to differ by {_percent(np.sqrt(transfer.c2))} elsewhere."
        )
    if transfer.n_called:
        said.append(
            f"{_percent(transfer.sign_agreement)} of {transfer.n_called} calls made for them had the right sign."
        )
    if transfer.reach >= SAID_REACH:
        how = f"{'more than ' if transfer.is_far else ''}{transfer.reach:.1f} times as far from the prompt's"
        said.append(f"The cells asked about are {how} as the cell types left out: their intervals are wider for it.")
    if transfer.missing and transfer.n_units:
        said.append(f"The prompt does not show how far effects differ between {_PLURAL[transfer.missing]}.")
    return said


def learn_transfer(
    prompt: PromptEffects, *, engine: str, base: Floats, has_type: bool, has_donor: bool, asked: Response
) -> Transfer:
    """Learn the transfer error from the prompt.

    Parameters
    ----------
    prompt
        Effects by cell type and donor.
    engine
        A linear engine; the leave-outs are predicted as it would.
    base
        Mean profile of the cells that were asked about.
    has_type, has_donor
        Whether the prompt holds cells of the type, and of a donor, of the cells that were asked about.
    asked
        What the engine expects for these cells; their similarity and distance to the prompt's.

    Returns
    -------
    ``c2`` is (0.5 + sum k c2_s) / (2 + sum k) over the units s, k = exp(-8 |r_s - r|) n_s / (n_s + 30), r = similarity
    to the most similar type that is left. Types are left out where the prompt lacks the type that was asked about,
    donors where it lacks its donors, and both in turn where it lacks both: the larger ``c2`` holds. Where the prompt
    cannot teach what the question needs, it is at least 0.25.
    """
    is_needed = {TYPE: not has_type, DONOR: has_type or not has_donor}
    learned: dict[str, list[LeftOut]] = {}
    for name in sorted(is_needed, key=lambda one: not is_needed[one]):  # those that are needed first
        if is_needed[name] or not learned:  # what is not needed is better than nothing
            units = leave_out(prompt, design=name, engine=engine, similarity=asked.similarity)
            if len(units) >= MIN_UNITS:
                learned[name] = units
    missing = next((name for name, needed in is_needed.items() if needed and name not in learned), "")
    if not learned:
        return Transfer(missing=missing)
    tested = [] if has_type else learned.get(TYPE, [])
    reach = _reach(asked.distance, tested, noise=asked.noise)
    return replace(_largest(learned, missing=missing), reach=reach)


def _largest(learned: dict[str, list[LeftOut]], *, missing: str) -> Transfer:
    """The transfer error of the design that shows the largest one."""
    c2, design = max((_shrunk(units), name) for name, units in learned.items())
    c2 = max(c2, ASSUMED_C2 if missing else 0.0)
    units = learned[design]
    return Transfer(
        c2,
        design,
        len(units),
        *_checked(units, c2=c2, by_type=design == TYPE),
        missing=missing,
    )


def _reach(distance: float, tested: list[LeftOut], *, noise: float) -> float:
    """How far cells are from those that predict them, in mean distances of the units; 1 if not farther or unknown."""
    if not tested or not np.isfinite(distance):
        return 1.0
    mean = float(np.average([unit.distance for unit in tested], weights=[unit.size for unit in tested]))
    return min(max(distance / max(mean + SHARE_OF_NOISE * noise, np.finfo(float).tiny), 1.0), MAX_REACH)


def _carry(here: Mixture, *, c2: float, reach: float, base: Floats) -> Mixture:
    """Add the transfer error: ``c2``, and what cells beyond those left out differ by, a log fold change of its own.

    A gene whose mean log1p(CP10k) is b moves by 1 - exp(-b) of its log fold change, so silent genes hardly differ.
    """
    beyond = BEYOND * (reach - 1) * np.square(1 - np.exp(-base))
    return here.carried_over(c2, least=LEAST, beyond=beyond)


def _shrunk(units: list[LeftOut]) -> float:
    """Mean of the units' transfer errors, drawn towards the one that is assumed."""
    weight = np.array([unit.weight for unit in units])
    total = ASSUMED_WEIGHT * ASSUMED_C2 + float(weight @ [unit.c2 for unit in units])
    return total / (ASSUMED_WEIGHT + float(weight.sum()))


def leave_out(prompt: PromptEffects, *, design: str, engine: str, similarity: float) -> list[LeftOut]:
    """Predict each unit of a design from the rest of the prompt, the largest 12 units with ten cells in both arms."""
    chosen = []
    for own, rest in _subsets(prompt, design):
        if prompt.smaller(own) >= MIN_CELLS and prompt.smaller(rest) >= MIN_CELLS:
            chosen.append((prompt.smaller(own), own, rest))
    chosen.sort(key=lambda item: -item[0])
    units = []
    for n_cells, own, rest in chosen[:MAX_UNITS]:
        measured, control = prompt.effect(own), prompt.arm(CONTROL, own)
        base, error = control.mean, float(control.variance.mean()) / control.n_cells
        response = prompt.respond(engine, rest, base=base, base_error=error)
        expected = posterior(response.effect, response.variance).no_lower_than(-base)
        c2 = excess(measured, expected)
        if c2 is None:
            continue
        near = np.exp(-SIMILARITY_DECAY * abs(response.similarity - similarity))
        size = n_cells / (n_cells + SHRINK_CELLS)
        far = response.distance, response.noise
        units.append(LeftOut(measured, expected, float(near * size), c2, *far, base, size))
    return units


def excess(measured: Effect, expected: Mixture) -> float | None:
    """Squared misses that no error explains, as a share of the squared effect; None below 20 genes with an effect."""
    mean, variance = expected.moments()
    large = np.abs(mean) > MIN_EFFECT
    if np.count_nonzero(large) < MIN_GENES:
        return None
    mean, variance = mean[large], variance[large]
    error = measured.se[large] ** 2 + variance
    square = mean**2 + variance
    weight = 1 / (error + ASSUMED_C2 * square) ** 2
    miss = (measured.delta[large] - mean) ** 2 - error
    return max(0.0, float((weight * square * miss).sum() / (weight * square**2).sum()))


def _subsets(prompt: PromptEffects, design: str) -> list[tuple[Mask, Mask]]:
    """Entries of each unit, and those it is predicted from."""
    types, donors = prompt.types, prompt.donors
    if design == TYPE:
        return [(types == name, types != name) for name in np.unique(types)]
    pairs = sorted(set(zip(types.tolist(), donors.tolist(), strict=True)))
    found = []
    for kind, donor in pairs:
        found.append(((types == kind) & (donors == donor), donors != donor))
    return found


def _checked(units: list[LeftOut], *, c2: float, by_type: bool) -> tuple[float, float, int]:
    """Coverage of the 80 % intervals of the units, sign agreement of the calls, and number of these calls.

    A cell type that is farther from the rest than the other ones is treated as one that was asked about.
    """
    inside, share, n_right, n_called = [], [], 0, 0
    for unit in units:
        others = [one for one in units if one is not unit] if by_type else []
        reach = _reach(unit.distance, others, noise=unit.noise)
        there = _carry(unit.expected, c2=c2, reach=reach, base=unit.base)
        mean, variance = there.moments()
        large = np.abs(mean) > SHOWN_EFFECT
        if large.any():
            miss = np.abs(unit.measured.delta - mean) / np.sqrt(variance + unit.measured.se**2)
            inside.append(float((miss <= INTERVAL)[large].mean()))
            share.append(unit.weight)
        negative = there.below(0.0)
        called = np.minimum(negative, 1 - negative) < MAX_LFSR
        n_right += int((np.sign(unit.measured.delta) == np.sign(mean))[called].sum())
        n_called += int(called.sum())
    coverage = float(np.average(inside, weights=share)) if inside else float("nan")
    return coverage, n_right / n_called if n_called else float("nan"), n_called
