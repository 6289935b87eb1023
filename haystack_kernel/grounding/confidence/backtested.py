"""How accurate predictions like this one were when what they predict had been measured: quoted from back-tests.

In: the cells of a prompt and the calibration of its atlas and engine. Out: features of the prompt, a
:class:`BackTested` figure and its aspect of the confidence.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.de.profiles import correlate, log_normalise
from haystack_kernel.schema import EVIDENCE_WORDS, MIN_PERTURBATIONS, Aspect, BackTested
from inference.effects import measure_effect, summarise_arm

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from haystack_kernel.schema import Calibration, EvidenceDistance

NAN = float("nan")
# of a prompt: similarity of its control cells to the query cells, log10 of the cells of its smaller arm, and the share
# of the variance of its response over genes that is not sampling noise
FEATURES = ("similarity", "log10_cells", "reliability")
NAME = "back-tested accuracy"


def prompt_features(prompt: ad.AnnData, control: ad.AnnData | None, query: ad.AnnData) -> tuple[float, float, float]:
    """Measure what the accuracy of a prediction may depend on, without the truth.

    Parameters
    ----------
    prompt, control, query
        Raw counts by role.

    Returns
    -------
    Values of :data:`FEATURES`; NaN where the prompt has no control cells.
    """
    if control is None or not control.n_obs:
        return NAN, NAN, NAN
    both = set(control.var_names) & set(prompt.var_names)
    shared = [name for name in query.var_names if name in both]
    arms = [log_normalise(adata[:, shared].X) for adata in (prompt, control, query)]
    types = control.obs[keys.CELL_TYPE].astype(str).to_numpy()
    own = np.asarray(arms[2].mean(axis=0)).ravel()
    similarity = max(correlate(np.asarray(arms[1][types == one].mean(axis=0)).ravel(), own) for one in np.unique(types))
    effect = measure_effect(summarise_arm(arms[0]), summarise_arm(arms[1]))
    spread = float(effect.delta.var())
    noise = float(np.mean(effect.se[np.isfinite(effect.se)] ** 2)) if np.isfinite(effect.se).any() else math.inf
    reliability = max(0.0, 1 - noise / spread) if spread > 0 else 0.0
    return similarity, math.log10(min(prompt.n_obs, control.n_obs)), reliability


def quote_calibration(
    calibration: Calibration | None,
    *,
    engine: str,
    evidence: Sequence[EvidenceDistance],
    features: Sequence[float],
) -> BackTested | None:
    """Correlation with the truth to be expected of a prediction, and where 80 % of such predictions lie.

    Parameters
    ----------
    calibration
        Of the atlas and engine; None: there is none.
    engine
        What the prediction was made with.
    evidence
        Distances of the prompt's candidates; the nearest one counts.
    features
        From :func:`prompt_features`; a value beyond those that were tested is taken as the nearest that was.

    Returns
    -------
    The figure, or NaN with the reason; None where no back-test of the atlas and engine was made.
    """
    if calibration is None or not evidence:
        return None
    nearest = min(evidence, key=list(EVIDENCE_WORDS).index)
    base = BackTested(atlas=calibration.atlas, engine=engine, evidence=nearest)
    stratum = next((one for one in calibration.strata if one.evidence == nearest), None)
    if stratum is None or stratum.method == "none":
        tested = ", ".join(f"{EVIDENCE_WORDS[one.evidence]} ({one.n_pairs})" for one in calibration.strata)
        why = f"none of its {calibration.n_pairs} pairs was predicted from {EVIDENCE_WORDS[nearest]}; tested: {tested}"
        return base.model_copy(update={"reason": why})
    z, outside = stratum.intercept, []
    bounds = zip(calibration.features, calibration.least, calibration.most, strict=True)
    known = dict(zip(FEATURES, features, strict=True))
    for place, (name, least, most) in enumerate(bounds):
        value = known[name]
        if math.isnan(value):
            continue
        if not least <= value <= most:
            outside.append(name)
        z += calibration.slope[place] * (min(max(value, least), most) - calibration.centre[place])
    return base.model_copy(
        update={
            "n_pairs": stratum.n_pairs,
            "n_perturbations": stratum.n_perturbations,
            "r": math.tanh(z),
            "low": math.tanh(z + stratum.low),
            "high": math.tanh(z + stratum.high),
            "method": stratum.method,
            "is_calibrated": stratum.n_perturbations >= MIN_PERTURBATIONS,
            "n_covered": stratum.n_covered,
            "n_checked": stratum.n_checked,
            "n_sealed": stratum.n_sealed,
            "n_sealed_inside": stratum.n_sealed_inside,
            "n_sealed_checked": stratum.n_sealed_checked,
            "outside": tuple(outside),
        }
    )


def expect_everywhere(calibration: Calibration) -> tuple[BackTested, ...]:
    """What average prompts reach, for each evidence distance that was tested, nearest first."""
    known = dict(zip(calibration.features, calibration.centre, strict=True))
    average = [known.get(name, NAN) for name in FEATURES]
    found = (
        quote_calibration(calibration, engine=calibration.engine, evidence=(one.evidence,), features=average)
        for one in calibration.strata
    )
    return tuple(one for one in found if one is not None)


def back_tested_aspect(found: BackTested | None, *, prompt: str = "a prompt like this one") -> Aspect:
    """The row of the confidence about the back-tested accuracy.

    Parameters
    ----------
    found
        From :func:`quote_calibration`.
    prompt
        Which prompts the figure is of, in words.
    """
    if found is None:
        return Aspect(name=NAME, value=NAN, reason="no back-test of this atlas with this engine was made")
    if not found.is_known:
        return Aspect(name=NAME, value=NAN, reason=f"the back-test of atlas {found.atlas} cannot say: {found.reason}")
    words = (
        f"{_counted(found)} of atlas {found.atlas} were predicted by {found.engine} from "
        f"{EVIDENCE_WORDS[found.evidence]}: {prompt} reaches r = {found.r:.2f} with the measured "
        f"response, 80 % of them {found.low:.2f} to {found.high:.2f}"
    )
    n = found.n_perturbations
    if found.n_checked:
        own = "treatment" if n > 1 else "donors or cell type"
        words += f" (with the own {own} left out {found.n_covered} of {found.n_checked} lay inside)"
    if found.n_sealed_checked:
        told = f"{found.n_sealed_inside} of {found.n_sealed_checked}"
        words += f". Of the sealed ones {told} lay inside the interval that was sealed with them"
    if not found.is_calibrated:
        treatments = "one treatment" if n == 1 else f"{n} treatments"
        words += f". Not calibrated for other treatments: {treatments} tested, {MIN_PERTURBATIONS} are needed"
    if found.outside:
        words += f". Beyond what was tested: {', '.join(found.outside).replace('_', ' ')}"
    return Aspect(name=NAME, value=found.r, words=f"{words}.")


def _counted(found: BackTested) -> str:
    """What the figure rests on: pairs hidden by a back-test, and counted apart what was sealed and measured later."""
    hidden, sealed = found.n_pairs - found.n_sealed, found.n_sealed
    told = [f"{hidden} hidden pairs"] if hidden else []
    if sealed:
        told.append(
            f"{sealed} sealed {'prediction that was' if sealed == 1 else 'predictions that were'} measured later"
        )
    return " and ".join(told)
