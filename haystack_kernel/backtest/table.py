"""The result of a back-test as tables: one row for each pair and engine, and a summary for each evidence distance.

In: what was compared, pair by pair. Out: data frames, and the pairs that a calibration is made from.
"""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.backtest import anchored
from haystack_kernel.backtest.judge import REPLICATE, REPLICATE_CHANGE, REPLICATE_TRUTH, TYPE_MEAN
from haystack_kernel.grounding.confidence.backtested import FEATURES
from haystack_kernel.schema import EVIDENCE_WORDS, CalibrationPair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from haystack_kernel.schema import MeasuredPair

    Floats = NDArray[np.float64]
    Judged = tuple[dict[str, Any], dict[str, Floats]]

NEAR = ("pearson", "clean", "cosine", "rmse", "overlap", "direction")
LEAST_R_RANGE = 0.1  # between the mean response and the highest correlation that can be reached
N_SE = 2.0  # standard errors by which replicate and mean response must differ for a metric to be reported
MEAN = "mean"
TEXTS = (  # columns of the table
    "atlas",
    "dataset",
    "cell_type",
    "perturbation",
    "held",
    "donors",
    "evidence",
    "strategies",
    "engine",
    "reason",
    "model",
)


def tabulate(
    pairs: dict[int, MeasuredPair],
    prepared: dict[int, dict[str, Any]],
    judged: dict[int, Judged],
    *,
    names: dict[int, str],
) -> pd.DataFrame:
    """One row for each pair and engine, also where a prediction is missing.

    Parameters
    ----------
    pairs, prepared, judged
        By number of the pair: what it is, how it was prepared, how near each engine came.
    names
        Known name of each pair's treatment.

    Returns
    -------
    Columns ``pair``, what it is, ``engine``, :data:`NEAR`, the six metrics (``expression_error`` of the pair alone),
    ``highest_r``, features of the prompt, numbers of cells, and ``reason`` where there is no figure.
    """
    rows = []
    groups = _groups(pairs, judged)
    discrimination, errors = _discrimination(pairs, judged, groups), _errors(judged, groups)
    for number, pair in pairs.items():
        facts = prepared.get(number, {"error": "not prepared"})
        head = {
            "pair": number,
            "atlas": pair.atlas,
            "dataset": pair.dataset,
            "cell_type": pair.cell_type,
            "perturbation": names[number],
            "held": pair.held,
            "donors": ", ".join(pair.donors),
            "evidence": facts.get("evidence", ""),
            "strategies": ", ".join(facts.get("strategies", ())),
        }
        sizes = {
            name: facts.get(name, 0) for name in ("n_prompt", "n_control", "n_query", "n_truth", "n_truth_control")
        }
        features = {name: facts.get("features", {}).get(name, np.nan) for name in FEATURES}
        if number not in judged:
            rows.append({**head, "engine": "", **sizes, **features, "reason": facts.get("error", "not compared")})
            continue
        found = judged[number][0]
        for engine, values in found["engines"].items():
            row = {**head, "engine": engine, "reason": values.get("failure", "")}
            row |= {name: values.get(name, np.nan) for name in NEAR}
            if not row["reason"]:
                row |= {name: values[name] for name in anchored.SIX if name in values}
                row["discrimination"] = discrimination.get((number, engine), np.nan)
                row |= {"error": errors[number, engine], "size": values["size"]}
                row["expression_error"] = row["error"] / row["size"] if row["size"] > 0 else np.nan
            row |= {"highest_r": found["highest_r"], "n_changed": found["n_changed"], "model": values.get("model", "")}
            rows.append({**row, **sizes, **features})
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Average the table over the pairs of each evidence distance and engine.

    Parameters
    ----------
    table
        From :func:`tabulate`.

    Returns
    -------
    One row per evidence distance and engine: ``n``, means of :data:`NEAR` and of the six metrics (``expression_error``
    as the ratio of sums), ``anchored_r`` and ``anchored_…`` on the scale from the mean response (0) to a replicate (1),
    and ``not_told``: the metrics that cannot tell these two apart here, whose anchored value is NaN.
    """
    parts = []
    for evidence in EVIDENCE_WORDS:
        some = table[(table["evidence"] == evidence) & (table["engine"] != "")]
        if len(some):
            parts += _summary_of(evidence, some)
    return pd.DataFrame(parts)


def calibration_pairs(table: pd.DataFrame, engine: str) -> tuple[CalibrationPair, ...]:
    """Correlations of one engine with the features of the prompts, in the order of the table."""
    some = table[(table["engine"] == engine) & (table["reason"] == "")]
    part = some["donors"].where(some["held"] == "donor", some["cell_type"])
    return tuple(
        CalibrationPair.model_validate(
            {
                "evidence": row["evidence"],
                "perturbation": row["perturbation"].casefold(),
                "part": own,
                "r": row["pearson"],
                "features": tuple(row[name] for name in FEATURES),
            }
        )
        for row, own in zip(some.to_dict("records"), part, strict=True)
    )


def _groups(pairs: dict[int, MeasuredPair], judged: dict[int, Judged]) -> list[list[int]]:
    """Pairs of one cell type and dataset with the same thing held out, so that all have the same control cells.

    Other donors have other control cells, by which a prediction of no change would find its own truth.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for number in judged:
        pair = pairs[number]
        groups.setdefault((pair.dataset, pair.cell_type, pair.held, pair.donors), []).append(number)
    return list(groups.values())


