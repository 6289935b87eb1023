import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from haystack_kernel import keys
from haystack_kernel.retrieval.cells.sample import allocate, make_rng, sample_cells, split_cells


def cells(**sizes):
    """One stratum per keyword "type_donor"."""
    rows = [name.split("_") for name, size in sizes.items() for _ in range(size)]
    return pd.DataFrame(rows, columns=[keys.CELL_TYPE, keys.DONOR], index=[f"c{i}" for i in range(len(rows))])


def strata(table):
    return table.groupby([keys.CELL_TYPE, keys.DONOR]).size().to_dict()


def test_sample_is_proportional_and_keeps_the_rarest():
    table = cells(T_a=600, T_b=300, B_a=99, B_b=1)
    kept = sample_cells(table, n=100, rng=make_rng(0, role="x"))
    assert len(kept) == 100
    assert strata(kept) == {("T", "a"): 60, ("T", "b"): 30, ("B", "a"): 9, ("B", "b"): 1}
    assert list(kept.index) == sorted(kept.index, key=lambda name: int(name[1:]))


def test_sample_is_the_same_for_the_same_seed_and_role_only():
    table = cells(T_a=200)
    first = sample_cells(table, n=20, rng=make_rng(7, role="prompt"))
    assert first.index.equals(sample_cells(table, n=20, rng=make_rng(7, role="prompt")).index)
    assert not first.index.equals(sample_cells(table, n=20, rng=make_rng(7, role="query")).index)
    assert not first.index.equals(sample_cells(table, n=20, rng=make_rng(8, role="prompt")).index)


def test_sample_takes_the_same_cells_whatever_the_order_of_the_table():
    table = cells(T_a=80, T_b=40, B_a=20)
    mixed = table.sample(frac=1, random_state=1)
    kept = sample_cells(table, n=30, rng=make_rng(0, role="x"))
    again = sample_cells(mixed, n=30, rng=make_rng(0, role="x"))
    assert set(kept.index) == set(again.index)
    assert list(again.index) == [name for name in mixed.index if name in set(kept.index)]
    first, _ = split_cells(table, rng=make_rng(0, role="x"))
    assert set(first.index) == set(split_cells(mixed, rng=make_rng(0, role="x"))[0].index)


def test_sample_of_a_set_over_donors_gives_each_donor_its_share():
    """Shares of 10 in 50, 30, 15 and 5 cells: 5, 3, 1.5 and 0.5; the rarest is kept, the seat left goes to 1.5."""
    kept = sample_cells(cells(T_a=50, T_b=30, T_c=15, T_d=5), n=10, rng=make_rng(3, role="prompt/1"))
    assert strata(kept) == {("T", "a"): 5, ("T", "b"): 3, ("T", "c"): 1, ("T", "d"): 1}


def test_sample_when_enough_room_then_returns_all():
    table = cells(T_a=3)
    assert sample_cells(table, n=3, rng=make_rng(0, role="x")) is table


def test_sample_when_donors_are_missing_then_counts_them_as_one_stratum():
    table = cells(T_a=10, B_a=10)
    table.loc[table[keys.CELL_TYPE] == "B", keys.DONOR] = None
    assert sample_cells(table, n=4, rng=make_rng(0, role="x"))[keys.CELL_TYPE].value_counts().to_dict() == {
        "T": 2,
        "B": 2,
    }


def test_split_halves_every_stratum_and_the_odd_cell_goes_first():
    first, second = split_cells(cells(T_a=7, B_a=1), rng=make_rng(0, role="x"))
    assert strata(first) == {("T", "a"): 4, ("B", "a"): 1}
    assert strata(second) == {("T", "a"): 3}
    assert set(first.index).isdisjoint(second.index)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_allocate_gives_all_seats_and_never_more_than_a_stratum_has(sizes, share):
    n = max(1, int(share * sum(sizes)))
    seats = allocate(sizes, n=n)
    assert sum(seats) == n
    assert all(0 <= seat <= size for seat, size in zip(seats, sizes, strict=True))
    assert n < len(sizes) or min(seats) >= 1


def test_allocate_when_fewer_seats_than_strata_then_serves_the_largest():
    assert allocate([1, 9, 5], n=2) == [0, 1, 1]


def test_rng_of_two_roles_are_uncorrelated():
    draws = [make_rng(0, role=role).standard_normal(2000) for role in ("prompt", "control")]
    assert abs(np.corrcoef(*draws)[0, 1]) < 0.1


def test_allocate_matches_largest_remainders_by_hand():
    # shares 4.7, 1.6, 1.6, 1.6, 0.5: floors 4 1 1 1 and the guaranteed 1, two left for .7 and the first .6
    assert allocate([47, 16, 16, 16, 5], n=10) == [5, 2, 1, 1, 1]


def test_allocate_is_exact_where_shares_are_whole():
    assert allocate([50, 30, 20], n=10) == [5, 3, 2]


@given(st.lists(st.integers(1, 400), min_size=2, max_size=60), st.integers(3, 300))
def test_allocate_gives_the_seats_left_one_by_one_to_whoever_is_furthest_from_its_share(sizes, n):
    n = min(max(n, len(sizes) + 1), sum(sizes))
    if len(sizes) >= n:
        return
    shares = [n * size / sum(sizes) for size in sizes]
    quotas = [max(1, int(share)) for share in shares]
    while missing := n - sum(quotas):
        step = 1 if missing > 0 else -1
        movable = [i for i, size in enumerate(sizes) if quotas[i] != (size if step > 0 else 1)]
        quotas[max(movable, key=lambda i: (step * (shares[i] - quotas[i]), -i))] += step
    assert allocate(sizes, n=n) == quotas
