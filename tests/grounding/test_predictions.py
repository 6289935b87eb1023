import dataclasses
import json

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.errors import ContractError
from haystack_kernel.grounding import PredictionFacts, build_predictions, update_run_facts

FACTS = PredictionFacts(
    run_id="run-20260101",
    iteration=2,
    prompt_strategy="direct",
    config={"seed": 0},
    rounds=[{"number": 1, "score": float("nan")}],
    provenance={"prompt_cells": ["a/b/1"]},
    licence="none: simple engine",
    citation="no model",
)
ADDED = {
    "cell_id",
    "task_type",
    "cell_type_query",
    "perturbation_query",
    "target_donor_id",
    "target_tissue",
    "target_disease_state",
    "prompt_strategy",
    "iteration",
    "grounding_score",
    "gen_logit",
    "role",
}


@pytest.fixture(scope="module")
def cells(arms_of_seed, alpha_shift):
    made = arms_of_seed(7)(alpha_shift, n=40)
    made.query.obs["tissue_name"] = [None, "blood"] * 20
    made.query.obs.index.name = "cell_id"
    for adata in (made.treated, made.control_pred):
        adata.obs_names = made.query.obs_names
    made.treated.var[keys.PADDED] = np.arange(1500) < 3
    return made


@pytest.fixture(scope="module")
def grounded(cells, ask, score):
    return score(cells, ask("ALPHA"))


@pytest.fixture
def adata(cells, ask, grounded):
    return build_predictions(cells, grounded=grounded, query=ask("ALPHA"), facts=FACTS)


def same(one, two):
    return one.nnz == two.nnz and (one != two).nnz == 0


def test_predictions_when_built_then_follow_the_contract(adata, cells, knowledge):
    assert sparse.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert same(adata.X, cells.treated.X)
    assert set(adata.layers) == {"control_pred", "query"}
    assert same(adata.layers["control_pred"], cells.control_pred.X)
    assert same(adata.layers["query"], cells.query.X)
    assert adata.obs_names.tolist() == cells.query.obs_names.tolist() == adata.obs["cell_id"].tolist()
    assert set(adata.obs) == set(cells.query.obs) | ADDED
    assert adata.obs["gen_logit"].isna().all()
    assert adata.obs["grounding_score"].iloc[0] == pytest.approx(7.3)
    assert adata.var_names.tolist() == cells.query.var_names.tolist()
    assert set(adata.var) == {
        "gene_symbol",
        "model_gene",
        "padded",
        "predicted_lfc",
        "predicted_pval",
        "is_de",
        "target_gene",
    }
    assert adata.var["padded"].sum() == 3
    assert adata.var["target_gene"].sum() == len(knowledge.perturbations["ALPHA"].response)


def test_predictions_when_written_and_read_then_unchanged(adata, tmp_path):
    before = adata.copy()
    adata.write_h5ad(tmp_path / "predictions.h5ad")
    back = ad.read_h5ad(tmp_path / "predictions.h5ad")
    for version in (adata, back):
        pd.testing.assert_frame_equal(version.obs, before.obs)
        pd.testing.assert_frame_equal(version.var, before.var)
        assert same(version.X, before.X)
        assert all(same(version.layers[name], before.layers[name]) for name in before.layers)
        assert version.uns["haystack"] == before.uns["haystack"]
        groups, expected = version.uns["rank_genes_groups"], before.uns["rank_genes_groups"]
        assert set(groups) == {"params", "names", "scores", "pvals", "pvals_adj", "logfoldchanges"}
        assert dict(groups["params"]) == expected["params"]
        assert all(
            np.array_equal(groups[name]["predicted"], expected[name]["predicted"], equal_nan=name != "names")
            for name in ("names", "scores", "pvals", "pvals_adj", "logfoldchanges")
        )


def test_predictions_when_read_then_uns_holds_json_without_nan(adata):
    story = {name: json.loads(text) for name, text in adata.uns["haystack"].items()}
    assert {"run_id", "question", "config", "rounds", "enrichment", "provenance", "licence", "citation"} <= set(story)
    assert story["run_id"] == "run-20260101"
    assert story["rounds"] == [{"number": 1, "score": None}]
    assert story["enrichment"]["components"][2]["score"] is None
    assert story["enrichment"]["pathways"][0]["pathway"] == "alpha pathway"


def test_predictions_when_plotted_by_scanpy_then_groups_are_found(adata, alpha_shift, tmp_path):
    import scanpy as sc

    adata.write_h5ad(tmp_path / "p.h5ad")
    back = ad.read_h5ad(tmp_path / "p.h5ad")
    frame = sc.get.rank_genes_groups_df(back, group="predicted", pval_cutoff=0.05)
    assert set(frame["names"][:10]) <= set(alpha_shift)
    mpl.use("Agg")
    assert sc.pl.rank_genes_groups(back, n_genes=4, show=False)
    assert sc.pl.rank_genes_groups_dotplot(back, n_genes=4, show=False)
    mpl.pyplot.close("all")


def test_predictions_when_there_is_no_control_prediction_then_no_layer(cells, ask, grounded):
    alone = dataclasses.replace(cells, control_pred=None)
    assert set(build_predictions(alone, grounded=grounded, query=ask("ALPHA"), facts=FACTS).layers) == {"query"}


def test_predictions_when_cells_differ_from_the_query_then_raises(cells, ask, grounded):
    wrong = dataclasses.replace(cells, treated=cells.treated[::-1].copy())
    with pytest.raises(ContractError, match="other cells"):
        build_predictions(wrong, grounded=grounded, query=ask("ALPHA"), facts=FACTS)


def test_run_facts_when_the_predictions_join_another_run_then_only_these_change(adata):
    before = dict(adata.uns["haystack"])
    other = dataclasses.replace(FACTS, run_id="run-20260202", rounds=[])
    after = update_run_facts(adata, facts=other).uns["haystack"]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"run_id", "rounds"}
    assert json.loads(after["run_id"]) == "run-20260202"
