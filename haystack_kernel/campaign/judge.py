"""One question scored: effects with their errors, the nulls, the score, the accuracy to be expected.

In: the files of the question's folder. Out: facts and one value a gene, kept as ``judged.npz``. The functions are those
that score a round of a run.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.atlas import calibrations
from haystack_kernel.campaign.prepare import Prepared, question_tasks, read_prepared
from haystack_kernel.errors import ContractError, HaystackError
from haystack_kernel.grounding import GroundingCells, GroundingContext, score_briefly, score_prediction
from haystack_kernel.grounding.confidence.backtested import prompt_features, quote_calibration
from haystack_kernel.grounding.uncertainty.calls import SQUARE, SQUARE_ERROR
from haystack_kernel.jobs import BASELINE_PREFIX, CONTROL, TREATED
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.rounds.score import model_of, repeats_of
from haystack_kernel.schema import Candidate, StructuredQuery
from haystack_kernel.store import layout
from inference.manifest import ERROR_SUFFIX

if TYPE_CHECKING:
    import anndata as ad

    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.grounding import Grounded
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import BackTested, ModelCard, ScreenPlan

ARRAYS = (keys.EFFECT, keys.EFFECT_SD, keys.PROB_DE, keys.LFSR, keys.LOG2FC)  # one value a gene
N_TOP = 10
COMMON = 0.5  # share of what a prediction leaves unexplained that all genes of the pair have in common
ASSUMED_R, LEAST_R = 0.65, 0.3  # correlation where none can be expected; smaller ones are taken as it


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
    tested = quote_calibration(
        context.calibration,
        engine=context.engine,
        evidence=context.evidence,
        features=prompt_features(grounding_cells.prompt, grounding_cells.prompt_control, grounding_cells.query),
    )
    score = score_prediction if plan.baselines else score_briefly
    grounded = score(
        grounding_cells,
        query=StructuredQuery.model_validate(prepared["query"]),
        knowledge=load_knowledge(ports.settings.knowledge),
        settings=ports.settings.grounding,
        context=context,
    )
    facts = _facts(grounded, tested=tested if tested is not None and tested.is_known else None)
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


def _facts(grounded: Grounded, *, tested: BackTested | None) -> dict[str, Any]:
    """What the table says of the question, JSON only; NaN travels as None."""
    de = grounded.de
    rows = de[de[keys.IS_TESTED]]
    called = rows[rows[keys.IS_DE]].sort_values(keys.EFFECT, ascending=False)
    up, down = called[called[keys.EFFECT] > 0], called[called[keys.EFFECT] < 0]
    expected = _expected(grounded, tested=tested)
    size, size_sd = _size(grounded, expected=expected)
    found = {
        "n_up": len(up),
        "n_down": len(down),
        "n_called": len(called),
        "n_tested": len(rows),
        "size": size,
        "size_sd": size_sd,
        "composite": grounded.composite.value,
        "reason": "" if math.isfinite(grounded.composite.value) else grounded.composite.reason,
        "top_up": list(up[keys.GENE].head(N_TOP)),
        "top_down": list(down[keys.GENE].tail(N_TOP)[::-1]),
        "notes": list(grounded.notes),
        "p_response": grounded.response.p,
        **_nulls(grounded),
        **expected,
    }
    return {name: None if isinstance(one, float) and math.isnan(one) else one for name, one in found.items()}


def response_size(
    square: float, error: float, *, within: float = math.nan, expected_r: float = math.nan
) -> tuple[float, float]:
    """Root mean square of the true effects that can be expected in the cells asked about, and its standard deviation.

    Parameters
    ----------
    square, error
        Mean square over genes of what the prediction shows beyond its noise, and its standard error.
    within
        Correlation with the true response that parts of the prompt let one expect; NaN where there is none.
    expected_r
        The same of the atlas's back-test; NaN takes ``within``.

    Returns
    -------
    A prediction that correlates by r with the truth shows r of its size, since what is particular to the cells asked
    about cannot be predicted: so size = sqrt(square) / r. A part of what is not predicted moves all genes together,
    as in cells that respond half as strongly. Its deviation is COMMON size sqrt(1 - r^2), beside that of the noise.

    Examples
    --------
    >>> size, sd = response_size(0.01, 0.0, within=0.8)
    >>> round(size, 4), round(sd, 4)
    (0.125, 0.0375)
    """
    known = within if math.isfinite(within) else ASSUMED_R
    size = math.sqrt(max(square, 0.0)) / max(known, LEAST_R)
    r = expected_r if math.isfinite(expected_r) else within
    unexplained = 1 - max(r, 0.0) ** 2 if math.isfinite(r) else 1.0
    noise = error / (2 * max(size * known, math.sqrt(error), 1e-12)) / max(known, LEAST_R)
    return size, math.sqrt((COMMON * size) ** 2 * unexplained + noise**2)


def _size(grounded: Grounded, *, expected: dict[str, Any]) -> tuple[float, float]:
    attrs, own = grounded.de.attrs, grounded.confidence.expected
    if SQUARE not in attrs:
        return math.nan, math.nan
    within = math.nan if own is None else own.value
    return response_size(attrs[SQUARE], attrs[SQUARE_ERROR], within=within, expected_r=expected["expected_r"])


def _nulls(grounded: Grounded) -> dict[str, float]:
    """P values of the question as a whole: the components' combined by their weights."""
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


def _expected(grounded: Grounded, *, tested: BackTested | None) -> dict[str, Any]:
    """Correlation with the truth to be expected: by the atlas's back-test, else by parts of the prompt left out."""
    if tested is not None:
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
