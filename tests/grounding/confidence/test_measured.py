import math

import numpy as np
import pandas as pd
import pytest

from haystack_kernel import keys
from haystack_kernel.grounding.confidence.measured import MIN_GENES, compare_measured


def mean_log(adata):
    dense = adata.X.toarray()
    return np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True)).mean(axis=0)


@pytest.fixture
def predicted(world):
    """Effects as if the first thirty-seventh of the genes rose; half of the genes are tested."""
    genes = [f"G{i}" for i in range(1500)]
    delta = np.where(np.arange(1500) % 37 == 5, 1.0, 0.0) + np.linspace(0, 0.1, 1500)
    return pd.DataFrame({keys.GENE: genes, keys.DELTA: delta, keys.IS_TESTED: np.arange(1500) < 750})


def test_the_correlation_is_that_of_the_mean_log_shifts_over_tested_genes(world, predicted, alpha_shift):
    treated, control = world.cells(200, shift=alpha_shift), world.cells(200)
    (found,) = compare_measured({"ALPHA in T cell": (treated, control)}, de=predicted)
    shift = (mean_log(treated) - mean_log(control))[:750]
    assert found.n_genes == 750
    assert found.pearson == pytest.approx(np.corrcoef(predicted[keys.DELTA][:750], shift)[0, 1])
    assert found.pearson > 0.5


def test_the_most_similar_comes_first_and_too_few_shared_genes_give_nan(world, predicted, alpha_shift):
    treated, control = world.cells(120, shift=alpha_shift), world.cells(120)
    few = [arm[:, : MIN_GENES - 1].copy() for arm in (treated, control)]
    found = compare_measured(
        {"few": tuple(few), "none": (control, world.cells(120)), "it": (treated, control)}, de=predicted
    )
    assert [one.label for one in found] == ["it", "none", "few"]
    assert math.isnan(found[-1].pearson)
