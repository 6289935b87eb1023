import dataclasses

import numpy as np
import pytest

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingContext
from haystack_kernel.grounding.de.resample import without_donors
from haystack_kernel.grounding.de.table import PSEUDO_CP10K, compute_de, demand_stability
from inference.baselines import Cells, predict


@pytest.fixture(scope="module")
def table(score, settings, ask):
    quick = settings.model_copy(update={"n_draws": 99})

    def run(cells, **changes):
        cells = dataclasses.replace(cells, baselines={}, **changes)
        return score(cells, ask("ALPHA"), settings=quick, context=GroundingContext(seed=0, engine="stack")).de

    return run


def test_stability_when_other_seeds_disagree_then_the_call_is_withdrawn(alpha_cells, arms, alpha_shift, table):
    flat, same = arms({}), arms(alpha_shift)
    once = table(alpha_cells)
    held = table(alpha_cells, repeats=((same.treated, same.control_pred),) * 2)
    lost = table(alpha_cells, repeats=((same.treated, same.control_pred), (flat.treated, flat.control_pred)))
    assert once[keys.STABILITY].isna().all()
    assert once[keys.IS_DE].sum() > 10
    assert held[keys.IS_DE].sum() > 10
    assert lost[keys.IS_DE].sum() <= 2
    assert set(lost[keys.STABILITY]) <= {0, 0.5, 1}
    assert lost.attrs["n_resamples"] == 2


def test_stability_when_recomputed_gene_by_gene_then_equal(alpha_cells, arms, alpha_shift, settings):
    cells, again = alpha_cells, arms(alpha_shift)
    genes = list(cells.query.var_names)
    de = compute_de(cells.treated.X, cells.query.X, genes=genes, padded=np.zeros(len(genes), bool), settings=settings)
    found = demand_stability(de, resamples=[(again.treated.X, again.query.X)], settings=settings)

    def mean(matrix):
        dense = matrix.toarray().astype(float)
        return (1e4 * dense / dense.sum(axis=1, keepdims=True)).mean(axis=0) + PSEUDO_CP10K

    lfc = np.log2(mean(again.treated.X) / mean(again.query.X))
    expected = (np.sign(lfc) == np.sign(de[keys.LOG2FC])) & (np.abs(lfc) >= settings.min_abs_log2fc)
    assert found[keys.STABILITY].tolist() == expected.astype(float).tolist()
    assert found[keys.IS_DE].tolist() == (de[keys.IS_DE] & expected).tolist()
    assert de[keys.STABILITY].isna().all()


def test_without_donors_when_a_baseline_then_one_prediction_per_donor_left_out(alpha_cells):
    cells = alpha_cells
    found = without_donors(cells, engine="shift", seed=3)
    assert len(found) == 4
    keep = [(adata.obs[keys.DONOR] != "d1").to_numpy() for adata in (cells.prompt, cells.prompt_control)]

    def roles(adata):
        labels = [adata.obs[name].astype(str).to_numpy() for name in (keys.CELL_TYPE, keys.DONOR)]
        return Cells(adata.X, tuple(adata.var_names), *labels)

    expected = predict(
        "shift",
        prompt=roles(cells.prompt[keep[0]].copy()),
        control=roles(cells.prompt_control[keep[1]].copy()),
        query=roles(cells.query),
        seed=3,
    ).counts
    assert (found[0] != expected).nnz == 0


def test_without_donors_when_the_engine_has_a_model_or_two_donors_are_left_then_nothing(alpha_cells):
    assert all(without_donors(alpha_cells, engine=engine, seed=0) == [] for engine in ("stack", "none", ""))
    two = alpha_cells.prompt[alpha_cells.prompt.obs[keys.DONOR].isin(["d1", "d2"])].copy()
    assert without_donors(dataclasses.replace(alpha_cells, prompt=two), engine="shift", seed=0) == []


def test_when_a_gene_is_padded_then_no_seed_can_call_it(arms, alpha_shift, table):
    cells, again = arms(alpha_shift), arms(alpha_shift)
    cells.treated.var[keys.PADDED] = cells.treated.var_names.isin(list(alpha_shift))
    de = table(cells, repeats=((again.treated, again.control_pred),))
    assert not de.loc[de[keys.PADDED], keys.IS_DE].any()
    assert de.loc[de[keys.PADDED], keys.PADJ].isna().all()
