"""What a back-test says of later predictions: the expected correlation and the interval that holds 80 % of them.

In: correlations of hidden pairs with features of their prompts. Out: a :class:`Calibration`.

All on z = atanh(r). Per evidence distance z has a mean; features of the prompt move it where there are enough pairs.
Below 20 pairs the interval is that of Student's t for one further value; from 20 it is split-conformal, from residuals
that a fit without the pair's treatment leaves, so that it holds for treatments that were not tested. Where all pairs
have one treatment, those of the same donors or cell type are left out, and nothing is said of other treatments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import beta, t

from haystack_kernel.grounding.confidence.backtested import FEATURES
from haystack_kernel.schema import EVIDENCE_WORDS, Calibration, CalibrationPair, Stratum

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from haystack_kernel.schema import EvidenceDistance, Outcome

    Floats = NDArray[np.float64]

LEVEL = 0.8
MIN_CONFORMAL = 20  # pairs of one evidence distance; with fewer ranks of residuals are too coarse
MIN_FOR_FEATURES = 40  # pairs in all; with fewer the mean of the evidence distance says as much
RIDGE = 10.0  # pull of slopes towards 0, in pairs, for features of unit variance
MAX_FOLDS = 10  # of treatments, each left out of one fit
MOST_R = 0.99  # correlations beyond it are taken as it, or one pair would decide every mean


@dataclass(frozen=True, eq=False)
class CalibrationPairs:
    """Tested pairs of one engine.

    Attributes
    ----------
    r
        Correlation with the measured response.
    evidence
        Evidence distance of each pair's prompt.
    group
        Its treatment, by its known name.
    apart
        What pairs may not share with others on both sides of a fit: their treatment; where all have the same one, the
        donors or the cell type that was held out.
    features
        Pairs x features of the prompt; NaN where unknown.
    names
        Names of the features.
    kept
        The same pairs as the calibration keeps them, so that others can be added; empty: it keeps none.
    """

    r: Floats
    evidence: NDArray[np.str_]
    group: NDArray[np.str_]
    apart: NDArray[np.str_]
    features: Floats
    names: tuple[str, ...]
    kept: tuple[CalibrationPair, ...] = ()

    @classmethod
    def of(cls, pairs: Sequence[CalibrationPair], *, names: tuple[str, ...]) -> CalibrationPairs:
        """The pairs that a calibration keeps."""
        group = np.array([one.perturbation for one in pairs], dtype=str)
        part = np.array([one.part for one in pairs], dtype=str)
        return cls(
            r=np.array([one.r for one in pairs], dtype=float),
            evidence=np.array([one.evidence for one in pairs], dtype=str),
            group=group,
            apart=part if len(set(group.tolist())) == 1 else group,
            features=np.array([one.features for one in pairs], dtype=float).reshape(len(pairs), len(names)),
            names=names,
            kept=tuple(pairs),
        )

    def subset(self, places: NDArray[np.intp]) -> CalibrationPairs:
        """Some of the pairs."""
        return replace(
            self,
            r=self.r[places],
            evidence=self.evidence[places],
            group=self.group[places],
            apart=self.apart[places],
            features=self.features[places],
            kept=tuple(self.kept[place] for place in places) if self.kept else (),
        )


@dataclass(frozen=True, eq=False)
class _Fit:
    """Means by evidence distance at the centre of the features, and slopes."""

    means: dict[str, float]
    centre: Floats
    slope: Floats

    def at(self, evidence: NDArray[np.str_], features: Floats) -> Floats:
        """Expected z; NaN for an evidence distance that was not fitted."""
        level = np.full(len(evidence), np.nan)
        for kind, mean in self.means.items():
            level[evidence == kind] = mean
        return np.asarray(level + np.nan_to_num(features - self.centre) @ self.slope)


def calibrate(
    tested: CalibrationPairs,
    *,
    atlas: str,
    digest: str,
    engine: str,
    backtest: str,
    made_at: datetime,
    model: str = "",
) -> Calibration:
    """Fit the expected correlation and its intervals.

    Parameters
    ----------
    tested
        Pairs of one engine; pairs without a correlation are left out.
    atlas, digest, engine, backtest, made_at, model
        Kept with the calibration, see :class:`Calibration`.

    Returns
    -------
    One stratum per evidence distance that was tested, nearest first.
    """
    known = tested.subset(np.flatnonzero(~np.isnan(tested.r)))
    z = np.arctanh(np.clip(known.r, -MOST_R, MOST_R))
    has_slopes = len(z) >= MIN_FOR_FEATURES
    fit = _fit(known, z, has_slopes=has_slopes)
    left, covered = _left_out(known, z, has_slopes=has_slopes), _covered(known, z, has_slopes=has_slopes)
    strata = []
    for evidence in EVIDENCE_WORDS:
        places = np.flatnonzero(known.evidence == evidence)
        if places.size:
            strata.append(_stratum(evidence, places, known=known, z=z, fit=fit, left=left, covered=covered[places]))
    has_slope = bool(fit.slope.any())
    bounds = (np.nanmin(known.features, axis=0), np.nanmax(known.features, axis=0)) if has_slope else ((), ())
    return Calibration(
        atlas=atlas,
        digest=digest,
        engine=engine,
        model=model,
        backtest=backtest,
        made_at=made_at,
        n_pairs=len(z),
        n_perturbations=len(np.unique(known.group)),
        features=known.names if has_slope else (),
        centre=tuple(fit.centre.tolist()) if has_slope else (),
        slope=tuple(fit.slope.tolist()) if has_slope else (),
        least=tuple(float(one) for one in bounds[0]) if has_slope else (),
        most=tuple(float(one) for one in bounds[1]) if has_slope else (),
        strata=tuple(strata),
        pairs=known.kept,
    )


def calibrate_with(base: Calibration, outcomes: Sequence[Outcome], *, made_at: datetime) -> Calibration:
    """Fit a calibration again, with sealed predictions that were measured since.

    Parameters
    ----------
    base
        The calibration of the atlas and engine, with its pairs; sealed ones among them are taken anew from
        ``outcomes``.
    outcomes
        All outcomes that count for it; see :func:`sealed_pairs`.
    made_at
        Now.

    Returns
    -------
    The calibration of both, which counts the sealed ones apart.
    """
    pairs = (*(one for one in base.pairs if not one.outcome), *sealed_pairs(outcomes))
    return calibrate(
        CalibrationPairs.of(pairs, names=FEATURES),
        atlas=base.atlas,
        digest=base.digest,
        engine=base.engine,
        model=base.model,
        backtest=base.backtest,
        made_at=made_at,
    )


def sealed_pairs(outcomes: Sequence[Outcome]) -> tuple[CalibrationPair, ...]:
    """What counts of outcomes: one pair for each sealed prediction, and for each measurement.

    Measurements of one prediction are averaged on atanh(r), because they do not test another prediction. The same
    measurement held against a prediction that was made again counts once, the first that was sealed.
    """
    seen: set[tuple[str, str, str]] = set()
    own: dict[tuple[str, int], list[Outcome]] = {}
    for one in sorted(outcomes, key=lambda each: (each.sealed_at, each.recorded_at, each.id)):
        what = (one.prediction.perturbation.casefold(), one.prediction.cell_type.casefold(), one.measured)
        if not one.not_counted and what not in seen:
            seen.add(what)
            own.setdefault((one.seal, one.prediction.number), []).append(one)
    return tuple(_pair_of(group) for group in own.values())


def _pair_of(group: list[Outcome]) -> CalibrationPair:
    """One sealed prediction with its measurements."""
    first = group[0].prediction
    r = float(np.tanh(np.mean([np.arctanh(np.clip(one.pearson, -MOST_R, MOST_R)) for one in group])))
    known = first.back_tested
    has_interval = known is not None and not np.isnan([known.low, known.high]).any()
    return CalibrationPair.model_validate(
        {
            "evidence": first.evidence,
            "perturbation": first.perturbation.casefold(),
            "part": first.donor or first.cell_type,
            "r": r,
            "features": tuple(first.features.get(name, np.nan) for name in FEATURES),
            "outcome": group[0].id,
            "inside": known.low <= r <= known.high if known is not None and has_interval else None,
        }
    )


def covered_interval(n_covered: int, n_checked: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval (Clopper and Pearson) of a share, to be printed beside a measured coverage.

    Parameters
    ----------
    n_covered, n_checked
        Pairs inside their interval, and all.
    level
        Confidence of the interval.

    Examples
    --------
    >>> low, high = covered_interval(8, 10)
    >>> round(low, 2), round(high, 2)
    (0.44, 0.97)
    """
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, n_covered, n_checked - n_covered + 1)) if n_covered else 0.0
    high = float(beta.ppf(1 - tail, n_covered + 1, n_checked - n_covered)) if n_covered < n_checked else 1.0
    return low, high


