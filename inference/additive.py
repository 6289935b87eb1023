"""Engine ``additive``: what the asked cells show under other treatments, plus what is special about the asked one.

In: prompt, control and query cells as for the baselines, and cells of other treatments with theirs. Out: the predicted
query cells.

Formula, with d(s, t) the effect of treatment t in cell type s (as in :mod:`inference.baselines`), m(s) its mean over
other treatments and c the type of the query cells: the prompt's effect in another type s is carried over as m(c) + k
(d(s) - m(s)), that in the query's own type as it is, and these are averaged with the weights of ``weighted``. The
control cells of a type are in d and in m, so their noise leaves the residuals d - m. k is the regression of residuals
in c on those in the prompt's types, over the other treatments, each against means without itself. It is only used where
it predicts these treatments better than ``weighted`` does, on control cells that m(c) was not computed from; otherwise
the response is that of ``weighted``. m and the residuals are shrunk as ``weighted`` shrinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inference.draw import log_normalise
from inference.effects import TREND_CELLS, Arm, Trend, fit_trend, shrink, summarise_arm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inference.baselines import Cells

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

MIN_CELLS = 5  # of one treatment in one type, to count in its mean
MIN_TREATMENTS = 5  # in the query's type and in a type of the prompt
MIN_CONTROLS = 10  # of the query's type, in two halves


@dataclass(frozen=True)
class Others:
    """Cells of other treatments than the prompt's, and their control cells."""

    cells: Cells
    treatment: NDArray[np.str_]  # of each cell; of control cells without meaning
    is_control: NDArray[np.bool_]


@dataclass(frozen=True)
class Table:
    """Other treatments in one cell type, over some genes."""

    mean: dict[str, Floats]  # treatment -> mean profile of the treated cells
    variance: dict[str, Floats]  # its error variance
    halves: tuple[Floats, Floats]  # mean profiles of two halves of the control cells
    control_variance: Floats  # error variance of the mean profile of all control cells

    @property
    def control(self) -> Floats:
        """Mean profile of the control cells."""
        return (self.halves[0] + self.halves[1]) / 2

    def average(self, *, without: str = "") -> tuple[Floats, Floats]:
        """Mean profile over the treatments, and its error variance."""
        names = [name for name in self.mean if name != without]
        variance = np.sum([self.variance[name] for name in names], axis=0) / len(names) ** 2
        return np.mean([self.mean[name] for name in names], axis=0), variance


@dataclass(frozen=True)
class Carried:
    """The response of the query's type, and why it was computed so."""

    response: Floats
    k: float  # share of the prompt's residual in it
    gain: float  # mean correlation with the other treatments' effects, minus that of ``weighted``
    n_treatments: int  # that k and gain were computed from


def tabulate(others: Others, types: set[str], *, columns: Ints) -> dict[str, Table]:
    """Profiles under each other treatment by cell type; types with too few cells or treatments are left out.

    Parameters
    ----------
    others
        Cells of other treatments with their control cells.
    types
        Cell types that are wanted.
    columns
        Genes, as columns of the counts.
    """
    untreated = np.flatnonzero(others.is_control)
    if untreated.size < MIN_CONTROLS:
        return {}
    logs = log_normalise(others.cells.counts[:, columns])
    trend = fit_trend(summarise_arm(logs[untreated]))
    of_type, found = others.cells.cell_type, {}
    for name in sorted(types):
        control = untreated[of_type[untreated] == name]
        treated = np.flatnonzero(~others.is_control & (of_type == name))
        if control.size < MIN_CONTROLS:
            continue
        groups = {one: treated[others.treatment[treated] == one] for one in np.unique(others.treatment[treated])}
        arms = {str(one): summarise_arm(logs[rows]) for one, rows in groups.items() if rows.size >= MIN_CELLS}
        if len(arms) < MIN_TREATMENTS:
            continue
        halves = (summarise_arm(logs[control[::2]]).mean, summarise_arm(logs[control[1::2]]).mean)
        found[name] = Table(
            {one: arm.mean for one, arm in arms.items()},
            {one: _error_variance(arm, trend) for one, arm in arms.items()},
            halves,
            _error_variance(summarise_arm(logs[control]), trend),
        )
    return found


