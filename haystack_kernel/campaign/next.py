"""Which experiment next: the measurements that would most likely change the top of a campaign's list.

In: the list with its errors, a size of experiment. Out: :class:`NextExperiments`.

Each question of a list has an expected value and an error. A measurement of the pair itself leaves less of that error;
how much, follows before it is made, from the number of donors and cells. What it is worth is how far the new order of
the list can be expected to be better than the present one: a pair high up on the list whose value is known, or one far
below whose value is not, is not worth it. The errors are those of the prediction (``effect_sd``, which holds the
transfer error) and what the back-test says of predictions at this evidence distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel.campaign.measured import MEASURED, SOURCE
from haystack_kernel.errors import InvalidInputError, MissingKeyError, NotFoundError
from haystack_kernel.grounding.uncertainty.transfer import INTERVAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

STATISTICS = ("toward", "size")  # what a list may be ordered by, the first that it has
PREDICTED = "predicted"
DONOR_SPREAD = 0.25  # sd between donors of how strongly they respond, as a share of the response
CELL_SD = 0.5  # of log1p(CP10k) of a gene over cells of one kind
N_GENES = 2000.0  # tested genes, where the campaign does not say how many
ENOUGH = 0.9  # of what the largest experiment would bring
SIZES = ((1, 20), (2, 30), (3, 50), (4, 50), (6, 50), (8, 50), (8, 100))  # donors, cells of each and arm
COLUMNS = ("number", "perturbation", "cell_type", "donor")


@dataclass(frozen=True, eq=False)
class NextExperiments:
    """Proposed measurements, the one of the largest gain first.

    Attributes
    ----------
    table
        One row for each question: ``rank``, the columns that name it, ``place`` (in the present list), ``value``,
        ``sd`` (its error now), ``sd_after`` (after the measurement), ``narrowing`` (share of the interval that would
        be gone), ``p_change`` (chance that the measurement moves it over the edge of the top), ``gain`` (expected gain
        of the sum of the top's true values), ``gain_per_donor``, ``enough`` (the smallest experiment that brings 90 %
        of what the largest would) and ``why``, a sentence.
    by, top
        What the list is ordered by, and how many rows are its top.
    n_donors, n_cells
        Size of the experiment: donors, and cells of each donor in each arm.
    assumed
        What the gains rest on, one sentence each.
    """

    table: pd.DataFrame
    by: str
    top: int
    n_donors: int
    n_cells: int
    assumed: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The first five proposals, one sentence each; one sentence where nothing is worth measuring."""
        worth = self.table[self.table["p_change"] >= 0.01]
        if worth.empty:
            return (f"No single measurement of this size is likely to change the top {self.top} of this list.",)
        return tuple(
            f"{row['rank']}. {row['perturbation']} in {row['cell_type']}: {row['why']}"
            for row in worth.head(5).to_dict("records")
        )

    def __repr__(self) -> str:
        size = f"{self.n_donors} donors, {self.n_cells} cells of each and arm"
        return "\n".join((f"NextExperiments (top {self.top} by {self.by}; {size})", *self.words))


