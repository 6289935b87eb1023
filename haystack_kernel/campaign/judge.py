"""One question scored: effects with their errors, the nulls, the score, the accuracy to be expected.

In: the files of the question's folder. Out: facts and one value a gene, kept as ``judged.npz``. The functions are those
that score a round of a run.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel import keys
from haystack_kernel.atlas import calibrations
from haystack_kernel.campaign.prepare import Prepared, question_tasks, read_prepared
from haystack_kernel.errors import ContractError, HaystackError
from haystack_kernel.grounding import GroundingCells, GroundingContext, score_prediction
from haystack_kernel.grounding.confidence.backtested import prompt_features, quote_calibration
from haystack_kernel.jobs import BASELINE_PREFIX, CONTROL, TREATED
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.rounds.score import model_of, repeats_of
from haystack_kernel.schema import Candidate, StructuredQuery
from haystack_kernel.store import layout
from inference.manifest import ERROR_SUFFIX

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.grounding import Grounded
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import ModelCard, ScreenPlan

ARRAYS = (keys.EFFECT, keys.EFFECT_SD, keys.PROB_DE, keys.LFSR, keys.LOG2FC)  # one value a gene
N_TOP = 10


def judge_question(number: int, plan: ScreenPlan, *, ports: Ports, folder: CampaignFolder) -> None:
    """Score the prediction of a question, unless that is done."""
    place = layout.question_folder(number)
    path = f"{place}/{layout.JUDGED}"
    prepared = read_prepared(number, folder=folder)
    if prepared is None or "error" in prepared or layout.JUDGED in folder.names(place):
        return
    try:
        facts, arrays = _judge(number, plan, prepared, ports=ports, folder=folder)
    except HaystackError as error:
        facts, arrays = {"failure": str(error)}, {}
    folder.write_arrays(path, facts, arrays)


def _judge(
    number: int, plan: ScreenPlan, prepared: Prepared, *, ports: Ports, folder: CampaignFolder
) -> tuple[dict[str, Any], dict[str, Any]]:
    place = layout.question_folder(number)
    outputs = {}
    for task in question_tasks(number, plan, prepared, folder=folder):
        name = task.id.partition("-")[2]
        found = folder.read_cells(layout.output_file(place, name))
        if found is not None:
            outputs[name] = found
        elif name in (TREATED, CONTROL):
            return {"failure": _why_missing(place, name, folder)}, {}
    grounding_cells = _cells(place, outputs, folder=folder)
    card = model_of(outputs[TREATED])
    context = _context(plan, prepared, card=card, ports=ports)
    grounded = score_prediction(
        grounding_cells,
        query=StructuredQuery.model_validate(prepared["query"]),
        knowledge=load_knowledge(ports.settings.knowledge),
        settings=ports.settings.grounding,
        context=context,
    )
    facts = _facts(grounded, context=context, cells=grounding_cells)
    facts["model"] = None if card is None else card.model_dump(mode="json")
    de = grounded.de
    facts["genes"] = list(de[keys.GENE])
    return facts, {name: de[name].to_numpy(float) for name in ARRAYS if name in de}


def _cells(place: str, outputs: dict[str, ad.AnnData], *, folder: CampaignFolder) -> GroundingCells:
    """Cells by role and predictions, as a round of a run has them."""
    labels = (keys.DONOR, keys.CELL_TYPE, keys.DATASET)
    cells = {role: folder.read_cells(layout.cells_file(place, role), labels) for role in layout.ROLES}
    prompt, query_cells = cells[keys.PROMPT], cells[keys.QUERY]
    if prompt is None or query_cells is None:
        msg = f"cells of a question are gone from {folder.uri(place)}; remove that folder and repeat the screen"
        raise ContractError(msg, path=place)
    return GroundingCells(
        treated=outputs[TREATED],
        control_pred=outputs.get(CONTROL),
        query=query_cells,
        prompt=prompt,
        prompt_control=cells[keys.CONTROL],
        baselines={n.removeprefix(BASELINE_PREFIX): a for n, a in outputs.items() if n.startswith(BASELINE_PREFIX)},
        repeats=repeats_of(outputs),
    )


def _context(plan: ScreenPlan, prepared: Prepared, *, card: ModelCard | None, ports: Ports) -> GroundingContext:
    """How the prediction was made, as a run's context says it."""
    chosen = [
        candidate
        for one in prepared["candidates"]
        if (candidate := Candidate.model_validate(one)).key in set(prepared["chosen"])
    ]
    atlas = chosen[0].prompt.atlas
    found = calibrations.find(
        atlas,
        prepared["engine"],
        model=card.sha256 if card else "",
        root=ports.settings.atlas_root,
        cache=ports.settings.cache,
    )
    return GroundingContext(
        seed=plan.config.seed,
        donor_matched=prepared["donor_matched"],
        control_strategy=prepared["control_strategy"],
        control_note=prepared["control_note"],
        engine=prepared["engine"],
        evidence=tuple(dict.fromkeys(one.evidence_distance for one in chosen)),
        calibration=found,
        citation=card.citation if card else "",
        data_sets=tuple(sorted({f"{one.prompt.atlas}/{one.prompt.dataset}" for one in chosen})),
    )


