"""Which questions of a campaign are findings: false discovery control over all of them, within families, and bins.

In: the table of a campaign, one row a question. Out: the table in order, with ``p``, ``q``, ``bin`` and ``why``;
families with the questions found in them.

Of two questions about a treatment, ``response`` asks whether it does anything: donors then share a change, over all
genes and whatever is known of the treatment (``p_response``). ``expected`` asks whether it does what is known of it: a
row's ``p`` is then the largest of three tests, so that a finding has passed each of them: the expected genes move
(``p_signal``), more than donors differ (``p_donors``), and more than other genes (``p_specificity``). Both are tests of
the cells that show the treatment; where other cell types show it, ``n_called`` and the expected accuracy say what that
means for the cells asked about. Where nothing of the treatment itself was measured, its p values would be those of
another treatment, so it is not tested. Questions share control cells and prompts. Such p values rise and fall together,
which the procedure of Benjamini and Hochberg allows (positive regression dependence).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.grounding.distributions import adjust
from haystack_kernel.grounding.nulls.donors import MIN_DONORS
from haystack_kernel.schema.base import MEASURED_EVIDENCE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

LEVEL = 0.1  # expected share of false rows among the findings
TESTS: dict[str, tuple[str, ...]] = {  # what is tested -> its p values; the first is needed
    "response": ("p_response",),
    "expected": ("p_signal", "p_donors", "p_specificity"),
    "toward": ("p_toward",),
}
PREDICTED, WAITING = "predicted", "waiting"  # status of a question that has an answer, or will have one
GROUNDED, OPEN, UNSUPPORTED = "grounded", "open", "unsupported"
BIN_RULES = {  # bin -> its rule, as it is printed
    GROUNDED: "all three hold: it is found at the stated false discovery rate, in cells of the treatment itself and "
    "over donors; at least one gene is called; the 80 % interval of the expected accuracy lies above 0",
    OPEN: "one or two of the three hold; the column why names those that do not",
    UNSUPPORTED: "none of the three holds, or nothing could be predicted",
}


def combined_p(table: pd.DataFrame, *, test: str = "response") -> NDArray[np.float64]:
    """Return the p value of each question: the largest of its tests.

    Parameters
    ----------
    table
        One row a question, with the columns of :data:`TESTS`.
    test
        ``response``: the treatment does something to the cells. ``expected``: it does what is known of it. ``toward``:
        it moves them toward a state.

    Returns
    -------
    In the order of the table. NaN where the question has no prediction, its first test could not be made, or (all but
    ``toward``) only other treatments were measured; another test that could not be made (donors, of fewer than
    three) is left out of the largest.

    Raises
    ------
    MissingKeyError
        A column is missing.
    InvalidInputError
        The test is none of :data:`TESTS`, or a p value lies outside [0, 1].
    """
    if test not in TESTS:
        msg = f"test is {test!r}; possible: {', '.join(TESTS)}"
        raise InvalidInputError(msg, given=test)
    columns = TESTS[test]
    if absent := [name for name in ("status", "evidence", *columns) if name not in table.columns]:
        msg = f"the table has no column {absent[0]!r}; it has {', '.join(map(str, table.columns))}"
        raise MissingKeyError(msg, absent=absent)
    values = table[list(columns)].to_numpy(float)
    if bool(((values < 0) | (values > 1)).any()):
        msg = f"a p value of the table lies outside [0, 1]; the columns {', '.join(columns)} hold p values"
        raise InvalidInputError(msg)
    can = (table["status"] == PREDICTED).to_numpy(bool) & ~np.isnan(values[:, 0])
    if test != "toward":
        can &= _is_own(table["evidence"])
    found = np.full(len(table), np.nan)
    if can.any():
        found[can] = np.nanmax(values[can], axis=1)
    return found


def control_false(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest false discovery rate at which each question would be found; NaN stays NaN and is not counted.

    Examples
    --------
    >>> control_false(np.array([0.01, float("nan"), 0.04])).tolist()
    [0.02, nan, 0.04]
    """
    found = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        found[known] = adjust(p[known])
    return found


