import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from haystack_kernel.grounding.de.background import Background
from haystack_kernel.grounding.signatures.enrichment import COLUMNS, compute_enrichment

N_GENES = 400
NAMES = [f"G{i}" for i in range(N_GENES)]


@pytest.fixture
def background():
    rng = np.random.default_rng(3)
    z = rng.normal(size=N_GENES)
    z[:12] += 2.0  # what the set "up" holds
    z[12:20] -= 2.0
    return Background(genes=pd.Index(NAMES, dtype=object), z=z, level=np.ones(N_GENES))


@pytest.fixture
def called(background):
    return np.abs(background.z) > 1.8


SETS = {
    "up": dict.fromkeys(NAMES[:12], 1),
    "both": dict.fromkeys(NAMES[:12], 1) | dict.fromkeys(NAMES[12:20], -1),
    "quiet": dict.fromkeys(NAMES[200:230], 1),
    "strange": {"NOT A GENE": 1},
}


def test_linear_model_equals_the_correlation_test_over_the_background(background, called):
    table = compute_enrichment(background, called, SETS)
    for name in ("up", "both", "quiet"):
        weights = np.array([SETS[name].get(gene, 0) for gene in NAMES])
        r, p = stats.pearsonr(weights, background.z)
        assert table.loc[name, "ulm_t"] == pytest.approx(r * np.sqrt((N_GENES - 2) / (1 - r**2)))
        assert table.loc[name, "ulm_pval"] == pytest.approx(p)
    assert table.loc["both", "ulm_t"] > table.loc["up", "ulm_t"] > 5


def test_over_representation_equals_the_hypergeometric_count_by_hand(background, called):
    table = compute_enrichment(background, called, SETS)
    inside = np.isin(NAMES, NAMES[:12])
    a, b = (called & inside).sum(), (called & ~inside).sum()
    c, d = (~called & inside).sum(), (~called & ~inside).sum()
    assert table.loc["up", "n_called"] == a
    assert table.loc["up", "ora_log_odds"] == pytest.approx(np.log((a + 0.5) / (b + 0.5) / ((c + 0.5) / (d + 0.5))))
    every = stats.hypergeom.pmf(np.arange(13), N_GENES, a + b, 12)
    assert table.loc["up", "ora_pval"] == pytest.approx(every[every <= every[a] * (1 + 1e-7)].sum())


def test_adjustment_is_over_the_sets_and_leaves_out_those_not_computed(background, called):
    table = compute_enrichment(background, called, SETS)
    assert list(table.columns) == list(COLUMNS)
    known = ["up", "both", "quiet"]
    for test in ("ulm", "ora"):
        by_other = multipletests(table.loc[known, f"{test}_pval"], method="fdr_bh")[1]
        assert table.loc[known, f"{test}_padj"].to_numpy() == pytest.approx(by_other)
    assert table.loc["strange", ["ulm_t", "ulm_padj", "ora_pval", "ora_padj"]].isna().all()
    assert (table["n_background"] == N_GENES).all()


def test_without_any_call_over_representation_is_not_computed(background):
    table = compute_enrichment(background, np.zeros(N_GENES, dtype=bool), SETS)
    assert table["ora_pval"].isna().all()
    assert table.loc["up", "ulm_padj"] < 0.01


@pytest.mark.slow
def test_both_equal_decoupler_where_it_is_installed(background, called):
    decoupler = pytest.importorskip("decoupler", reason="pip install decoupler to compare with it")
    table = compute_enrichment(background, called, {name: SETS[name] for name in ("up", "both", "quiet")})
    net = pd.DataFrame(
        [(name, gene, float(sign)) for name in table.index for gene, sign in SETS[name].items()],
        columns=["source", "target", "weight"],
    )
    values = pd.DataFrame([background.z], columns=NAMES, index=["prediction"])
    by_decoupler = decoupler.mt.ulm(values, net, tmin=3, verbose=False)[0]
    assert by_decoupler.loc["prediction", table.index].to_numpy() == pytest.approx(table["ulm_t"].to_numpy(), rel=1e-4)
