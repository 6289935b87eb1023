import anndata as ad
import matplotlib as mpl
import numpy as np
import pytest
from scipy import sparse, stats
from statsmodels.stats.multitest import multipletests

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.grounding.de.table import compute_de, rank_genes_groups, rank_sum
from haystack_kernel.schema import GroundingSettings

SETTINGS = GroundingSettings()


def table(treated, control, *, padded=None, **more):
    genes = [f"G{i}" for i in range(treated.shape[1])]
    padded = np.zeros(len(genes), dtype=bool) if padded is None else padded
    return compute_de(
        sparse.csr_matrix(treated), sparse.csr_matrix(control), genes=genes, padded=padded, settings=SETTINGS, **more
    )


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    rates = np.geomspace(0.01, 20, 120)
    return rng.poisson(rates, (37, 120)).astype(float), rng.poisson(rates * 1.4, (51, 120)).astype(float)


def test_rank_sum_when_values_tie_then_equals_scipy(counts):
    for n_one, n_two in ((37, 51), (5, 3), (1, 1), (1, 20)):
        one, two = counts[0][:n_one], counts[1][:n_two]
        varies = np.ptp(np.vstack([one, two]), axis=0) > 0
        reference = stats.mannwhitneyu(one[:, varies], two[:, varies], method="asymptotic", use_continuity=False)
        auroc, z, p = rank_sum(sparse.csr_matrix(one), sparse.csr_matrix(two))
        assert np.abs(p[varies] - reference.pvalue).max() < 1e-10
        assert np.allclose(auroc[varies], reference.statistic / (n_one * n_two), atol=1e-12)
        assert np.array_equal(np.sign(z[varies].round(9)), np.sign((auroc[varies] - 0.5).round(9)))
        assert (p[~varies] == 1).all()
        assert (z[~varies] == 0).all()


def test_rank_sum_when_a_gene_is_constant_but_not_zero_then_p_is_one():
    same = sparse.csr_matrix(np.full((4, 1), 2.0))
    assert [float(x[0]) for x in rank_sum(same, same)] == [0.5, 0.0, 1.0]


def test_compute_de_when_effect_is_known_then_columns_match_by_hand(counts):
    one, two = counts
    de = table(one, two)
    cp = [1e4 * arm / arm.sum(axis=1, keepdims=True) for arm in (one, two)]
    assert np.allclose(de[keys.LOG2FC], np.log2((cp[0].mean(0) + 0.1) / (cp[1].mean(0) + 0.1)))
    assert np.allclose(de[keys.DELTA], np.log1p(cp[0]).mean(0) - np.log1p(cp[1]).mean(0))
    assert np.allclose(de[keys.DETECTION_DIFF], (one > 0).mean(0) - (two > 0).mean(0))
    tested = de[keys.IS_TESTED].to_numpy()
    assert np.array_equal(tested, np.maximum((one > 0).mean(0), (two > 0).mean(0)) >= 0.02)
    by_other = multipletests(de[keys.PVAL][tested], method="fdr_bh")[1]
    assert np.allclose(de[keys.PADJ][tested], by_other, atol=1e-15)
    assert de[keys.PADJ][~tested].isna().all()
    assert (de.attrs["n_treated"], de.attrs["n_control"]) == (37, 51)


def test_compute_de_when_a_gene_is_padded_then_it_is_never_tested():
    rng = np.random.default_rng(2)
    one, two = rng.poisson([50, 5, 5], (60, 3)), rng.poisson([1, 5, 5], (60, 3))
    assert table(one, two)[keys.PADJ][0] < 1e-9
    de = table(one, two, padded=np.array([True, False, False]))
    assert not de[keys.IS_TESTED][0]
    assert np.isnan(de[keys.PADJ][0])


def test_compute_de_when_only_another_arm_detects_a_gene_then_it_is_tested():
    one = np.array([[3, 0], [4, 0]])
    assert table(one, one)[keys.IS_TESTED].tolist() == [True, False]
    assert table(one, one, also_detected=[np.nan, 0.5])[keys.IS_TESTED].tolist() == [True, True]


def test_compute_de_when_arms_differ_in_width_then_raises():
    with pytest.raises(InvalidInputError, match="same genes"):
        table(np.ones((3, 4)), np.ones((3, 5)))


def test_rank_genes_groups_when_written_to_h5ad_then_scanpy_reads_and_plots_it(counts, tmp_path):
    import scanpy as sc

    de = table(*counts)
    adata = ad.AnnData(sparse.csr_matrix(counts[0].astype(np.float32)))
    adata.var_names = de[keys.GENE].tolist()
    adata.obs["role"] = "predicted"
    adata.obs["role"] = adata.obs["role"].astype("category")
    adata.uns["rank_genes_groups"] = rank_genes_groups(de)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    frame = sc.get.rank_genes_groups_df(back, group="predicted")
    assert list(frame) == ["names", "scores", "logfoldchanges", "pvals", "pvals_adj"]
    ranked = de.set_index(keys.GENE).loc[frame["names"]]
    assert np.allclose(frame["pvals"], ranked[keys.PVAL])
    assert np.allclose(frame["pvals_adj"], ranked[keys.PADJ], equal_nan=True)
    assert frame["scores"].is_monotonic_decreasing
    scanpys = np.log2((np.expm1(ranked["mean_treated"]) + 1e-9) / (np.expm1(ranked["mean_control"]) + 1e-9))
    assert np.allclose(frame["logfoldchanges"], scanpys, rtol=1e-5)
    mpl.use("Agg")
    axes = sc.pl.rank_genes_groups(back, n_genes=5, show=False)
    assert axes
    mpl.pyplot.close("all")


def test_rank_genes_groups_when_a_column_is_missing_then_raises(counts):
    with pytest.raises(MissingKeyError, match="pval"):
        rank_genes_groups(table(*counts).drop(columns=keys.PVAL))


def test_delta_when_an_arm_states_its_means_then_these_count_and_tests_do_not_change(counts):
    plain = table(*counts)
    stated = np.linspace(0, 2, 120)
    de = table(*counts, expected=(stated, None))
    np.testing.assert_allclose(de[keys.DELTA], stated - plain["mean_control"])
    np.testing.assert_array_equal(de[keys.PVAL], plain[keys.PVAL])
    np.testing.assert_array_equal(de[keys.LOG2FC], plain[keys.LOG2FC])
