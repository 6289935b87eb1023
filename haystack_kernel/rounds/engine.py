"""``engine=auto``: the engine that the back-test of the atlas favours for the evidence that the question has.

In: a run record with its candidates. Out: an :class:`haystack_kernel.schema.EnginePick`.

The rule: over the back-tested pairs of the same evidence distance (other donors, cell types or treatments) each engine
has a lead over the default, the mean difference of z = atanh(r) on the pairs that both predicted. The engine
with the highest lead above its standard error is taken, and the default where none has one. The error counts
treatments, or donors and cell types where there is one treatment, and grows by Student's t where these are few. Where
the evidence distance has fewer than five pairs, or three treatments, all pairs of the back-test decide. Of two
back-tests, whose pairs differ, the error is that of the difference of means, and ten pairs are needed.
"""

from __future__ import annotations

import hashlib
import math
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from haystack_kernel.atlas import calibrations
from haystack_kernel.config.engines import engine_names
from haystack_kernel.planners.offline.choice import choose_candidates
from haystack_kernel.rounds.record import query_of
from haystack_kernel.schema import EVIDENCE_WORDS, OWN_ATLAS, EngineFigure, EnginePick
from inference.installed import installed_engines
from inference.manifest import DEMO_MODEL, MODEL_ENGINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import (
        Calibration,
        Candidate,
        EvidenceDistance,
        RunConfig,
        RunRecord,
        Stratum,
        StructuredQuery,
    )

MIN_PAIRS = 5  # that both engines predicted; with fewer a mean of differences says little
MIN_GROUPS = 3  # treatments, or donors and cell types of one treatment: fewer have no spread to speak of
MIN_UNPAIRED = 10  # of each engine, where means over different pairs are compared
_POOLING = "weighted"  # as back-tests choose the prompt for every engine
MOST_R = 0.99  # as calibrations take correlations
_LEVEL = 0.8  # of the interval that a stratum holds


def pick_engine(record: RunRecord, ports: Ports) -> EnginePick:
    """Choose the engine of a run that asked for ``auto``; its default where no back-test decides.

    Parameters
    ----------
    record
        With its candidates.
    ports
        Where the atlases and their calibrations are.
    """
    return pick_engine_for(query_of(record), record.candidates, config=record.config, inputs=record.inputs, ports=ports)


def pick_engine_for(
    query: StructuredQuery,
    candidates: Sequence[Candidate],
    *,
    config: RunConfig,
    inputs: Mapping[str, str],
    ports: Ports,
) -> EnginePick:
    """Choose as :func:`pick_engine` does, for a query that belongs to no run.

    Parameters
    ----------
    query, candidates
        What is asked, and what the search found for it.
    config
        Its default is taken where no back-test decides.
    inputs
        Digests of the files that the options name.
    ports
        Where the atlases and their calibrations are.
    """
    default = config.engine_default or config.engine
    if query.perturbation is None:
        return EnginePick(engine=default, default=default, reason="back-tests are of treatments, and none is asked for")
    choice = choose_candidates(query, candidates, [], config=config.model_copy(update={"engine": _POOLING}))
    if choice is None:
        return EnginePick(engine=default, default=default, reason="the search found no candidate")
    chosen = [one for one in candidates if one.key in choice.candidate_keys]
    atlas, evidence = chosen[0].prompt.atlas, _nearest(chosen)
    if atlas == OWN_ATLAS:
        return EnginePick(
            engine=default, default=default, reason="the prompt cells are your own, which no back-test knows"
        )
    found = _calibrations(config, inputs, ports, atlas=atlas)
    return decide(compare(found, default=default, evidence=evidence), default=default, atlas=atlas, evidence=evidence)