def _facts(grounded: Grounded, *, context: GroundingContext, cells: GroundingCells) -> dict[str, Any]:
    """What the table says of the question, JSON only; NaN travels as None."""
    de = grounded.de
    tested = de[de[keys.IS_TESTED]]
    called = tested[tested[keys.IS_DE]].sort_values(keys.EFFECT, ascending=False)
    up, down = called[called[keys.EFFECT] > 0], called[called[keys.EFFECT] < 0]
    size, size_sd = _size(tested)
    found = {
        "n_up": len(up),
        "n_down": len(down),
        "n_called": len(called),
        "n_tested": len(tested),
        "size": size,
        "size_sd": size_sd,
        "composite": grounded.composite.value,
        "reason": "" if math.isfinite(grounded.composite.value) else grounded.composite.reason,
        "top_up": list(up[keys.GENE].head(N_TOP)),
        "top_down": list(down[keys.GENE].tail(N_TOP)[::-1]),
        "notes": list(grounded.notes),
        **_nulls(grounded),
        **_expected(grounded, context=context, cells=cells),
    }
    return {name: None if isinstance(one, float) and math.isnan(one) else one for name, one in found.items()}


def _size(tested: pd.DataFrame) -> tuple[float, float]:
    """Root mean square of the expected true effects over the tested genes, and its standard deviation.

    The deviation takes the errors of genes as independent: sqrt(sum e^2 s^2) / (n size).
    """
    effect, sd = (tested[name].to_numpy(float) for name in (keys.EFFECT, keys.EFFECT_SD))
    known = ~np.isnan(effect) & ~np.isnan(sd)
    if not known.any():
        return float("nan"), float("nan")
    effect, sd = effect[known], sd[known]
    size = float(np.sqrt(np.mean(effect**2)))
    if size == 0:
        return 0.0, float(np.sqrt(np.mean(sd**2) / len(sd)))
    return size, float(np.sqrt(np.sum(effect**2 * sd**2)) / (len(effect) * size))


def _nulls(grounded: Grounded) -> dict[str, float]:
    """P values of the question as a whole: over donors of all genes, the others of the components by their weights."""
    return {
        name: combine_p(
            [getattr(one, name) for one in grounded.components], [one.weight for one in grounded.components]
        )
        for name in ("p_signal", "p_donors", "p_specificity")
    }


def combine_p(p: list[float], weights: list[float]) -> float:
    """Combine p values that may depend on each other: Cauchy's combination; NaN where none is known.

    Parameters
    ----------
    p, weights
        Of each test; NaN is left out.

    References
    ----------
    Liu and Xie, J Am Stat Assoc 115:393 (2020).

    Examples
    --------
    >>> round(combine_p([0.01, 0.01], [1, 1]), 4)
    0.01
    """
    known = [(one, weight) for one, weight in zip(p, weights, strict=True) if not math.isnan(one) and weight > 0]
    if not known:
        return float("nan")
    total = sum(weight for _, weight in known)
    statistic = sum(weight / total * math.tan((0.5 - min(one, 1 - 1e-9)) * math.pi) for one, weight in known)
    return 0.5 - math.atan(statistic) / math.pi


def _expected(grounded: Grounded, *, context: GroundingContext, cells: GroundingCells) -> dict[str, Any]:
    """Correlation with the truth to be expected: by the atlas's back-test, else by parts of the prompt left out."""
    features = prompt_features(cells.prompt, cells.prompt_control, cells.query)
    tested = quote_calibration(context.calibration, engine=context.engine, evidence=context.evidence, features=features)
    if tested is not None and tested.is_known:
        return {
            "expected_r": tested.r,
            "expected_low": tested.low,
            "expected_high": tested.high,
            "calibrated": tested.is_calibrated,
        }
    own = grounded.confidence.expected
    nan = float("nan")
    values = (nan, nan, nan) if own is None else (own.value, own.low, own.high)
    return dict(zip(("expected_r", "expected_low", "expected_high"), values, strict=True)) | {"calibrated": False}


def _why_missing(place: str, name: str, folder: CampaignFolder) -> str:
    data = folder.read(layout.output_file(place, name) + ERROR_SUFFIX)
    return str(json.loads(data)["message"]) if data is not None else "it was not predicted"