def _errors(judged: dict[int, Judged], groups: list[list[int]]) -> dict[tuple[int, str], float]:
    """Squared error of each prediction without the noise of its cells, as far as that may be taken off."""
    found: dict[tuple[int, str], float] = {}
    for members in groups:
        for engine in sorted({engine for number in members for engine in judged[number][0]["engines"]}):
            own = [number for number in members if engine in judged[number][1]]
            if not own:
                continue
            six = [_sixfold(judged[number][0]["engines"][engine]) for number in own]
            share = anchored.noise_share(six, [judged[number][1][engine] for number in own])
            found |= {(number, engine): one.error - share * one.own_noise for number, one in zip(own, six, strict=True)}
    return found


def _sixfold(values: dict[str, float]) -> anchored.Sixfold:
    return anchored.Sixfold(**{field.name: values[field.name] for field in fields(anchored.Sixfold)})


def _discrimination(
    pairs: dict[int, MeasuredPair], judged: dict[int, Judged], groups: list[list[int]]
) -> dict[tuple[int, str], float]:
    """Rank of the right treatment among those of the same cell type and dataset, for each pair and engine."""
    found: dict[tuple[int, str], float] = {}
    for members in groups:
        # of a treatment with several hidden groups of donors only the pair's own stands for it
        for number in members:
            own = pairs[number].perturbation
            others: dict[str, int] = {}
            for other in members:
                if pairs[other].perturbation != own:
                    others.setdefault(pairs[other].perturbation, other)
            ranks = _ranks([judged[one][1] for one in (number, *others.values())])
            found |= {(number, engine): ranks[engine] for engine in judged[number][0]["engines"] if engine in ranks}
    return found


def _ranks(compared: list[dict[str, Floats]]) -> dict[str, float]:
    """Rank of the first pair's measurement among those of all pairs, by the changes that each of its profiles shows."""
    own, changes = compared[0], [one["truth"] - one["control"] for one in compared]
    if len({change.size for change in changes}) > 1:
        return {}
    # against the cells that were transformed: the truth's control cells would bring its donors along
    moved = {name: profile - own[keys.QUERY] for name, profile in own.items() if name != REPLICATE}
    ranks = {name: anchored.discriminate(change, changes, own=0) for name, change in moved.items()}
    # a half of the measurement among the other halves: the whole one holds the half, and would be too near
    halves = [one[REPLICATE_TRUTH] for one in compared if REPLICATE_TRUTH in one]
    if REPLICATE_CHANGE in own and len(halves) == len(compared):
        ranks[REPLICATE] = anchored.discriminate(own[REPLICATE_CHANGE], halves, own=0)
    return ranks