def held_out_coverage(tested: CalibrationPairs) -> tuple[int, int]:
    """Count the pairs inside the interval of a calibration that saw no pair of their treatment.

    Returns
    -------
    Pairs inside, and pairs for which such an interval could be made.
    """
    known = tested.subset(np.flatnonzero(~np.isnan(tested.r)))
    z = np.arctanh(np.clip(known.r, -MOST_R, MOST_R))
    covered = _covered(known, z, has_slopes=len(z) >= MIN_FOR_FEATURES)
    return int(np.nansum(covered)), int((~np.isnan(covered)).sum())


def _fit(known: CalibrationPairs, z: Floats, *, has_slopes: bool) -> _Fit:
    """Least squares with a mean for each evidence distance, and slopes that are drawn towards 0.

    ``has_slopes`` is decided once for all pairs: fits that leave some of them out must be of the same form.
    """
    n_features = known.features.shape[1]
    centre = np.array([np.nanmean(column) if (~np.isnan(column)).any() else 0.0 for column in known.features.T])
    evidence = known.evidence
    kinds = np.unique(evidence).tolist()
    if not has_slopes or not n_features:
        return _Fit({kind: float(z[evidence == kind].mean()) for kind in kinds}, centre, np.zeros(n_features))
    moved = np.nan_to_num(known.features - centre)
    spread = moved.std(axis=0)
    unit = np.divide(moved, spread, out=np.zeros_like(moved), where=spread > 1e-9)
    design = np.column_stack([unit, *(evidence == kind for kind in kinds)]).astype(float)
    pull = np.diag([RIDGE] * n_features + [1e-9] * len(kinds))
    solved = np.linalg.solve(design.T @ design + pull, design.T @ z)
    slope = np.divide(solved[:n_features], spread, out=np.zeros(n_features), where=spread > 1e-9)
    return _Fit(dict(zip(kinds, solved[n_features:].tolist(), strict=True)), centre, slope)


