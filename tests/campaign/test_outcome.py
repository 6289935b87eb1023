"""A sealed prediction meets its measurement: cells and tables of it, what is refused, and what is counted once."""

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from haystack_kernel import keys
from haystack_kernel.atlas import calibrations
from haystack_kernel.campaign.outcome import list_outcomes, record_outcome
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.grounding.confidence.backtested import back_tested_aspect
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.schema import Seal
from haystack_kernel.store import layout

pytestmark = pytest.mark.slow

N_CELLS = 60
FACTOR = 6.0  # of the tiny atlas, for genes of the known response


@pytest.fixture(scope="module")
def measured(tiny_h5ad):
    """B cells of a new experiment: untreated as in the atlas, and treated with the response that it was made of."""
    rng = np.random.default_rng(5)
    source = ad.read_h5ad(tiny_h5ad)
    of_type = (source.obs["cell_type"] == "B cell") & (source.obs["perturbation"] == "control")
    rate = np.asarray(source[of_type].X.mean(axis=0)).ravel()
    response = load_knowledge().perturbations["IFN-beta"].response
    effect = np.array([FACTOR ** response.get(gene, 0) for gene in source.var_names])
    counts = np.vstack([rng.poisson(rate, (N_CELLS, len(rate))), rng.poisson(rate * effect, (N_CELLS, len(rate)))])
    obs = pd.DataFrame({"cell_type": "B cell", "stim": ["untreated"] * N_CELLS + ["IFN-beta"] * N_CELLS})
    obs.index = [f"new{number}" for number in range(len(obs))]
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=source.var[[]].copy())


@pytest.fixture
def own_settings(sealed_run, tiny_settings, tmp_path):
    """The storage with the seal, and an atlas folder that this test may write into."""
    root = shutil.copytree(tiny_settings.atlas_root, tmp_path / "atlases")
    return tiny_settings.model_copy(update={"atlas_root": str(root)})


def logs(counts):
    counts = counts.toarray()
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def as_table(measured):
    """What a differential expression program writes of the same cells: log2 of the ratio of means, with an error."""
    counts = measured.X.toarray()
    share = 1e4 * counts / counts.sum(axis=1, keepdims=True)
    control, treated = share[:N_CELLS], share[N_CELLS:]
    means = [arm.mean(axis=0) + 0.05 for arm in (treated, control)]
    spreads = [arm.std(axis=0) / np.sqrt(N_CELLS) / np.log(2) for arm in (treated, control)]
    lfc = np.log2(means[0] / means[1])
    table = {
        "gene": measured.var_names,
        "log2FoldChange": lfc,
        "lfcSE": np.hypot(spreads[0] / means[0], spreads[1] / means[1]) + 1e-3,
        "lot": "7",
    }
    return pd.DataFrame(table)


def test_measured_cells_are_compared_as_back_tests_compare(sealed_run, own_settings, measured, tmp_path):
    path = tmp_path / "measured.h5ad"
    measured.write_h5ad(path)
    (found,) = record_outcome(sealed_run.id, path, settings=own_settings).outcomes
    de = pd.read_csv(Path(own_settings.storage) / layout.RUNS / sealed_run.of / layout.DE).set_index(keys.GENE)
    truth = logs(measured.X[N_CELLS:]).mean(axis=0) - logs(measured.X[:N_CELLS]).mean(axis=0)
    seen = np.maximum(*[(measured.X[rows] > 0).mean(axis=0).A1 for rows in (slice(N_CELLS), slice(N_CELLS, None))])
    own = de.reindex(measured.var_names)
    tested = (own[keys.IS_TESTED].fillna(value=False).to_numpy(bool) | (seen >= 0.02)) & own[keys.DELTA].notna()
    assert found.n_genes == int(tested.sum())
    assert found.pearson == pytest.approx(np.corrcoef(own[keys.DELTA][tested], truth[tested])[0, 1], abs=1e-6)
    assert found.pearson > 0.6
    assert found.direction > 0.9
    called = own[keys.IS_DE][tested].astype(bool).to_numpy()
    right = np.sign(own[keys.EFFECT][tested]) == np.sign(truth[tested])
    assert (found.n_called, found.called_right) == (int(called.sum()), pytest.approx(right[called].mean()))
    assert 0.6 < found.coverage <= 1
    assert (found.n_treated, found.n_control, found.source, found.scale) == (N_CELLS, N_CELLS, path.name, "cells")
    assert "IFN-beta in B cell" in found.words


