"""Cells by arm: expression is found again gene by gene, and what an arm does not hold is not zero."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from haystack_kernel.explorer.arms import Arms, arm_of, quantise

COUNTS = {  # library sizes 10, 20, 40
    "A": [10, 0, 20],
    "B": [0, 20, 20],
}


def cells(counts=COUNTS, *, names=("c1", "c2", "c3"), **obs):
    table = pd.DataFrame(counts, index=list(names), dtype=np.float32)
    return ad.AnnData(table, obs=pd.DataFrame(obs, index=list(names)) if obs else None)


def places(*names):
    rows = [(name, "naive", float(at), float(-at)) for at, name in enumerate(names)]
    return pd.DataFrame(rows, columns=["cell_id", "cell_type_name", "umap1", "umap2"])


def test_expression_is_log1p_of_counts_per_ten_thousand_and_absent_genes_are_nan():
    few = cells({"B": [5, 1]}, names=("d1", "d2"))
    arms = Arms(
        (
            arm_of(cells(), role="query", places=places("c3", "c1")),  # two of the three cells, in the map's order
            arm_of(few, role="measured", places=None),
        ),
        genes=pd.Index(["A", "B"], dtype=object),
    )
    assert arms.table["cell_id"].tolist() == ["c3", "c1", "d1", "d2"]
    assert arms.values("A") == pytest.approx([np.log1p(5000), np.log1p(10000), np.nan, np.nan], nan_ok=True)
    assert arms.values("B") == pytest.approx([np.log1p(5000), 0, np.log1p(10000), np.log1p(10000)])
    assert arms.values("no gene") == pytest.approx([np.nan] * 4, nan_ok=True)
    total, n = arms.sums(np.array([True, False, True, True]), role="measured")
    assert (n, total.tolist()[1]) == (2, pytest.approx(2 * np.log1p(10000)))
    assert np.isnan(total[0])


def test_other_predictions_of_a_query_cell_follow_its_prediction_on_the_map():
    names = ("c1", "c2", "c3")
    arms = Arms(
        (
            arm_of(cells(), role="prompt", places=places("c2")),  # a prompt cell may carry the same name
            arm_of(cells(), role="query", places=places(*names)),
            arm_of(cells(), role="predicted", places=places("c1", "c3")),
            arm_of(cells(), role="predicted control", places=None),
            arm_of(cells(names=("m1", "m2", "m3")), role="measured", places=None),
        ),
        genes=pd.Index(["A", "B"], dtype=object),
    )
    # rows: 0 prompt, 1-3 query, 4-5 predicted; the prediction of c2 is not on the map, its query cell is
    assert arms.follows.tolist() == [0, 1, 2, 3, 4, 5, 4, 2, 5, -1, -1, -1]


def test_duplicate_genes_count_once_and_a_file_of_other_cells_gives_no_expression():
    twice = cells()
    twice.var_names = ["A", "A"]
    arm = arm_of(twice, role="query", places=None)
    assert arm.genes.tolist() == ["A"]
    assert arm.expression.toarray().ravel() == pytest.approx(np.log1p([10000, 0, 5000]))
    foreign = arm_of(cells(), role="query", places=places("c1", "another"))
    assert (len(foreign.table), foreign.expression) == (2, None)


def test_bytes_stand_for_a_value_within_half_a_step():
    values = np.array([0, 0.01, 1.5, 6.2, np.nan], dtype=np.float32)
    found, largest = quantise(values)
    assert largest == pytest.approx(6.2)
    assert found[-1] == 255
    assert found[:-1] / 254 * largest == pytest.approx(values[:-1], abs=largest / 254 / 2 + 1e-6)
    nothing, largest = quantise(np.full(2, np.nan, dtype=np.float32))
    assert (nothing.tolist(), largest) == ([255, 255], 0.0)
    assert quantise(np.zeros(2, dtype=np.float32))[0].tolist() == [0, 0]