def compare(
    calibrations_of: Mapping[str, Calibration], *, default: str, evidence: EvidenceDistance
) -> list[EngineFigure]:
    """How near each engine came on pairs of an evidence distance, and its lead over the default on the same pairs.

    Parameters
    ----------
    calibrations_of
        Engine -> what the back-test of the atlas says of it.
    default
        The engine that the others are compared with.
    evidence
        How far the evidence of the question lies from it; where the default has too few pairs of it, all pairs count.

    Returns
    -------
    Of each engine with at least two such pairs; ``lead`` is NaN where it shares too few with the default.
    """
    own = calibrations_of.get(default)
    base = _z_of(own) if own is not None else pd.Series(dtype=float)
    only = _of_evidence(base, evidence)
    has_few = _is_enough(base) and not _is_enough(only)
    found = []
    for name, one in calibrations_of.items():
        z = _z_of(one)
        same = z if has_few else _of_evidence(z, evidence)
        figure = _figure_of(one, same, is_of_all=has_few) if len(same) > 1 else _stated_figure(one, evidence)
        if figure is None:
            continue
        if own is not None and name != default and one.backtest == own.backtest:
            figure = figure.model_copy(update=_lead(z, base if has_few else only))
        found.append(figure)
    return found


def _figure_of(one: Calibration, z: pd.Series, *, is_of_all: bool) -> EngineFigure:
    """How near an engine came on some pairs, at least two."""
    error = float(z.std()) / math.sqrt(len(z))
    return EngineFigure(
        engine=one.engine, n_pairs=len(z), z=float(z.mean()), error=error, backtest=one.backtest, is_of_all=is_of_all
    )


def _stated_figure(one: Calibration, evidence: EvidenceDistance) -> EngineFigure | None:
    """The same of a calibration that did not keep its pairs, from what it says of them; None of fewer than two."""
    stratum = next((each for each in one.strata if each.evidence == evidence), None)
    if stratum is None or stratum.method == "none":
        return None
    error = standard_error(stratum)
    return EngineFigure(
        engine=one.engine, n_pairs=stratum.n_pairs, z=stratum.intercept, error=error, backtest=one.backtest
    )


def _of_evidence(z: pd.Series, evidence: EvidenceDistance) -> pd.Series:
    return z[[kind == evidence for kind in _level(z, "evidence")]]


def _level(z: pd.Series, name: str) -> list[str]:
    return list(z.index.get_level_values(name)) if len(z) else []


def _z_of(one: Calibration) -> pd.Series:
    """atanh(r) of each pair that a calibration was made from; the index tells pairs apart, and their group."""
    pairs = [each for each in one.pairs if not each.outcome and not math.isnan(each.r)]
    has_one = len({each.perturbation for each in pairs}) < 2
    rows = [
        (each.evidence, each.part if has_one else each.perturbation, each.perturbation, each.part) for each in pairs
    ]
    names = ["evidence", "group", "perturbation", "part"]
    table = pd.DataFrame(rows, columns=names)
    table["number"] = table.groupby(names).cumcount()  # of one treatment in the same donors: their cell types, in order
    z = np.arctanh(np.clip([each.r for each in pairs], -MOST_R, MOST_R))
    return pd.Series(z, index=pd.MultiIndex.from_frame(table), dtype=float)


def _is_enough(z: pd.Series) -> bool:
    return len(z) >= MIN_PAIRS and len(set(_level(z, "group"))) >= MIN_GROUPS


def _lead(z: pd.Series, base: pd.Series) -> dict[str, float]:
    """Mean difference on the pairs of both, its standard error over groups, and how many of these it must exceed."""
    shared = (z - base).dropna()
    if not _is_enough(shared):
        return {}
    lead = float(shared.mean())
    off = (shared - lead).groupby(level="group").sum()
    n = len(off)
    error = math.sqrt(n / (n - 1) * float((off**2).sum())) / len(shared)
    return {"lead": lead, "lead_error": error, "needed": float(t.ppf(norm.cdf(1.0), n - 1))}


def decide(figures: list[EngineFigure], *, default: str, atlas: str, evidence: EvidenceDistance) -> EnginePick:
    """Apply the rule to figures of one atlas and evidence distance.

    Parameters
    ----------
    figures
        Of the engines that were back-tested, see :func:`compare`.
    default
        What is taken where none leads clearly.
    atlas, evidence
        What the figures are of.
    """
    words = EVIDENCE_WORDS[evidence]
    base = EnginePick(
        engine=default, default=default, reason="", atlas=atlas, evidence=evidence, figures=tuple(figures)
    )
    own = next((one for one in figures if one.engine == default), None)
    where = f"from {words} in the back-test of atlas {atlas}"
    if own is not None and own.is_of_all:
        where = f"over all pairs of the back-test of atlas {atlas}, which has too few predicted from {words}"
    if not figures:
        made = f"`haystack backtest {atlas}` makes one"
        why = f"no back-test of atlas {atlas} as it is now has pairs predicted from {words} ({made})"
    elif own is None or own.n_pairs < MIN_PAIRS:
        why = f"the back-test of atlas {atlas} has no {MIN_PAIRS} pairs of engine {default} predicted from {words}"
    else:
        engine, why = _best(own, [one for one in figures if one is not own and _can_lead(own, one)], where=where)
        base = base.model_copy(update={"engine": engine})
    return base.model_copy(update={"reason": why})


