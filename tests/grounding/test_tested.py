"""A prediction held against a measured response, on designed effects."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.grounding.tested import compare_with_truth

N_GENES, N_CELLS = 1000, 200
RISES, FALLS = slice(0, 40), slice(40, 60)


def cells(seed, *, n_cells=N_CELLS, treated):
    rate = np.full(N_GENES, 2.0)
    if treated:
        rate[RISES], rate[FALLS] = 4.0, 0.5
    counts = np.random.default_rng(seed).poisson(rate, (n_cells, N_GENES)).astype(np.float32)
    return ad.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=[f"G{i}" for i in range(N_GENES)]))


def predicted(delta):
    genes = [f"G{i}" for i in range(N_GENES)]
    return pd.DataFrame({keys.GENE: genes, keys.DELTA: delta, keys.IS_TESTED: True})


@pytest.fixture
def arms():
    return cells(1, treated=True), cells(2, treated=False)


def test_a_right_a_reversed_and_an_empty_prediction_are_told_apart(arms):
    effect = np.random.default_rng(0).normal(0, 0.01, N_GENES)
    effect[RISES], effect[FALLS] = 1.0, -1.0

    def compare(delta):
        return compare_with_truth(*arms, de=predicted(delta), label="X in Y (z)", pair="Y : X")

    right, reversed_, noise = compare(effect), compare(-effect), compare(np.random.default_rng(3).normal(size=N_GENES))
    assert right.pearson > 0.9
    assert right.same_direction > 0.9
    assert right.top_overlap >= 0.8  # 40 genes rise
    assert 55 <= right.n_clear <= 75
    assert reversed_.pearson == pytest.approx(-right.pearson)
    assert reversed_.same_direction == pytest.approx(1 - right.same_direction)
    assert abs(noise.pearson) < 0.2
    assert noise.top_overlap < 0.4
    assert "correlation 0.9" in right.words


def test_too_few_cells_or_genes_are_a_reason_and_no_number(arms):
    few = compare_with_truth(arms[0][:9], arms[1], de=predicted(np.ones(N_GENES)), label="L", pair="P")
    assert np.isnan(few.pearson)
    assert few.reason == "9 treated and 200 control cells; 10 of each are needed"
    other = compare_with_truth(arms[0][:, :99], arms[1], de=predicted(np.ones(N_GENES)), label="L", pair="P")
    assert other.reason == "99 tested genes were measured; 100 are needed"
    assert "not compared" in other.words