def carry_over(
    tables: dict[str, Table], *, own: str, effect: dict[str, Floats], se: dict[str, Floats], share: dict[str, float]
) -> Carried | None:
    """Response of one cell type to a treatment that other types show.

    Parameters
    ----------
    tables
        Of :func:`tabulate`, for the type itself and those of the prompt.
    own
        The cell type.
    effect, se
        Effect of the treatment in each type of the prompt, and its standard error.
    share
        Weight of each type of the prompt; they sum to 1.

    Returns
    -------
    None where too few treatments were measured in the type and in one of the prompt's.
    """
    far = {name: value for name, value in share.items() if name != own and name in tables}
    if own not in tables or not far:
        return None
    own_table = tables[own]
    shared = [one for one in own_table.mean if any(one in tables[name].mean for name in far)]
    if len(shared) < MIN_TREATMENTS:
        return None
    k, gain = _learn(shared, own_table, tables, far)
    mean, variance = own_table.average()
    level = shrink(mean - own_table.control, variance + own_table.control_variance)
    response = level + k * _special(effect, se, tables, far)
    direct = share.get(own, 0.0)
    if direct:
        response = direct * shrink(effect[own], se[own] ** 2) + (1 - direct) * response
    return Carried(response, k, gain, len(shared))


def _special(
    effect: dict[str, Floats], se: dict[str, Floats], tables: dict[str, Table], far: dict[str, float]
) -> Floats:
    """What is special about the prompt's treatment in its types, shrunk."""
    averages = {name: tables[name].average() for name in far}
    special = {name: effect[name] - (averages[name][0] - tables[name].control) for name in far}
    noise = {name: se[name] ** 2 + averages[name][1] for name in far}
    return shrink(_weighted_sum(special, far), _weighted_sum(noise, far, squared=True))


def _learn(shared: list[str], own: Table, tables: dict[str, Table], far: dict[str, float]) -> tuple[float, float]:
    """Share of a residual that carries over, and the gain over ``weighted``, both from the other treatments."""
    pairs = {one: _residuals(one, own, tables, far) for one in shared}
    top = sum(float(x @ y) for x, y in pairs.values())
    bottom = sum(float(x @ x) for x, _ in pairs.values())
    k = float(np.clip(top / bottom, 0.0, 1.0)) if bottom > 0 else 0.0
    gains = [_gain(one, special=k * pairs[one][0], own=own, tables=tables, far=far) for one in shared]
    return k, float(np.mean(gains))


def _weighted_sum(values: dict[str, Floats], weights: dict[str, float], *, squared: bool = False) -> Floats:
    """Weighted mean over cell types, the weights summing to 1; with ``squared`` the variance of such a mean."""
    total = sum(weights[name] for name in values)
    shares = np.array([weights[name] / total for name in values])
    return np.asarray((shares**2 if squared else shares) @ np.array(list(values.values())))


def _residuals(one: str, own: Table, tables: dict[str, Table], far: dict[str, float]) -> tuple[Floats, Floats]:
    """What is special about a treatment in the prompt's types (shrunk) and in the own type, against the others."""
    having = [name for name in far if one in tables[name].mean]
    averages = {name: tables[name].average(without=one) for name in having}
    special = {name: tables[name].mean[one] - averages[name][0] for name in having}
    noise = {name: tables[name].variance[one] + averages[name][1] for name in having}
    shrunk = shrink(_weighted_sum(special, far), _weighted_sum(noise, far, squared=True))
    return shrunk, own.mean[one] - own.average(without=one)[0]


def _gain(one: str, *, special: Floats, own: Table, tables: dict[str, Table], far: dict[str, float]) -> float:
    """How much nearer the additive prediction of another treatment is than that of ``weighted``.

    What is predicted is taken against one half of the control cells and the mean over treatments against the other one:
    their common noise would make any prediction look right.
    """
    truth = own.mean[one] - own.halves[1]
    additive = own.average(without=one)[0] - own.halves[0] + special
    having = [tables[name] for name in far if one in tables[name].mean]
    names = [name for name in far if one in tables[name].mean]
    effects = {name: table.mean[one] - table.control for name, table in zip(names, having, strict=True)}
    noise = {name: table.variance[one] + table.control_variance for name, table in zip(names, having, strict=True)}
    plain = shrink(_weighted_sum(effects, far), _weighted_sum(noise, far, squared=True))
    found = np.array([truth, additive, plain])
    if np.ptp(found, axis=1).min() == 0:
        return 0.0
    near = np.corrcoef(found)
    return float(near[0, 1] - near[0, 2])


def _error_variance(arm: Arm, trend: Trend) -> Floats:
    """Error variance of an arm's mean, its variance drawn to the trend as in :mod:`inference.effects`."""
    n = arm.n_cells
    moderated = (TREND_CELLS * trend.at(arm.mean) + (n - 1) * arm.variance) / (n - 1 + TREND_CELLS)
    return np.asarray(np.maximum(moderated, trend.at(0.5 / n)) / n)
