"""Everything that limits the trust in a prediction, one row each.

In: cells by role, the parts of one scored prediction, how it was made. Out: one ``Confidence``; every aspect is a row,
NaN with a reason where it is not known.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.confidence.backtested import back_tested_aspect, prompt_features, quote_calibration
from haystack_kernel.grounding.confidence.measured import compare_measured
from haystack_kernel.grounding.confidence.trained_on import training_aspect
from haystack_kernel.grounding.confidence.verdict import engine_verdict
from haystack_kernel.grounding.de.profiles import correlate, log_normalise, mean_profile
from haystack_kernel.grounding.de.table import FLIPS
from haystack_kernel.grounding.uncertainty.calls import TRANSFER
from haystack_kernel.grounding.uncertainty.transfer import describe
from haystack_kernel.schema import EVIDENCE_WORDS, STATE_WORDS, Aspect, Confidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.grounding.records import Basis, GroundingCells
    from haystack_kernel.grounding.uncertainty.calls import Uncertain
    from haystack_kernel.schema import Component, Composite, EngineAgreement

NAN = float("nan")
NULLS = Path(__file__).with_name("data") / "null_composites.json"  # by tools/grounding_quality.py and state_quality.py
WEIGHT_CHANGE = 0.5  # each weight is changed by up to this share of itself
N_WEIGHTS = 500
N_LEADING = 50  # genes that stand for a response of which none is called
MIN_DONOR_CELLS = 3
_DISTANCES = tuple(EVIDENCE_WORDS)  # nearest first


def assess_confidence(
    cells: GroundingCells,
    *,
    readings: tuple[pd.DataFrame, pd.DataFrame | None],
    studied: Uncertain | str,
    components: Sequence[Component],
    overall: Composite,
    agreement: Sequence[EngineAgreement],
    basis: Basis,
) -> Confidence:
    """Collect what speaks for and against a prediction.

    Parameters
    ----------
    cells
        Raw counts by role.
    readings
        DE tables of the control reading in force, and of the other one where there is one.
    studied
        What the prompt taught about the error of its effects, or why it taught nothing.
    components, overall, agreement
        The scored components, their composite, and the baselines.
    basis
        Query, settings and how the prediction was made.

    Returns
    -------
    Aspects in display order: control strategy (correlation of the two readings), evidence distance (0 = same pair),
    gene coverage (share), agreement with the most similar baseline (correlation), flipping genes (share of the called),
    gene intervals (share of effects inside their 80 % interval where parts of the prompt were left out), donors (share
    that move the same way), measured responses outside the prompt (correlation with the most similar), null percentile
    (share of null and wrong-prompt runs with a lower composite), weights (range of the composite), back-test
    (correlation to be expected), training data (number of data sets that the weights were trained on).
    """
    de, other = readings
    # Smallest correlation between the responses to any two draws of the prompt; NaN with one.
    arms = [(cells.treated, cells.control_pred), *cells.repeats] if cells.repeats else []
    shifts = [mean_profile(treated) - mean_profile(cells.query if own is None else own) for treated, own in arms]
    pairs = itertools.combinations(shifts, 2)
    between_draws = min((correlate(one, two) for one, two in pairs), default=NAN)
    verdict, words = engine_verdict(
        basis.context.engine, agreement=agreement, own=overall.value, between_draws=between_draws
    )
    strategy, flips = _control_readings(de, other, basis=basis)
    distance, coverage = _provenance(basis)
    baseline, measured = _similar_responses(cells, de=de, agreement=agreement)
    percentile, weights = _of_composite(components, overall=overall, basis=basis)
    aspects = (
        strategy,
        distance,
        coverage,
        baseline,
        flips,
        _intervals(studied, engine=basis.context.engine, used_c=de.attrs.get(TRANSFER)),
        _donors(cells, de=de, basis=basis),
        measured,
        percentile,
        weights,
        _back_tested(cells, basis),
        training_aspect(basis.context.engine, basis.context.citation, basis.context.data_sets),
    )
    return Confidence(aspects=aspects, verdict=verdict, verdict_words=words)


def _back_tested(cells: GroundingCells, basis: Basis) -> Aspect:
    """Accuracy of predictions like this one when what they predict had been measured."""
    context = basis.context
    if context.calibration is None:
        return back_tested_aspect(None)
    found = quote_calibration(
        context.calibration,
        engine=context.engine,
        evidence=context.evidence,
        features=prompt_features(cells.prompt, cells.prompt_control, cells.query),
    )
    return back_tested_aspect(found)


def load_nulls(group: str, *, path: Path = NULLS) -> NDArray[np.float64]:
    """Composites of null and wrong-prompt runs, sorted.

    Parameters
    ----------
    group
        The kind of question: "perturbational", "cell_type_imputation", "donor" or "disease".
    path
        JSON file ``{"<group>": {"null": [...], "wrong_prompt": [...]}}``; the packaged one by default.

    Returns
    -------
    Composites, 1 to 10; empty where they were not measured.
    """
    if not path.exists():
        return np.zeros(0)
    measured = json.loads(path.read_text(encoding="utf-8")).get(group, {})
    return np.sort(np.array([*measured.get("null", []), *measured.get("wrong_prompt", [])], dtype=float))


def _kind_of(basis: Basis) -> str:
    """Kind of the question, whose null runs its score is compared with."""
    if not basis.is_observational:
        return "perturbational"
    if basis.query.compared_disease:
        return "disease"
    return "donor" if basis.query.task_type == "donor_expression_prediction" else "cell_type_imputation"


def percentile_among(value: float, nulls: NDArray[np.float64]) -> float:
    """Share of ``nulls`` below ``value``, 0 to 1; those equal to it count half."""
    return float((nulls < value).mean() + 0.5 * (nulls == value).mean())


# --- one or two aspects each --------------------------------------------------------------------------------------


def _control_readings(de: pd.DataFrame, other: pd.DataFrame | None, *, basis: Basis) -> tuple[Aspect, Aspect]:
    """How far the two control readings agree: the correlation of their effects, and the genes that flip."""
    names, context = ("control strategy", "genes that flip"), basis.context
    note = f" {context.control_note}." if context.control_note else ""
    if other is None:
        why = "only one control reading is available"
        return (
            Aspect(name=names[0], value=NAN, reason=f"{why}.{note}".rstrip(".")),
            Aspect(name=names[1], value=NAN, reason=why),
        )
    tested = (de[keys.IS_TESTED] & other[keys.IS_TESTED]).to_numpy(bool)
    r = correlate(*(table[keys.DELTA].to_numpy(float)[tested] for table in (de, other)))
    n_own, n_other = int(de[keys.IS_DE].sum()), int(other[keys.IS_DE].sum())
    shown = context.control_strategy.replace("_", " ")
    if math.isnan(r):
        strategy = Aspect(name=names[0], value=NAN, reason="one of the two control readings shows no change at all")
    else:
        words = f"{shown}: {n_own} genes called, {n_other} in the other reading; the two correlate at {r:.2f}.{note}"
        strategy = Aspect(name=names[0], value=r, words=words)
    n_called, n_flips = int((de[keys.IS_DE] | other[keys.IS_DE]).sum()), int(de[FLIPS].sum())
    if not n_called:
        return strategy, Aspect(name=names[1], value=NAN, reason="no gene is called in either control reading")
    words = f"{n_flips} of {n_called} genes called in either control reading flip between the two (artefact index)."
    return strategy, Aspect(name=names[1], value=n_flips / n_called, words=words)


def _provenance(basis: Basis) -> tuple[Aspect, Aspect]:
    """How far the prompt is from what was asked, and the share of genes that the engine could predict."""
    found = [_DISTANCES.index(one) for one in basis.context.evidence]
    if found:
        named = STATE_WORDS if basis.is_observational else EVIDENCE_WORDS
        words = "; ".join(named[_DISTANCES[step]] for step in sorted(set(found)))
        sentence = f"Largest distance {max(found)} of {len(_DISTANCES) - 1}. The prompt shows {words}."
        distance = Aspect(name="evidence distance", value=max(found), words=sentence)
    else:
        distance = Aspect(name="evidence distance", value=NAN, reason="where the prompt came from is not recorded")
    share, name = basis.context.frac_genes_found, "gene coverage"
    if math.isnan(share):
        return distance, Aspect(name=name, value=NAN, reason="the engine did not say which genes it could change")
    return distance, Aspect(name=name, value=share, words=f"{share:.0%} of the genes could be predicted at all.")


def _similar_responses(
    cells: GroundingCells, *, de: pd.DataFrame, agreement: Sequence[EngineAgreement]
) -> tuple[Aspect, Aspect]:
    """Agreement with the closest simple baseline, and with responses measured outside the prompt."""
    names = ("agreement with baselines", "other measured responses")
    compared = [item for item in agreement if not math.isnan(item.pearson)]
    if compared:
        closest = max(compared, key=lambda item: item.pearson)
        words = f"The closest simple baseline, {closest.engine}, correlates at {closest.pearson:.2f} over tested genes."
        baseline = Aspect(name=names[0], value=closest.pearson, words=words)
    else:
        baseline = Aspect(name=names[0], value=NAN, reason="no baseline predicts a change to compare with")
    found = [one for one in compare_measured(cells.measured, de=de) if not math.isnan(one.pearson)]
    if not found:
        why = "the atlases hold no response of the same or a related treatment outside the prompt"
        return baseline, Aspect(name=names[1], value=NAN, reason=why)
    listed = "; ".join(f"{one.label}: r = {one.pearson:.2f}" for one in found)
    words = f"Measured, not part of the prompt, not scored: {listed}."
    return baseline, Aspect(name=names[1], value=found[0].pearson, words=words)


def _intervals(studied: Uncertain | str, *, engine: str, used_c: float | None) -> Aspect:
    """Whether the 80 % intervals of the genes held where the prompt itself could be asked."""
    name = "gene intervals"
    if isinstance(studied, str):
        return Aspect(name=name, value=NAN, reason=studied)
    words = describe(studied.transfer, engine=engine, used_c=used_c)
    if math.isnan(studied.transfer.coverage):
        return Aspect(name=name, value=NAN, reason=words.rstrip("."))
    return Aspect(name=name, value=studied.transfer.coverage, words=words)


def _donors(cells: GroundingCells, *, de: pd.DataFrame, basis: Basis) -> Aspect:
    """How many donors of the prompt move as the prediction does, on the genes that stand for its response."""
    name, control = "donors", cells.prompt_control
    if control is None or control.n_obs == 0:
        return Aspect(name=name, value=NAN, reason="the prompt has no matched control cells")
    if basis.query.task_type == "donor_expression_prediction":
        sides = "patients against healthy donors" if basis.query.compared_disease else "one donor against others"
        return Aspect(name=name, value=NAN, reason=f"the prompt shows {sides} by design")
    arms = (cells.prompt, control)
    labels = [adata.obs[keys.DONOR].astype(str) for adata in arms]
    n_cells = labels[0].value_counts().to_frame("treated").join(labels[1].value_counts().rename("control"))
    donors = sorted(n_cells.index[(n_cells >= MIN_DONOR_CELLS).all(axis=1)])
    if not donors:
        reason = f"no donor has {MIN_DONOR_CELLS} treated and {MIN_DONOR_CELLS} control cells in the prompt"
        return Aspect(name=name, value=NAN, reason=reason)
    # The called genes stand for the response, or else the 50 that move most.
    rows = de[de[keys.IS_DE].astype(bool)]
    if rows.empty:
        tested = de[de[keys.IS_TESTED].astype(bool)]
        rows = tested.loc[tested[keys.DELTA].abs().sort_values(ascending=False, kind="stable").index[:N_LEADING]]
    rows = rows.drop_duplicates(keys.GENE)
    signs = pd.Series(np.sign(rows[keys.DELTA].to_numpy(float)), index=rows[keys.GENE])
    genes = signs.index[signs.index.isin(arms[0].var_names) & signs.index.isin(arms[1].var_names)]
    if genes.empty:
        return Aspect(name=name, value=NAN, reason="the prompt measures none of the genes that move")
    sign = signs[genes].to_numpy(float)
    scores = [log_normalise(adata.X)[:, adata.var_names.get_indexer(genes)] @ sign for adata in arms]
    treated, untreated = labels[0].to_numpy(), labels[1].to_numpy()
    n_same = sum(scores[0][treated == d].mean() > scores[1][untreated == d].mean() for d in donors)
    words = f"{n_same} of {len(donors)} donors of the prompt move the same way as the prediction."
    return Aspect(name=name, value=n_same / len(donors), words=words)


def _of_composite(components: Sequence[Component], *, overall: Composite, basis: Basis) -> tuple[Aspect, Aspect]:
    """Where the composite lies among null runs, and how far it depends on the choice of weights.

    The second is the range of the composite (central 95 %) when every weight changes at random by up to half of itself.
    """
    names, unscored = ("null percentile", "choice of weights"), "the prediction was not scored"
    nulls = load_nulls(_kind_of(basis))
    if math.isnan(overall.value) or not nulls.size:
        reason = unscored if nulls.size else "not measured: no table of null runs is packaged"
        percentile = Aspect(name=names[0], value=NAN, reason=reason)
    else:
        below = percentile_among(overall.value, nulls)
        words = f"The score is above {below:.1%} of {nulls.size} null or wrong prompts in simulated worlds."
        percentile = Aspect(name=names[0], value=below, words=words)
    if math.isnan(overall.value):
        return percentile, Aspect(name=names[1], value=NAN, reason=unscored)
    scores = np.array([item.score for item in components])
    weights = np.array([item.weight for item in components])
    rng = np.random.default_rng(basis.context.seed)
    drawn = weights * rng.uniform(1 - WEIGHT_CHANGE, 1 + WEIGHT_CHANGE, size=(N_WEIGHTS, weights.size))
    known = ~np.isnan(scores)
    values = drawn[:, known] @ scores[known] / drawn[:, known].sum(axis=1)
    low, high = (min(float(v), overall.cap) for v in np.quantile(values, [0.025, 0.975]))
    words = f"With weights changed by up to {WEIGHT_CHANGE:.0%} the score lies between {low:.1f} and {high:.1f}."
    return percentile, Aspect(name=names[1], value=high - low, words=words)
