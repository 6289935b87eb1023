"""The baselines on real IFN-beta cells: response of a hidden cell type, density, and the null."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from scipy.stats import false_discovery_control, mannwhitneyu

from inference.baselines import BASELINES, Cells, predict
from inference.draw import library_sizes, log_normalise

pytestmark = pytest.mark.slow

TYPES = ("CD14+ monocyte", "CD4 T cell", "CD8 T cell", "B cell", "NK cell", "dendritic cell")


@pytest.fixture(scope="module")
def kang(shared):
    return ad.read_h5ad(shared / "data" / "perturbation" / "kang2018_ifnb_public.h5ad")


@pytest.fixture(scope="module")
def hidden(kang):
    """Per hidden type: each engine's realised shift, the true shift, and the counts; controls split in two halves."""
    rng = np.random.default_rng(0)
    cell_type, is_treated = kang.obs["cell_type"].to_numpy(str), (kang.obs["condition"] != "ctrl").to_numpy()
    found = {}
    for name in TYPES:
        half = np.array_split(rng.permutation(np.flatnonzero((cell_type == name) & ~is_treated)), 2)
        query, truth, treated = (_cells(kang, rows) for rows in (*half, (cell_type == name) & is_treated))
        prompt, control = (_cells(kang, (cell_type != name) & arm) for arm in (is_treated, ~is_treated))
        found[name] = {"query": query, "truth": truth, "delta": _mean(treated.counts) - _mean(truth.counts)}
        for engine in BASELINES:
            found[name][engine] = predict(engine, prompt=prompt, control=control, query=query, seed=1)
    return found


def _cells(adata, rows):
    part = adata[rows]
    labels = [part.obs[name].to_numpy(dtype=str) for name in ("cell_type", "donor_id")]
    return Cells(sparse.csr_matrix(part.X), tuple(adata.var_names), *labels)


def _mean(counts, library=None):
    return np.asarray(log_normalise(counts, library=library).mean(axis=0)).ravel()


def _pearson(item, engine):
    shift = _mean(item[engine].counts, library_sizes(item["query"].counts)) - _mean(item["query"].counts)
    return float(np.corrcoef(shift, item["delta"])[0, 1]) if shift.any() else 0.0


def _n_significant(treated, reference):
    first, second = (log_normalise(item).toarray() for item in (treated, reference))
    is_tested = ((first > 0).mean(0) >= 0.02) | ((second > 0).mean(0) >= 0.02)
    pval = np.nan_to_num(mannwhitneyu(first[:, is_tested], second[:, is_tested], axis=0).pvalue, nan=1.0)
    return int((false_discovery_control(pval) < 0.05).sum()), int(is_tested.sum())


@pytest.mark.slow
def test_weighted_beats_mean_and_shift_on_hidden_types(hidden):
    table = {engine: [_pearson(hidden[name], engine) for name in TYPES] for engine in BASELINES}
    average = {engine: float(np.mean(values)) for engine, values in table.items()}
    for engine, values in table.items():
        print(engine, [round(value, 3) for value in values], round(average[engine], 3))  # noqa: T201
    assert table["none"] == [0.0] * 6
    assert average["weighted"] > 0.72
    assert average["weighted"] > average["mean"] + 0.03
    assert average["weighted"] > average["shift"] + 0.03


def test_realised_mean_stands_at_the_target(hidden):
    for name in TYPES:
        item, query = hidden[name]["weighted"], hidden[name]["query"]
        realised = _mean(item.counts, library_sizes(query.counts))
        half_step = np.log1p(1e4 / library_sizes(query.counts).min()) / query.counts.shape[0] / 2
        assert np.abs(realised - item.expected_log).max() <= half_step + 1e-9


def test_predicted_cells_stay_as_sparse_as_the_query(hidden):
    for name in TYPES:
        before, after = hidden[name]["query"].counts, hidden[name]["weighted"].counts
        assert after.nnz < 1.1 * before.nnz


@pytest.mark.slow
def test_null_prompt_finds_next_to_no_gene_where_the_real_one_finds_many(kang, hidden):
    cell_type, is_control = kang.obs["cell_type"].to_numpy(str), (kang.obs["condition"] == "ctrl").to_numpy()
    rng = np.random.default_rng(1)
    rows = rng.permutation(np.flatnonzero((cell_type == "CD14+ monocyte") & is_control))
    prompt, control = (_cells(kang, half) for half in np.array_split(rows, 2))
    near = _cells(kang, (cell_type == "FCGR3A+ monocyte") & is_control)
    for query in (near, hidden["CD4 T cell"]["query"], hidden["B cell"]["query"]):
        for engine in ("shift", "weighted"):
            null = predict(engine, prompt=prompt, control=control, query=query, seed=1)
            n_significant, n_tested = _n_significant(null.counts, query.counts)
            assert n_significant <= 0.001 * n_tested
    item = hidden["CD4 T cell"]
    assert _n_significant(item["weighted"].counts, item["query"].counts)[0] > 50