def summarise_whole(table: pd.DataFrame) -> pd.DataFrame:
    """The same over all pairs, whatever their evidence distance; see :func:`summarise`."""
    return pd.DataFrame(_summary_of("", table[table["engine"] != ""]))


def _summary_of(evidence: str, some: pd.DataFrame) -> list[dict[str, Any]]:
    good = some[some["reason"] == ""]
    by_engine = {str(engine): rows.set_index("pair") for engine, rows in good.groupby("engine", sort=False)}
    base = by_engine.get(TYPE_MEAN, by_engine.get(MEAN))
    replicate = by_engine.get(REPLICATE)
    told = {name: _tells(name, base, replicate) for name in anchored.SIX}
    rows = []
    for engine, own in by_engine.items():
        row: dict[str, Any] = {"evidence": evidence, "engine": engine, "n": len(own)}
        row |= {name: float(own[name].mean()) for name in NEAR}
        row |= {name: _level(name, own) for name in anchored.SIX}
        row["anchored_r"] = _anchored_r(own, base)
        for name, is_told in told.items():
            row[f"anchored_{name}"] = _anchored(name, own, base, replicate) if is_told else np.nan
        row["not_told"] = ", ".join(name for name, is_told in told.items() if not is_told)
        rows.append(row)
    return rows


def _level(name: str, rows: pd.DataFrame) -> float:
    """Value of a metric over pairs: their mean, or the ratio of sums."""
    if name != "expression_error":
        return float(rows[name].mean())
    size = float(rows["size"].sum())
    return float(rows["error"].sum()) / size if size > 0 else np.nan


def _tells(name: str, base: pd.DataFrame | None, replicate: pd.DataFrame | None) -> bool:
    """Whether replicate and mean response differ by more than two standard errors, the replicate being better."""
    if base is None or replicate is None:
        return False
    column = "error" if name == "expression_error" else name
    if column == "error" and min(base["size"].sum(), replicate["size"].sum()) <= 0:
        return False  # the measured changes are no larger than their noise: there is no share of them to be wrong
    gain = (replicate[column] - base[column]).dropna()
    if len(gain) < 3:
        return False
    if not anchored.HIGHER_IS_BETTER[name]:
        gain = -gain
    return bool(gain.mean() > N_SE * gain.std(ddof=1) / np.sqrt(len(gain)))


def _anchored(name: str, own: pd.DataFrame, base: pd.DataFrame | None, replicate: pd.DataFrame | None) -> float:
    """Place of an engine between the mean response and a replicate, over the pairs that all three have."""
    if base is None or replicate is None:
        return np.nan
    column = "error" if name == "expression_error" else name
    shared = own.index.intersection(base.index).intersection(replicate.index)
    whole = [place for place in shared if not any(np.isnan(one.loc[place, column]) for one in (own, base, replicate))]
    if not whole:
        return np.nan
    value, mean, top = (_level(name, one.loc[whole]) for one in (own, base, replicate))
    found = anchored.anchor(value, mean=mean, replicate=top)
    return max(found, anchored.WORST_ERROR) if name == "fold_change_error" else found


def _anchored_r(own: pd.DataFrame, base: pd.DataFrame | None) -> float:
    """Ratio of summed gains over the mean response: of the engine, and of the highest correlation that is possible."""
    if base is None:
        return np.nan
    joined = own[["pearson", "highest_r"]].join(base["pearson"].rename("base"), how="inner").dropna()
    if joined.empty:
        return np.nan
    reach = float((joined["highest_r"] - joined["base"]).mean())
    return float((joined["pearson"] - joined["base"]).mean()) / reach if reach >= LEAST_R_RANGE else np.nan


def pairs_by_number(pairs: tuple[MeasuredPair, ...]) -> dict[int, MeasuredPair]:
    """Number the pairs of a plan, from 1."""
    return dict(zip(itertools.count(1), pairs, strict=False))