def _folds(known: CalibrationPairs) -> list[NDArray[np.intp]]:
    """Places of the pairs that are left out together: those of one treatment, or of a tenth of many treatments."""
    names, of_pair = np.unique(known.apart, return_inverse=True)
    n = min(len(names), MAX_FOLDS)
    return [np.flatnonzero(of_pair % n == one) for one in range(n)]


def _left_out(known: CalibrationPairs, z: Floats, *, has_slopes: bool) -> Floats:
    """Residual of every pair from a fit without its treatment; NaN where nothing else has its evidence distance."""
    residual = np.full(len(z), np.nan)
    for own in _folds(known):
        rest = np.setdiff1d(np.arange(len(z)), own)
        if rest.size:
            fit = _fit(known.subset(rest), z[rest], has_slopes=has_slopes)
            some = known.subset(own)
            residual[own] = z[own] - fit.at(some.evidence, some.features)
    return residual


def _interval(residuals: Floats, own: Floats) -> tuple[str, float, float]:
    """Method and ends of the 80 % interval around the expectation.

    Parameters
    ----------
    residuals
        Left-out residuals of the evidence distance.
    own
        Residuals of the same pairs from the fit with all of them, for Student's t.
    """
    usable = np.sort(residuals[~np.isnan(residuals)])
    n = len(own)
    if n < 2:
        return "none", np.nan, np.nan
    if len(usable) < MIN_CONFORMAL:
        half = float(t.ppf((1 + LEVEL) / 2, n - 1) * own.std(ddof=1) * np.sqrt(1 + 1 / n))
        return "t", -half, half
    # of count + 1 exchangeable residuals a new one lies between the ranks .1 (count + 1) and .9 (count + 1) in 80 %;
    # ranks are interpolated, since rounding them outwards holds 85 % at 38 pairs
    ranks = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2]) * (len(usable) + 1)
    low, high = np.interp(ranks, np.arange(1, len(usable) + 1), usable)
    return "conformal", float(low), float(high)


def _stratum(
    evidence: EvidenceDistance,
    places: NDArray[np.intp],
    *,
    known: CalibrationPairs,
    z: Floats,
    fit: _Fit,
    left: Floats,
    covered: Floats,
) -> Stratum:
    some = known.subset(places)
    own = z[places] - fit.at(some.evidence, some.features)
    method, low, high = _interval(left[places], own)
    return Stratum.model_validate(
        {
            "evidence": evidence,
            "n_pairs": len(places),
            "n_perturbations": len(np.unique(some.group)),
            "method": method,
            "intercept": fit.means[evidence],
            "low": low,
            "high": high,
            "n_covered": int(np.nansum(covered)),
            "n_checked": int((~np.isnan(covered)).sum()),
            **_sealed(some.kept),
        }
    )


def _sealed(kept: tuple[CalibrationPair, ...]) -> dict[str, int]:
    """Of some pairs, those that were sealed before they were measured, and how their own intervals did."""
    own = [one for one in kept if one.outcome]
    checked = [one.inside for one in own if one.inside is not None]
    return {"n_sealed": len(own), "n_sealed_inside": sum(checked), "n_sealed_checked": len(checked)}


def _covered(known: CalibrationPairs, z: Floats, *, has_slopes: bool) -> Floats:
    """1 where a pair lies inside the interval that the other pairs make, 0 where not; NaN: none was made."""
    inside = np.full(len(z), np.nan)
    for own in _folds(known):
        rest = np.setdiff1d(np.arange(len(z)), own)
        if not rest.size:
            continue
        others = known.subset(rest)
        fit = _fit(others, z[rest], has_slopes=has_slopes)
        left = _left_out(others, z[rest], has_slopes=has_slopes)
        fitted = z[rest] - fit.at(others.evidence, others.features)
        same = {kind: others.evidence == kind for kind in fit.means}
        intervals = {kind: _interval(left[places], fitted[places]) for kind, places in same.items()}
        for place in own:
            kind = str(known.evidence[place])
            method, low, high = intervals.get(kind, ("none", np.nan, np.nan))
            if method == "none":
                continue
            expected = fit.at(known.evidence[[place]], known.features[[place]])[0]
            inside[place] = float(expected + low <= z[place] <= expected + high)
    return inside