def rank_questions(table: pd.DataFrame, *, level: float = LEVEL, test: str = "response") -> pd.DataFrame:
    """Order the questions of a campaign, and say which are findings.

    Parameters
    ----------
    table
        One row a question: ``number``, ``status``, the p values of :data:`TESTS`, ``n_called``, ``expected_low``,
        ``composite`` and ``size``; for the test ``toward`` also ``toward``.
    level
        Expected share of false rows among the findings, in (0, 1).
    test
        As in :func:`combined_p`.

    Returns
    -------
    All rows and columns, the smallest ``q`` first (ties: the larger composite, then the larger effect), questions
    without one last, and five columns more: ``rank`` from 1 (0: not tested), ``p``, ``q`` (NaN: not tested), ``bin``
    (empty: not predicted yet) and ``why``, what keeps the row from the bin ``grounded``.

    Examples
    --------
    >>> ranked = rank_questions(screen.table)  # doctest: +SKIP
    >>> ranked.loc[ranked["q"] <= 0.1, ["perturbation", "cell_type", "q"]]  # doctest: +SKIP

    References
    ----------
    Benjamini and Hochberg, J R Stat Soc B 57:289 (1995); Benjamini and Yekutieli, Ann Stat 29:1165 (2001), for tests
    that depend on each other.
    """
    check_level(level)
    p = combined_p(table, test=test)
    ranked = table.assign(p=p, q=control_false(p))
    ranked["bin"], ranked["why"] = _bins(ranked, level=level, test=test)
    size = ranked["toward"] if test == "toward" else ranked["size"]
    order = ranked.assign(_size=-size, _composite=-ranked["composite"])
    keys_ = ["q", "p", "_composite", "_size", "number"]
    ranked = ranked.loc[order.sort_values(keys_, kind="stable", na_position="last").index]
    tested = ranked["q"].notna().to_numpy()
    ranked.insert(0, "rank", np.where(tested, np.cumsum(tested), 0))
    return ranked


def words_of(ranked: pd.DataFrame, *, level: float = LEVEL) -> str:
    """Say how many questions are found, and how many of these are expected to be false.

    Parameters
    ----------
    ranked
        From :func:`rank_questions`.
    level
        False discovery rate of the findings.

    Returns
    -------
    One sentence without its stop.
    """
    n_tested, n_found = int(ranked["q"].notna().sum()), int((ranked["q"] <= level).sum())
    if not n_tested:
        why = ranked.loc[ranked["status"] == PREDICTED, "why"].str.partition("; ")[0].mode()
        return f"no question could be tested{': ' + why[0].removeprefix('not tested: ') if len(why) else ''}"
    said = f"{n_found} of {n_tested} tested questions, at a false discovery rate of {level:.0%}"
    return f"{said}: about {level * n_found:.1f} of them are expected to be false" if n_found else said


def check_level(level: float) -> None:
    """Raise InvalidInputError unless ``level`` is a share between 0 and 1."""
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        msg = f"level is {level!r}; it is the expected share of false rows among the findings, such as 0.1"
        raise InvalidInputError(msg, given=level)