def test_the_same_measurement_counts_once_in_any_order_and_as_cells_or_table(sealed_run, own_settings, measured):
    first = record_outcome(sealed_run, measured, settings=own_settings)
    shuffled = measured[np.random.default_rng(0).permutation(measured.n_obs)].copy()[:, ::-1].copy()
    again = record_outcome(sealed_run, shuffled, settings=own_settings)
    assert [one.id for one in again.outcomes] == [one.id for one in first.outcomes]
    as_effects = record_outcome(sealed_run, as_table(measured), settings=own_settings)
    assert as_effects.outcomes[0].id != first.outcomes[0].id
    kept = list_outcomes(sealed_run.id, settings=own_settings).outcomes
    assert sorted(one.id for one in kept) == sorted({first.outcomes[0].id, as_effects.outcomes[0].id})
    for one in (first, again, as_effects):
        (found,) = one.calibrations
        assert (found.n_pairs, found.n_sealed, found.backtest) == (1, 1, "")
    held = calibrations.find("tiny", "weighted", root=own_settings.atlas_root, cache=own_settings.cache)
    assert held.model_dump_json() == as_effects.calibrations[0].model_dump_json()  # NaN equals NaN
    assert not back_tested_aspect(None).words


def test_a_table_of_fold_changes_says_nearly_the_same_as_its_cells(sealed_run, own_settings, measured, tmp_path):
    cells = record_outcome(sealed_run, measured, settings=own_settings).outcomes[0]
    path = tmp_path / "deseq2.csv"
    other = as_table(measured).assign(cell_type="NK cell", log2FoldChange=0.0)
    pd.concat([as_table(measured).assign(cell_type="B lymphocyte"), other]).to_csv(path, index=False)
    (table,) = record_outcome(sealed_run, path, settings=own_settings).outcomes
    assert table.pearson == pytest.approx(cells.pearson, abs=0.05)
    assert table.direction == pytest.approx(cells.direction, abs=0.05)
    assert table.coverage == pytest.approx(cells.coverage, abs=0.1)
    assert table.scale == "log2fc"
    told = " ".join(table.unmatched)
    assert "columns not used: lot" in told
    assert "rows of other cell types were left out: NK cell" in told
    assert "does not say of which perturbation it is: taken as IFN-beta" in told


def test_cells_that_the_prediction_was_made_from_are_no_test_of_it(sealed_run, own_settings, measured, tiny_h5ad):
    source = ad.read_h5ad(tiny_h5ad)
    own = source[(source.obs["cell_type"] == "B cell") & (source.obs["perturbation"] == "control")].copy()
    own.obs = pd.DataFrame({"cell_type": "B cell", "stim": "untreated"}, index=[f"o{n}" for n in range(own.n_obs)])
    both = ad.concat([own, measured[N_CELLS:]])
    (found,) = record_outcome(sealed_run, both, settings=own_settings).outcomes
    n_query = 24
    assert found.n_control == own.n_obs - n_query
    assert f"{n_query} control cells of the measurement were query cells: left out" in found.unmatched


def test_a_prediction_that_was_changed_since_its_seal_is_refused(sealed_run, own_settings, measured):
    path = Path(own_settings.storage) / layout.RUNS / sealed_run.of / layout.DE
    table = pd.read_csv(path)
    table.loc[0, keys.DELTA] += 0.001
    table.to_csv(path, index=False, float_format="%.9g")
    with pytest.raises(InvalidInputError, match=r"de\.csv of .* was changed after it was sealed"):
        record_outcome(sealed_run, measured, settings=own_settings)
    assert not list_outcomes(sealed_run, settings=own_settings).outcomes
    path.unlink()
    with pytest.raises(NotFoundError, match="is not in"):
        record_outcome(sealed_run, measured, settings=own_settings)


def test_a_measurement_of_something_else_is_refused_with_what_it_holds(sealed_run, own_settings, measured, tmp_path):
    other = measured.copy()
    other.obs["stim"] = ["untreated"] * N_CELLS + ["TNF-alpha"] * N_CELLS
    with pytest.raises(InvalidInputError, match="IFN-beta"):
        record_outcome(sealed_run, other, settings=own_settings)
    table = as_table(measured)
    with pytest.raises(InvalidInputError, match=r"holds no perturbation 'IFN-beta'; it holds .*TNF"):
        record_outcome(sealed_run, table.assign(perturbation="TNF"), settings=own_settings)
    with pytest.raises(InvalidInputError, match=r"no column of effects .*its columns are gene, lot"):
        record_outcome(sealed_run, table[["gene", "lot"]], settings=own_settings)
    with pytest.raises(NotFoundError, match="there is no measurement at"):
        record_outcome(sealed_run, tmp_path / "none.csv", settings=own_settings)
    (found,) = record_outcome(sealed_run, table.iloc[:50], settings=own_settings).outcomes
    assert found.reason.endswith("100 are needed")
    assert found.not_counted
    seal = Seal.model_validate(sealed_run.model_dump())
    with pytest.raises(InvalidInputError, match="holds no prediction number 3"):
        record_outcome(seal, table, number=3, settings=own_settings)