def next_experiments(
    campaign: Any,  # noqa: ANN401 - a screen, an answer of seek, or a table
    *,
    by: str | None = None,
    top: int = 10,
    n_donors: int = 4,
    n_cells: int = 50,
    donor_spread: float = DONOR_SPREAD,
) -> NextExperiments:
    """Propose the measurements that would most likely change the top of a list.

    Parameters
    ----------
    campaign
        A screen, an answer of seek, or a table of the same columns: ``perturbation``, ``cell_type``, ``expected_r``,
        the statistic and its ``…_sd``.
    by
        What the list is ordered by, the largest first: ``toward`` or ``size``, or another column that has an ``…_sd``.
        None takes the first that the list has.
    top
        Rows that matter, such as the ten that will be followed up.
    n_donors, n_cells
        Size of the experiment that is considered for each pair: donors, and cells of each donor in each arm.
    donor_spread
        Standard deviation between donors of how strongly they respond, as a share of the response.

    Returns
    -------
    All questions with a value and an error that were not measured yet.

    Raises
    ------
    InvalidInputError
        An option is refused, or the list is no longer than its top.
    MissingKeyError
        The list lacks a column.

    Notes
    -----
    A value m has the error variance v of the list, which holds the transfer error and what the back-test, or the prompt
    itself, leaves unexplained (see :func:`haystack_kernel.campaign.judge.response_size`). The measurement has s^2 =
    (donor_spread m)^2 / n_donors + c^2 / (n_donors n_cells), c being the error of a single pair of cells. Then v s^2 /
    (v + s^2) is left, and the new expectation lies around m with standard deviation v / sqrt(v + s^2). The gain is that
    of the knowledge gradient: with distance d to the edge of the top and that deviation t, t (phi(d / t) - d / t
    Phi(-d / t)).

    References
    ----------
    Frazier, Powell and Dayanik, SIAM J Control Optim 47:2410 (2008), for the knowledge gradient.

    Examples
    --------
    >>> found = next_experiments(screen, top=10, n_donors=4)  # doctest: +SKIP
    >>> found.table.loc[:4, ["perturbation", "cell_type", "p_change", "narrowing"]]  # doctest: +SKIP
    """
    _check_whole(top=top, n_donors=n_donors, n_cells=n_cells)
    table = campaign if isinstance(campaign, pd.DataFrame) else campaign.table
    by = _statistic(table, by)
    rows = _usable(table, by)
    if len(rows) <= top:
        msg = (
            f"the list has {len(rows)} questions with a value and an error ({by}, {by}_sd) and its top are {top}: no "
            "measurement can change who is in it; give a smaller top, or ask more questions"
        )
        raise InvalidInputError(msg)
    value = rows[by].to_numpy(float)
    before = np.maximum(rows[f"{by}_sd"].to_numpy(float) ** 2, np.finfo(float).tiny)
    noise = _Noise(donor_spread * np.abs(value), _cell_sd(rows, by))
    place = np.arange(1, len(rows) + 1)
    inside = place <= top
    distance = np.where(inside, value - value[top], value[top - 1] - value)  # to the edge of the top
    after, moved = preposterior(before, noise.of(n_donors, n_cells))
    chance, gain = crossing(distance, moved)
    gains = np.array([crossing(distance, preposterior(before, noise.of(*size))[1])[1] for size in SIZES])
    narrowing = 1 - np.sqrt(after / before)
    found = rows[[name for name in COLUMNS if name in rows]].assign(
        place=place,
        value=value,
        sd=np.sqrt(before),
        low=value - INTERVAL * np.sqrt(before),
        high=value + INTERVAL * np.sqrt(before),
        sd_after=np.sqrt(after),
        narrowing=narrowing,
        p_change=chance,
        gain=gain,
        gain_per_donor=gain / n_donors,
        enough=[_enough(column) for column in gains.T],
        why=[_why(*one, top=top) for one in zip(*map(list, (place, inside, chance, narrowing)), strict=True)],
    )
    found = found[~_is_measured(rows)]
    found = found.sort_values(["gain", "narrowing"], ascending=False, kind="stable").reset_index(drop=True)
    found.insert(0, "rank", np.arange(1, len(found) + 1))
    return NextExperiments(found, by, top, n_donors, n_cells, _assumed(donor_spread, rows))


def read_list(path: str) -> pd.DataFrame:
    """Read a list from a CSV file, such as that of ``haystack seek --out``.

    Raises
    ------
    NotFoundError
        There is no such file.
    InvalidInputError
        It is no table.
    """
    try:
        return pd.read_csv(path)
    except FileNotFoundError as error:
        msg = f"there is no file {path}; give the id of a screen, or a CSV file"
        raise NotFoundError(msg, path=path) from error
    except (OSError, ValueError) as error:  # pandas raises kinds of ValueError for what is no table
        msg = f"{path} cannot be read as a CSV table: {error}"
        raise InvalidInputError(msg, path=path) from error


