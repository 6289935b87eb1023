"""The linear model and over-representation, computed again gene by gene."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from haystack_kernel.grounding.enrichment import adjust, linear_model, over_representation
from haystack_kernel.grounding.signatures import Background

GENES = [f"G{i}" for i in range(200)]
SETS = [
    dict.fromkeys(GENES[:20], 1),
    dict.fromkeys(GENES[:10], 1) | dict.fromkeys(GENES[40:50], -1),
    dict.fromkeys([*GENES[100:130], "UNTESTED"], 1),
    {"UNTESTED": 1},
]


@pytest.fixture
def background():
    z = np.random.default_rng(2).normal(size=200)
    z[:20] += 1.5
    return Background(pd.Index(GENES), z, np.zeros(200))


def column(genes):
    return np.array([genes.get(gene, 0) for gene in GENES], dtype=float)


def test_linear_model_when_compared_with_least_squares_then_equal(background):
    found = linear_model(background, SETS)
    p = []
    for i, genes in enumerate(SETS[:3]):
        fit = stats.linregress(column(genes), background.z)
        assert found.score[i] == pytest.approx(fit.slope / fit.stderr)
        p.append(fit.pvalue)
    assert found.padj[:3] == pytest.approx(stats.false_discovery_control(p))
    assert np.isnan([found.score[3], found.padj[3]]).all()


@pytest.mark.parametrize("way", [1, -1])
def test_over_representation_when_compared_with_fisher_then_equal(background, way):
    called = np.sign(background.z) * (np.abs(background.z) > 1.2)
    found = over_representation(background, SETS, called=called, directions=np.full(4, float(way)))
    p = []
    for i, genes in enumerate(SETS[:3]):
        signs = column(genes)
        both = int(((signs * called * way) > 0).sum())
        other, rest = int((called != 0).sum()) - both, int((signs != 0).sum()) - both
        table = [[both, other], [rest, 200 - both - other - rest]]
        p.append(stats.fisher_exact(table, alternative="greater").pvalue)
        assert found.score[i] == pytest.approx(
            stats.contingency.odds_ratio(np.array(table) * 2 + 1, kind="sample").statistic
        )
    assert found.padj[:3] == pytest.approx(stats.false_discovery_control(p))
    assert np.isnan([found.score[3], found.padj[3]]).all()


def test_over_representation_when_nothing_is_called_then_nan(background):
    found = over_representation(background, SETS, called=np.zeros(200), directions=np.ones(4))
    assert np.isnan(found.score).all()
    assert np.isnan(found.padj).all()


def test_adjust_when_one_is_nan_then_it_does_not_count():
    assert adjust(np.array([0.01, np.nan, 0.04])) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_linear_model_when_compared_with_decoupler_then_equal(background):
    decoupler = pytest.importorskip("decoupler")
    data = pd.DataFrame([background.z], index=["effect"], columns=GENES)
    rows = [(f"S{i}", gene, float(sign)) for i, genes in enumerate(SETS[:3]) for gene, sign in genes.items()]
    network = pd.DataFrame(rows, columns=["source", "target", "weight"])
    theirs = decoupler.mt.ulm(data, network, tmin=5)[0].loc["effect", ["S0", "S1", "S2"]].to_numpy(float)
    assert linear_model(background, SETS).score[:3] == pytest.approx(theirs, rel=1e-4)