def find_in_families(
    ranked: pd.DataFrame,
    by: str | Mapping[str, Collection[str]],
    *,
    level: float = LEVEL,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find families of questions first, and questions within those that were found.

    The expected share of false rows, averaged over the families that are found, stays at ``level``. A list over all
    questions does not promise that: its false rows may gather in one family.

    Parameters
    ----------
    ranked
        From :func:`rank_questions`.
    by
        A column, such as ``cell_type`` or ``perturbation``; or name of a family -> its perturbations, which may be in
        several families.
    level
        Expected share of false rows.

    Returns
    -------
    families
        One row a family, the smallest ``q`` first: ``family``, ``n`` (tested questions), ``p`` (Simes: whether any of
        them is a finding), ``q``, ``is_found``, ``n_found``. A family without a tested question has NaN.
    members
        One row for each question of a family: ``family``, ``number``, ``p``, ``q`` (within the family, raised by the
        number of families over that of the found ones; NaN where the family is not found), ``is_found``.

    Raises
    ------
    InvalidInputError
        There is no such column.

    Examples
    --------
    >>> families, members = find_in_families(ranked, "cell_type")  # doctest: +SKIP

    References
    ----------
    Benjamini and Bogomolov, J R Stat Soc B 76:297 (2014); Simes, Biometrika 73:751 (1986).
    """
    check_level(level)
    members = _members(ranked, by)
    inside = members.groupby("family", sort=False)["p"].transform(lambda p: control_false(p.to_numpy(float)))
    families = (
        members.assign(inside=inside)
        .groupby("family", sort=False)
        .agg(n=("p", "count"), p=("inside", "min"))  # the smallest adjusted p value is Simes' test
        .reset_index()
    )
    families["q"] = control_false(families["p"].to_numpy(float))
    families["is_found"] = families["q"] <= level
    n_tested, n_found = int(families["p"].notna().sum()), int(families["is_found"].sum())
    chosen = members["family"].isin(families.loc[families["is_found"], "family"])
    raised = np.minimum(inside * n_tested / max(n_found, 1), 1.0)
    members["q"] = np.where(chosen, raised, np.nan)
    members["is_found"] = members["q"] <= level
    counts = members.groupby("family", sort=False)["is_found"].sum()
    families["n_found"] = families["family"].map(counts).astype(int)
    families = families.sort_values(["q", "p", "family"], kind="stable", na_position="last").reset_index(drop=True)
    return families, members.reset_index(drop=True)


def _members(ranked: pd.DataFrame, by: str | Mapping[str, Collection[str]]) -> pd.DataFrame:
    columns = ["number", "p"]
    if isinstance(by, str):
        if by not in ranked.columns:
            msg = f"the table has no column {by!r} to make families of; possible: {', '.join(ranked.columns)}"
            raise InvalidInputError(msg, given=by)
        named = ranked[[by, *columns]].rename(columns={by: "family"})
        return named.assign(family=named["family"].astype(str))
    parts = [
        ranked.loc[ranked["perturbation"].isin(set(names)), columns].assign(family=family)
        for family, names in by.items()
    ]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame(columns=["family", *columns]).astype({"number": int, "p": float})
    return pd.concat(parts)[["family", *columns]]


def _bins(ranked: pd.DataFrame, *, level: float, test: str) -> tuple[list[str], list[str]]:
    bins, reasons = [], []
    for record in ranked.to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        if row["status"] == WAITING:
            bins.append("")
            reasons.append("not predicted yet")
            continue
        if row["status"] != PREDICTED:
            bins.append(UNSUPPORTED)
            reasons.append(f"not predicted: {row.get('reason') or row['status']}")
            continue
        fails = _failures(row, level=level, test=test)
        bins.append({0: GROUNDED, 3: UNSUPPORTED}.get(len(fails), OPEN))
        reasons.append("; ".join(fails))
    return bins, reasons


def _failures(row: Mapping[str, object], *, level: float, test: str) -> Sequence[str]:
    """Which of the three conditions of the bin "grounded" a predicted row fails, each in words."""
    low = _number(row.get("expected_low"))
    fails = [_not_found(row, level=level, test=test)]
    if not _number(row.get("n_called")) >= 1:
        fails.append("no gene is called")
    if np.isnan(low):
        fails.append("no accuracy is expected of it")
    elif low <= 0:
        fails.append(f"the expected accuracy may be 0 (from {low:.2f})")
    return [one for one in fails if one]


def _not_found(row: Mapping[str, object], *, level: float, test: str) -> str:
    """Why a row is no finding of the treatment itself and over donors; empty where it is."""
    q, is_own = _number(row["q"]), row["evidence"] in MEASURED_EVIDENCE
    if test != "toward" and not is_own:
        return "not tested: only other treatments were measured"
    if np.isnan(q) and test == "response" and _number(row.get("n_donors")) < MIN_DONORS:
        return "not tested: fewer than three donors"
    if np.isnan(q):
        return f"not tested{_because(row)}"
    if q > level:
        return f"not found at a false discovery rate of {level:.0%} (q = {q:.2g})"
    if not is_own:
        return "found, but predicted from other treatments"
    if test == "expected" and np.isnan(_number(row["p_donors"])):
        return "found, but not tested over donors: fewer than three"
    return ""


def _is_own(evidence: pd.Series) -> NDArray[np.bool_]:
    """Whether the treatment itself was measured, in whatever cells."""
    return np.asarray(evidence.isin(MEASURED_EVIDENCE))


def _because(row: Mapping[str, object]) -> str:
    reason = str(row.get("reason") or "")
    return f": {reason}" if reason not in ("", "nan") else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float, np.number)) else float("nan")