def _is_measured(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Pairs that the atlas holds already: of a screen, or rows of seek's that are measurements."""
    measured = np.zeros(len(rows), dtype=bool)
    if "measured" in rows:
        measured |= rows["measured"].fillna(value=False).to_numpy(bool)
    if SOURCE in rows:
        measured |= (rows[SOURCE] == MEASURED).to_numpy(bool)
    return measured


@dataclass(frozen=True, eq=False)
class _Noise:
    """Error of a measurement of each pair: spread between donors, and the error of one pair of cells."""

    spread: Floats
    cell_sd: Floats

    def of(self, n_donors: int, n_cells: int) -> Floats:
        """Error variance of an experiment of so many donors, and cells of each in both arms."""
        return np.asarray(self.spread**2 / n_donors + self.cell_sd**2 / (n_donors * n_cells))


def _cell_sd(rows: pd.DataFrame, by: str) -> Floats:
    n_genes = rows["n_tested"].to_numpy(float) if "n_tested" in rows else np.full(len(rows), N_GENES)
    found = CELL_SD * np.sqrt(2 / np.maximum(n_genes, 1.0))
    if by != "toward" or "size" not in rows:
        return np.asarray(found)
    size = rows["size"].to_numpy(float)  # a cosine is in units of the size of the response
    usual = np.nanmedian(size) if np.isfinite(size).any() else 1.0
    return np.asarray(found / np.where(size > 0, size, usual))


def _check_whole(**given: object) -> None:
    for name, number in given.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            msg = f"{name} is {number!r}; give a whole number of at least 1"
            raise InvalidInputError(msg)


def preposterior(before: Floats, noise: Floats) -> tuple[Floats, Floats]:
    """Error variance that a measurement would leave, and standard deviation of what it would change the value by."""
    return before * noise / (before + noise), before / np.sqrt(before + noise)


def crossing(distance: Floats, moved: Floats) -> tuple[Floats, Floats]:
    """Chance that a change of standard deviation ``moved`` exceeds ``distance``, and the expected excess."""
    from scipy.special import ndtr

    z = distance / moved
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(ndtr(-z)), np.asarray(np.maximum(moved * (density - z * ndtr(-z)), 0.0))


def _statistic(table: pd.DataFrame, by: str | None) -> str:
    """The column that the list is ordered by."""
    names = [str(name) for name in table.columns]
    possible = [name for name in names if f"{name}_sd" in names]
    if by is None:
        by = next((one for one in STATISTICS if one in possible and table[one].notna().any()), "")
    if by not in possible:
        given = f"the list is to be ordered by {by!r}, but it" if by else "the list"
        msg = f"{given} has no such column with a standard deviation; possible: {', '.join(possible) or 'none'}"
        raise MissingKeyError(msg, given=by)
    return by


def _usable(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Questions that have a value with an error, largest first."""
    if absent := [name for name in COLUMNS[1:3] if name not in table.columns]:
        msg = f"the list has no column {absent[0]!r}; it has {', '.join(map(str, table.columns))}"
        raise MissingKeyError(msg, absent=absent)
    known = np.isfinite(table[by].to_numpy(float)) & np.isfinite(table[f"{by}_sd"].to_numpy(float))
    if "status" in table:
        known &= (table["status"] == PREDICTED).to_numpy(bool)
    return table[known].sort_values(by, ascending=False, kind="stable").reset_index(drop=True)


def _enough(gains: Floats) -> str:
    """The smallest of :data:`SIZES` with 90 % of the gain of the largest, in words."""
    if gains[-1] <= 0:
        return ""
    donors, cells = SIZES[int(np.argmax(gains >= ENOUGH * gains[-1]))]
    return f"{donors} x {cells}"


def _why(place: int, inside: bool, chance: float, narrowing: float, *, top: int) -> str:  # noqa: FBT001 - one row
    side = "may fall out of" if inside else "may belong to"
    return (
        f"place {place}, {side} the top {top} (chance {_percent(chance)}); its interval would be "
        f"{_percent(narrowing)} narrower"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "below 1 %"


def _assumed(donor_spread: float, rows: pd.DataFrame) -> tuple[str, ...]:
    known = rows["expected_r"].to_numpy(float) if "expected_r" in rows else np.full(len(rows), np.nan)
    n_known = int(np.isfinite(known).sum())
    spread = f"Donors are taken to respond with a spread of {_percent(donor_spread)} of the response, and genes to vary"
    alone = "Questions are taken as independent: a measurement of one cell type also says something of others, which "
    alone += "is not counted. Each proposal is the best first one; ask again once it is measured."
    return (
        f"Of {n_known} of {len(rows)} questions an accuracy could be expected; the others have the widest intervals.",
        f"{spread} over cells by {CELL_SD} (log1p CP10k).",
        alone,
    )
