"""The competitive null: a gene set against random sets of the same expression."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from haystack_kernel.grounding.de.background import Background
from haystack_kernel.grounding.nulls.competitive import competitive_null


@pytest.fixture
def background():
    rng = np.random.default_rng(8)
    level = np.sort(rng.gamma(1, 1, 1200))
    # low genes are noisier: only random sets of matched expression are a fair comparison
    z = rng.normal(size=1200) * np.where(np.arange(1200) < 300, 3.0, 0.5)
    return Background(pd.Index([f"G{i}" for i in range(1200)], dtype=object), z, level)


def test_competitive_null_when_sets_are_random_then_p_is_uniform(background):
    rng = np.random.default_rng(9)
    p = []
    for i in range(200):
        picked = rng.choice(300 if i % 2 else 1200, 15, replace=False)
        genes = {f"G{k}": int(rng.choice([-1, 1])) for k in picked}
        p.append(competitive_null(background, genes, n_draws=199, seed=0, name=str(i)).up)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_competitive_null_when_the_set_moves_then_small_and_wrong_direction_is_one(background):
    genes = {f"G{k}": 1 for k in np.argsort(-background.z)[:12]}
    assert competitive_null(background, genes, n_draws=999, seed=0).up == 0.001
    assert competitive_null(background, dict.fromkeys(genes, -1), n_draws=999, seed=0).up == 1.0


def test_competitive_null_when_competing_signatures_leave_fewer_than_five_genes_then_one(background):
    genes = {f"G{k}": 1 for k in np.argsort(-background.z)[:12]}
    tails = competitive_null(background, genes, removed=set(list(genes)[:8]), n_draws=99, seed=0)
    assert tails == (1.0, 1.0)
