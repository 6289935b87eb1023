"""``engine=auto``: the engine that the back-test of the atlas favours for the evidence that the question has.

In: a run record with its candidates. Out: an :class:`haystack_kernel.schema.EnginePick`.

The rule: over the back-tested pairs of the same evidence distance (other donors, other cell types, other treatments)
the engine with the highest mean z = atanh(r) is taken if it leads the default by more than one standard error, and the
default otherwise. An engine counts from ten pairs. The standard error is that of the default's mean, from the spread of
its pairs; of two back-tests, whose pairs differ, it is that of the difference.
"""

from __future__ import annotations

import hashlib
import math
from importlib import resources
from typing import TYPE_CHECKING

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
    from haystack_kernel.schema import Candidate, EvidenceDistance, RunConfig, RunRecord, Stratum, StructuredQuery

MIN_PAIRS = 10  # of the evidence distance; with fewer a mean of correlations says little
_POOLING = "weighted"  # as back-tests choose the prompt for every engine
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
    found = [
        one
        for name in engine_names(ports.settings)
        if (one := _figure(name, config, inputs, ports, atlas=atlas, evidence=evidence))
    ]
    return decide(found, default=default, atlas=atlas, evidence=evidence)


def decide(figures: list[EngineFigure], *, default: str, atlas: str, evidence: EvidenceDistance) -> EnginePick:
    """Apply the rule to figures of one atlas and evidence distance.

    Parameters
    ----------
    figures
        Of the engines that were back-tested.
    default
        What is taken where none leads clearly.
    atlas, evidence
        What the figures are of.
    """
    words = EVIDENCE_WORDS[evidence]
    base = EnginePick(
        engine=default, default=default, reason="", atlas=atlas, evidence=evidence, figures=tuple(figures)
    )
    usable = [one for one in figures if one.n_pairs >= MIN_PAIRS]
    own = next((one for one in usable if one.engine == default), None)
    if not figures:
        made = f"`haystack backtest {atlas}` makes one"
        why = f"no back-test of atlas {atlas} as it is now has pairs predicted from {words} ({made})"
    elif own is None:
        why = f"the back-test of atlas {atlas} has no {MIN_PAIRS} pairs of engine {default} predicted from {words}"
    else:
        where = f"from {words} in the back-test of atlas {atlas}"
        engine, why = _compare(own, [one for one in usable if one is not own], where=where)
        base = base.model_copy(update={"engine": engine})
    return base.model_copy(update={"reason": why})


def _compare(own: EngineFigure, others: list[EngineFigure], *, where: str) -> tuple[str, str]:
    """The engine that the rule takes, and why."""
    if not others:
        return own.engine, f"no other engine was back-tested so; it is at {own.words} {where}"
    others = sorted(others, key=lambda one: -one.z)
    best = others[0]
    if best.z <= own.z:
        beside = ", ".join(one.words for one in others)
        return own.engine, f"it is the nearest {where}: {own.words}, before {beside}"
    error = own.error if best.backtest == own.backtest else math.hypot(own.error, best.error)
    lead = best.z - own.z
    compared = f"{best.words} against {own.words} {where} (lead {lead:.3f} on atanh(r), standard error {error:.3f})"
    if lead > error:
        return best.engine, compared
    return own.engine, f"{best.engine} does not lead it by more than a standard error: {compared}"


def _nearest(chosen: list[Candidate]) -> EvidenceDistance:
    order = list(EVIDENCE_WORDS)
    return min((one.evidence_distance for one in chosen), key=order.index)


def _figure(
    name: str,
    config: RunConfig,
    inputs: Mapping[str, str],
    ports: Ports,
    *,
    atlas: str,
    evidence: EvidenceDistance,
) -> EngineFigure | None:
    """What the back-test says of an engine that can be used here; None where it says nothing."""
    model = _model_of(name, config, inputs, ports)
    if model is None:
        return None
    settings = ports.settings
    found = calibrations.find(atlas, name, model=model, root=settings.atlas_root, cache=settings.cache)
    stratum = next((one for one in found.strata if one.evidence == evidence), None) if found else None
    if found is None or stratum is None or stratum.method == "none":
        return None
    return EngineFigure(
        engine=name,
        n_pairs=stratum.n_pairs,
        z=stratum.intercept,
        error=standard_error(stratum),
        backtest=found.backtest,
    )


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
