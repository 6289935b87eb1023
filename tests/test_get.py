"""Tables are read from a run, from the AnnData of its predictions, and from tables alike; figures take all three."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import haystack_kernel as haystack
from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(finished):
    ports, record = finished
    return Run(record, ports=ports)


@pytest.fixture(scope="module")
def adata(run, tmp_path_factory):
    """The predictions as a colleague gets them: the file alone."""
    path = tmp_path_factory.mktemp("file") / "predictions.h5ad"
    run.predictions.write_h5ad(path)
    return ad.read_h5ad(path)


@pytest.mark.parametrize("name", ["de", "pathways", "candidates", "prompts", "rounds"])
def test_a_run_its_predictions_and_the_table_give_the_same_rows(run, adata, name):
    read = getattr(haystack.get, name)
    of_run, of_file = read(run), read(adata)
    assert len(of_run) > 0
    key = {"de": "gene", "pathways": "pathway", "candidates": "key", "prompts": "cell_id", "rounds": "round"}[name]
    assert of_run[key].tolist() == of_file[key].tolist()
    shared = [one for one in of_run if one in of_file and pd.api.types.is_numeric_dtype(of_run[one])]
    if name == "rounds":
        shared.remove("is_best")  # decided after the file was written
    assert shared
    for one in shared:
        np.testing.assert_allclose(of_run[one].to_numpy(float), of_file[one].to_numpy(float), rtol=1e-6)
    assert read(of_run) is of_run
    of_run[key] = "changed"
    assert read(run)[key].tolist() == of_file[key].tolist()


def test_cells_come_with_their_place_on_the_map(run, adata):
    assert {"prompt", "control", "query", "predicted"} == set(haystack.get.cells(run)["role"])
    with pytest.raises(MissingKeyError, match=r"holds no map of its cells.*scanpy\.tl\.umap"):
        haystack.get.cells(adata)
    mapped = adata.copy()
    mapped.obsm["X_umap"] = np.arange(2.0 * adata.n_obs).reshape(-1, 2)
    assert haystack.get.cells(mapped)["umap2"].tolist() == mapped.obsm["X_umap"][:, 1].tolist()
    assert set(haystack.get.cells(mapped)["role"]) == {"predicted"}


def test_figures_take_a_run_its_predictions_or_a_table(run, adata):
    for draw, table in {
        haystack.pl.volcano: run.de,
        haystack.pl.pathway_bars: run.pathways,
        haystack.pl.roles: run.record,
        haystack.pl.umap: run.embedding,
    }.items():
        given = [run, table] if draw is haystack.pl.umap else [run, table, adata]
        said = [draw(one).get_label() for one in given]
        assert len(set(said)) == 1, said


def test_what_scanpy_tested_is_read_too():
    """Ten genes of two groups: GENE0 is far higher in "stim"; the calls follow the thresholds of the settings."""
    import scanpy as sc

    rng = np.random.default_rng(0)
    counts = rng.poisson(5, size=(60, 10)).astype(np.float32)
    counts[:30, 0] += 60
    obs = pd.DataFrame({"condition": ["stim"] * 30 + ["ctrl"] * 30}, index=[f"c{n}" for n in range(60)])
    adata = ad.AnnData(
        np.log1p(counts), obs=obs.astype("category"), var=pd.DataFrame(index=[f"GENE{n}" for n in range(10)])
    )
    with pytest.raises(MissingKeyError, match=r"holds no differential expression.*rank_genes_groups"):
        haystack.get.de(adata)
    sc.tl.rank_genes_groups(adata, "condition", method="t-test")  # wilcoxon compiles for seconds
    with pytest.raises(InvalidInputError, match="has the groups ctrl, stim; name one"):
        haystack.get.de(adata)
    with pytest.raises(InvalidInputError, match="no group 'ifn'; it has ctrl, stim"):
        haystack.get.de(adata, group="ifn")
    table = haystack.get.de(adata, group="stim").set_index(keys.GENE)
    assert table[keys.IS_DE].sum() == 1
    assert table.loc["GENE0", keys.LOG2FC] == pytest.approx(
        sc.get.rank_genes_groups_df(adata, "stim").logfoldchanges[0]
    )
    assert haystack.pl.volcano(haystack.get.de(adata, group="stim")).get_label().startswith("Volcano plot of 10 tested")


def test_what_holds_no_table_is_named(adata):
    with pytest.raises(InvalidInputError, match="cannot read pathway statistics from str; give a Run"):
        haystack.get.pathways("run-1")
    with pytest.raises(MissingKeyError, match="no table of rounds: it lacks round, score and has gene"):
        haystack.get.rounds(pd.DataFrame({"gene": ["A"]}))
    bare = ad.AnnData(np.ones((2, 2), dtype=np.float32))
    with pytest.raises(MissingKeyError, match=r"does not hold prompt candidates \(its uns has nothing"):
        haystack.get.candidates(bare)
    old = adata.copy()
    old.uns["haystack"] = {"run_id": '"run-20260101t000000-abcdef"'}
    with pytest.raises(MissingKeyError, match="earlier version"):
        haystack.get.rounds(old)
