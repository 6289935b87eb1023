"""Which measured pairs a back-test hides: spread over what is held out, treatments, cell types and datasets.

In: the conditions of an atlas. Out: pairs of cell type and treatment, each with what is hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.retrieval.cells.sample import make_rng
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY, has_donor, type_label
from haystack_kernel.schema import MeasuredPair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from haystack_kernel.schema import Held

MIN_CELLS = 20  # treated cells, and control cells, that a pair needs to say anything
_PAIR = [keys.ATLAS, keys.DATASET, TYPE_KEY, keys.PERTURBATION]


def list_pairs(conditions: pd.DataFrame, *, held: Sequence[Held], seed: int = 0) -> tuple[MeasuredPair, ...]:
    """List every measured pair that can be hidden and leaves something to predict it from.

    Parameters
    ----------
    conditions
        Of :func:`haystack_kernel.retrieval.build_view`, of an atlas without hidden pairs.
    held
        What may be held out: donors, the cell type, or the treatment altogether.
    seed
        Decides which donors are held out.

    Returns
    -------
    Pairs with at least 20 treated and 20 control cells of one type in one dataset. With a donor held out these are
    the cells of as many donors as that takes, and another donor has the treatment. With the cell type held out
    another type has the treatment; with the treatment held out another treatment was measured.

    Examples
    --------
    >>> pairs = list_pairs(view.conditions, held=["cell_type"])  # doctest: +SKIP
    >>> pairs[0].words  # doctest: +SKIP
    'IFN-beta in B cell (kang), cell type held out'
    """
    treated, control = conditions[~conditions[keys.IS_CONTROL]], conditions[conditions[keys.IS_CONTROL]]
    of_type = dict(iter(control.groupby([keys.ATLAS, keys.DATASET, TYPE_KEY])))
    n_types = treated.groupby([keys.ATLAS, keys.PERTURBATION])[TYPE_KEY].nunique().to_dict()
    n_treatments = treated.groupby(keys.ATLAS)[keys.PERTURBATION].nunique().to_dict()
    found: list[MeasuredPair] = []
    for _, rows in treated.groupby(_PAIR, sort=True):
        first = rows.iloc[0]
        own = of_type.get((first[keys.ATLAS], first[keys.DATASET], first[TYPE_KEY]))
        if own is None:
            continue
        is_left: dict[Held, bool] = {  # whether anything is left to predict from
            "donor": True,
            "cell_type": n_types[first[keys.ATLAS], first[keys.PERTURBATION]] > 1,
            "perturbation": n_treatments[first[keys.ATLAS]] > 1,
        }
        for kind in (one for one in held if is_left[one]):
            groups = _donors_to_hold(rows, own, seed=seed) if kind == "donor" else [()]
            pairs = (_pair(rows, own, held=kind, donors=donors) for donors in groups)
            found += [pair for pair in pairs if min(pair.n_treated, pair.n_control) >= MIN_CELLS]
    return tuple(found)


def _pair(rows: pd.DataFrame, control: pd.DataFrame, *, held: Held, donors: tuple[str, ...]) -> MeasuredPair:
    """The pair that the rows are of, with its numbers of cells in the donors that are held out."""
    sides = [side[side[keys.DONOR].isin(donors)] if donors else side for side in (rows, control)]
    first = rows.iloc[0]
    return MeasuredPair(
        atlas=first[keys.ATLAS],
        dataset=first[keys.DATASET],
        cell_type_id=first[keys.CELL_TYPE_ID],
        cell_type=type_label(rows),
        perturbation=first[keys.PERTURBATION],
        held=held,
        donors=donors,
        n_treated=int(sides[0][N_CELLS].sum()),
        n_control=int(sides[1][N_CELLS].sum()),
    )


def choose_pairs(pairs: Sequence[MeasuredPair], *, n: int, seed: int = 0) -> tuple[MeasuredPair, ...]:
    """Choose ``n`` pairs evenly over what is held out, and within that over treatments and cell types.

    Parameters
    ----------
    pairs
        From :func:`list_pairs`.
    n
        Number of pairs; all where there are no more.
    seed
        Decides between equals.

    Returns
    -------
    Pairs in the order of the list.

    Raises
    ------
    InvalidInputError
        There is no pair to choose from, or ``n`` is not positive.
    """
    if n < 1:
        msg = f"a back-test needs at least one pair; {n} were asked for"
        raise InvalidInputError(msg, n=n)
    if not pairs:
        msg = (
            f"the atlas holds no pair that can be back-tested: at least {MIN_CELLS} treated and {MIN_CELLS} control "
            "cells of one type in one dataset, and a second donor, cell type or treatment to predict from"
        )
        raise InvalidInputError(msg)
    rng = make_rng(seed, role="backtest/pairs")
    order = [pairs[place] for place in rng.permutation(len(pairs))]
    by_kind: dict[str, list[MeasuredPair]] = {}
    for pair in order:
        by_kind.setdefault(pair.held, []).append(pair)
    spread = {kind: _spread(members) for kind, members in sorted(by_kind.items())}
    chosen: list[MeasuredPair] = []
    while len(chosen) < min(n, len(pairs)):
        for members in spread.values():
            if len(chosen) < n and (following := next(members, None)) is not None:
                chosen.append(following)
    place = {pair: number for number, pair in enumerate(pairs)}
    return tuple(sorted(chosen, key=lambda pair: place[pair]))


def _spread(members: list[MeasuredPair]) -> Iterator[MeasuredPair]:
    """Yield the pairs so that at any point treatments and cell types were taken about equally often."""
    left = list(members)
    taken: dict[tuple[str, str], int] = {}
    while left:

        def crowd(pair: MeasuredPair) -> int:
            return sum(
                taken.get(one, 0) for one in (("perturbation", pair.perturbation), ("cell_type", pair.cell_type))
            )

        best = min(left, key=crowd)
        left.remove(best)
        for one in (("perturbation", best.perturbation), ("cell_type", best.cell_type)):
            taken[one] = taken.get(one, 0) + 1
        yield best


def _donors_to_hold(rows: pd.DataFrame, control: pd.DataFrame, *, seed: int) -> list[tuple[str, ...]]:
    """Groups of donors, each large enough to be the truth, of which one is hidden at a time; at least two groups."""
    known = rows[has_donor(rows)]
    sides = [side.groupby(keys.DONOR)[N_CELLS].sum().to_dict() for side in (known, control)]
    both = sorted(str(one) for one in set(sides[0]) & set(sides[1]))
    first = rows.iloc[0]
    rng = make_rng(seed, role=f"backtest/donors/{first[keys.DATASET]}")  # the same donors for every treatment
    groups: list[list[str]] = [[]]
    for donor in (both[place] for place in rng.permutation(len(both))):
        groups[-1].append(donor)
        if min(sum(side[one] for one in groups[-1]) for side in sides) >= MIN_CELLS:
            groups.append([])
    whole = [tuple(sorted(group)) for group in groups[:-1]]
    rest = len(both) - sum(map(len, whole))
    return whole if len(whole) >= 2 or (whole and rest) else []
