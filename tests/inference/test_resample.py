import numpy as np
from scipy import sparse

from inference.baselines import Cells
from inference.resample import resample_cells


def _cells(donors, *, types, n=6):
    labels = [(kind, donor) for kind in types for donor in donors for _ in range(n)]
    number = np.arange(len(labels), dtype=float)[:, None] + 1  # tells the cells apart
    kind, donor = (np.array(one) for one in zip(*labels, strict=True))
    return Cells(sparse.csr_matrix(number), ("g",), kind, donor)


def test_a_resample_keeps_the_numbers_of_each_type_and_draws_donors_and_cells():
    cells = _cells(("d1", "d2", "d3", "d4"), types=("a", "b"))
    found = [resample_cells(cells, seed=seed) for seed in range(20)]
    for one in found:
        assert sorted(one.cell_type.tolist()) == sorted(cells.cell_type.tolist())
        numbers = one.counts.toarray().ravel().astype(int) - 1
        assert (cells.donor[numbers] == one.donor).all()  # labels stay with their cells
        assert (cells.cell_type[numbers] == one.cell_type).all()
        assert len(set(numbers)) < len(numbers)
    assert {len(set(one.donor)) for one in found} >= {2, 3}


def test_the_seed_decides_and_roles_share_their_donors():
    donors = ("d1", "d2", "d3", "d4")
    prompt, control = _cells(donors, types=("a",)), _cells(donors, types=("a",), n=9)
    one, same, other = (resample_cells(prompt, seed=seed) for seed in (1, 1, 2))
    assert (one.counts != same.counts).nnz == 0
    assert (one.counts != other.counts).nnz > 0
    assert set(one.donor) == set(resample_cells(control, seed=1).donor)


def test_a_type_without_a_drawn_donor_keeps_its_cells():
    both = _cells(("d1",), types=("a",)), _cells(("d2",), types=("b",))
    cells = Cells(
        sparse.vstack([one.counts for one in both]).tocsr(),
        ("g",),
        np.concatenate([one.cell_type for one in both]),
        np.concatenate([one.donor for one in both]),
    )
    for seed in range(5):
        assert sorted(resample_cells(cells, seed=seed).cell_type.tolist()) == sorted(cells.cell_type.tolist())