def _can_lead(own: EngineFigure, one: EngineFigure) -> bool:
    """Whether an engine can be compared with the default: on the same pairs, or by means of many different ones."""
    return not math.isnan(one.lead) or min(own.n_pairs, one.n_pairs) >= MIN_UNPAIRED


def _lead_of(own: EngineFigure, one: EngineFigure) -> tuple[float, float, float]:
    """Lead over the default, its standard error, and how many of these it must exceed."""
    if not math.isnan(one.lead):
        return one.lead, one.lead_error, one.needed
    return one.z - own.z, own.error if one.backtest == own.backtest else math.hypot(own.error, one.error), 1.0


def _best(own: EngineFigure, others: list[EngineFigure], *, where: str) -> tuple[str, str]:
    """The engine that the rule takes, and why."""
    if not others:
        return own.engine, f"no other engine was back-tested so; it is at {own.words} {where}"
    others = sorted(others, key=lambda one: -_lead_of(own, one)[0])
    clear = [one for one in others if (found := _lead_of(own, one))[0] > found[1] * found[2]]
    best = clear[0] if clear else others[0]
    lead, error, needed = _lead_of(own, best)
    if lead <= 0:
        beside = ", ".join(one.words for one in sorted(others, key=lambda one: -one.z))
        return own.engine, f"it is the nearest {where}: {own.words}, before {beside}"
    compared = f"{best.words} against {own.words} {where} (lead {lead:.3f} on atanh(r), standard error {error:.3f})"
    if clear:
        return best.engine, compared
    least = "a standard error" if needed < 1.05 else f"{needed:.1f} standard errors, as so few pairs need"
    return own.engine, f"{best.engine} does not lead it by more than {least}: {compared}"


def _nearest(chosen: list[Candidate]) -> EvidenceDistance:
    order = list(EVIDENCE_WORDS)
    return min((one.evidence_distance for one in chosen), key=order.index)


def _calibrations(config: RunConfig, inputs: Mapping[str, str], ports: Ports, *, atlas: str) -> dict[str, Calibration]:
    """What the back-test says of the engines that can be used here."""
    settings, found = ports.settings, {}
    for name in engine_names(settings):
        model = _model_of(name, config, inputs, ports)
        if model is None:
            continue
        one = calibrations.find(atlas, name, model=model, root=settings.atlas_root, cache=settings.cache)
        if one is not None:
            found[name] = one
    return found


def standard_error(stratum: Stratum) -> float:
    """Standard error of a stratum's mean z, from the 80 % interval of one further pair.

    Parameters
    ----------
    stratum
        Of at least two pairs.
    """
    half, n = (stratum.high - stratum.low) / 2, stratum.n_pairs
    if stratum.method == "t":
        return float(half / (t.ppf((1 + _LEVEL) / 2, n - 1) * math.sqrt(1 + 1 / n) * math.sqrt(n)))
    return float(half / (norm.ppf((1 + _LEVEL) / 2) * math.sqrt(n)))


def _model_of(name: str, config: RunConfig, inputs: Mapping[str, str], ports: Ports) -> str | None:
    """Digest by which the calibration of an engine is found, "" for none; None where the engine cannot be used."""
    if name == MODEL_ENGINE:
        if config.model == DEMO_MODEL:
            data = resources.files("inference.models").joinpath("demo.safetensors").read_bytes()
            return hashlib.sha256(data).hexdigest()
        known = inputs.get("model", "")
        return known if known and " " not in known else None
    installed = installed_engines().get(name)
    if installed is not None:
        is_there = (
            config.executor == "local" or ports.settings.batch.insecure or name in ports.settings.batch.engine_images
        )
        return installed.digest if is_there else None
    return None if name in ports.settings.batch.engine_images else ""
