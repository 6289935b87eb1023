"""Metrics held against cell-eval2 and cell-eval, only where CELL_EVAL names the Python of their environment."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import fields
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from haystack_kernel.backtest import anchored
from haystack_kernel.backtest.judge import REPLICATE, REPLICATE_CHANGE, REPLICATE_TRUTH, compare_halves
from haystack_kernel.backtest.metrics import compare_changes
from haystack_kernel.grounding.de.profiles import log_normalise
from inference.effects import measure_effect, summarise_arm

CELL_EVAL = os.environ.get("CELL_EVAL")
pytestmark = pytest.mark.skipif(not CELL_EVAL, reason="CELL_EVAL names no Python with cell-eval2 and cell-eval")

CONTROL, N_GENES = "non-targeting", 300
SIX = {
    "discrimination": "pds_cosine",
    "error": "expr_mse_unbiased_capped",
    "size": "expr_distance_unbiased",
    "direction_fidelity": "de_wilcoxon_direction_fidelity_yield_raw",
    "direction_reach": "de_wilcoxon_direction_reach_raw",
    "changed_genes": "de_wilcoxon_sig_jaccard",
    "fold_change_error": "de_wilcoxon_lfc_nmae",
}


def designed(seed, *, spoilt):
    """Cells of five treatments and predictions; ``spoilt``: one is reversed, one is no change, two are alike."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(0.6, 1.0, N_GENES)
    base[-20:] = 0.002  # below the limit of expression, but some rise

    def draw(factor, n):
        depth = rng.lognormal(0, 0.4, (n, 1))
        return sparse.csr_matrix(rng.poisson(base * factor * depth).astype(np.float32))

    measured, predicted = {CONTROL: draw(1.0, 180)}, {}
    factors = []
    for number, n_cells in enumerate((120, 60, 200, 40, 15)):
        factor = np.ones(N_GENES)
        factor[rng.permutation(N_GENES - 20)[:60]] = np.exp(rng.normal(0, 1.0, 60))
        factor[-20:] = np.where(rng.random(20) < 0.3, 30.0, 1.0)
        measured[f"T{number}"] = draw(factor, n_cells)
        factors.append(np.exp(0.6 * np.log(factor) + rng.normal(0, 0.15, N_GENES) * (factor != 1)))
    if spoilt:
        factors[0], factors[1], factors[3] = 1 / factors[0], np.ones(N_GENES), factors[2]
    for number, n_cells in enumerate((120, 100, 30, 40, 60)):
        predicted[f"T{number}"] = draw(factors[number], n_cells)
    return measured, predicted


def alike(seed):
    """One prediction for every treatment, and two cells as another: they may not be credited with their noise."""
    measured, predicted = designed(seed, spoilt=False)
    same = predicted["T0"]
    return measured, dict.fromkeys(predicted, same) | {"T4": predicted["T4"][:2]}


def knock_outs(shared):
    """Measured knock-outs: the first two replicates as predictions of the third."""
    cells = ad.read_h5ad(shared / "data" / "perturbation" / "papalexi_thp1_299genes_public.h5ad")
    guides, donors = (cells.obs[name].astype(str).to_numpy() for name in ("perturbation", "donor_id"))
    last = np.unique(donors)[-1]
    counts = sparse.csr_matrix(cells.X)
    measured = {name: counts[(guides == name) & (donors == last)] for name in np.unique(guides)}
    predicted = {name: counts[(guides == name) & (donors != last)] for name in np.unique(guides) if name != "control"}
    measured[CONTROL] = measured.pop("control")
    return measured, predicted


CASES = {
    "graded": lambda _: designed(0, spoilt=False),
    "another": lambda _: designed(1, spoilt=False),
    "spoilt": lambda _: designed(2, spoilt=True),
    "alike": lambda _: alike(3),
    "knock-outs": lambda request: knock_outs(request.getfixturevalue("shared")),
}


def write(path, arms):
    n_genes = arms[CONTROL].shape[1]
    labels = [name for name, counts in arms.items() for _ in range(counts.shape[0])]
    obs = pd.DataFrame({"target": labels}, index=[f"c{i}" for i in range(len(labels))])
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    ad.AnnData(sparse.vstack(list(arms.values()), format="csr"), obs=obs, var=var).write_h5ad(path)


def ask_libraries(measured, predicted, *, folder, control_source="real"):
    """Metrics of the libraries, by name and treatment; ``pred``: the prediction has control cells of its own."""
    paths = [folder / "predicted.h5ad", folder / "measured.h5ad"]
    for path, arms in zip(paths, ({CONTROL: measured[CONTROL]} | predicted, measured), strict=True):
        write(path, arms)
    recorder = Path(__file__).with_name("record_cell_eval.py")
    command = [CELL_EVAL, recorder, *paths, str(anchored.PSEUDO_CPM), control_source]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def six_of(measured, predicted):
    """Our values of the same metrics."""
    control = measured[CONTROL]
    expressed = anchored.expressed_genes(control)
    bulks = {name: anchored.bulk_profile(counts) for name, counts in measured.items()}
    guesses = {name: anchored.bulk_profile(counts) for name, counts in predicted.items()}
    rows = {
        name: anchored.compare_cells(
            *(anchored.rank_tests(arm, control, expressed=expressed) for arm in (counts, measured[name])),
            bulk=guesses[name],
            truth=bulks[name],
            control=bulks[CONTROL],
        )
        for name, counts in predicted.items()
    }
    share = anchored.noise_share(list(rows.values()), [guesses[name].profile for name in rows])
    changes = [bulks[name].profile - bulks[CONTROL].profile for name in rows]
    found = {name: {} for name in SIX}
    for own, (name, row) in enumerate(rows.items()):
        values = {metric: getattr(row, metric) for metric in SIX if metric != "discrimination"}
        values["error"] = row.error - share * row.own_noise
        change = guesses[name].profile - bulks[CONTROL].profile
        values["discrimination"] = anchored.discriminate(change, changes, own=own)
        for metric, value in values.items():
            found[metric][name] = value
    return found


@pytest.mark.parametrize("case", CASES)
def test_metrics_are_those_of_the_libraries(case, request, tmp_path):
    measured, predicted = CASES[case](request)
    theirs, ours = ask_libraries(measured, predicted, folder=tmp_path), six_of(measured, predicted)
    for name, known in SIX.items():
        values, wanted = (
            {one: value for one, value in side.items() if not np.isnan(value)}
            for side in (ours[name], theirs.get(known, {}))
        )
        assert values == pytest.approx(wanted, rel=1e-6, abs=1e-9), name
    error, size = (sum(ours[name].values()) for name in ("error", "size"))
    if "refused" in theirs:  # as we do
        assert size < 0
    else:
        assert error / size == pytest.approx(theirs["all expr_mse_unbiased_capped_norm"], rel=1e-6)
    base = log_normalise(measured[CONTROL])
    for name, counts in predicted.items():
        truth = measure_effect(*(summarise_arm(one) for one in (log_normalise(measured[name]), base)))
        change = np.asarray(log_normalise(counts).mean(axis=0) - base.mean(axis=0)).ravel()
        near = compare_changes(change, truth, tested=np.ones(len(change), bool))
        assert near.pearson == pytest.approx(theirs["pearson"][name], abs=1e-5)
        assert near.rmse**2 == pytest.approx(theirs["squared error"][name], rel=1e-4)


def test_a_replicate_is_compared_as_the_library_compares_halves(tmp_path):
    """Each half has its own control cells; the library gives no fold changes against the whole measurement."""
    measured, _ = designed(5, spoilt=False)
    measured = {name: counts[:, :-20] for name, counts in measured.items()}
    halves = {name: (counts[::2], counts[1::2]) for name, counts in measured.items()}
    first, second = ({name: pair[side] for name, pair in halves.items()} for side in (0, 1))
    theirs = ask_libraries(first, second, folder=tmp_path, control_source="pred")
    expressed = np.logical_and(*(anchored.expressed_genes(half) for half in halves[CONTROL]))
    assert expressed.mean() > 0.8
    found = {}
    for name in theirs["pds_cosine"]:
        full = anchored.rank_tests(measured[name], measured[CONTROL], expressed=expressed)
        every = np.ones(len(expressed), bool)
        found[name] = compare_halves(halves[name], halves[CONTROL], tested=every, expressed=expressed, full=full)
    names = [field.name for field in fields(anchored.Sixfold)]
    rows = {name: anchored.Sixfold(**{one: values[one] for one in names}) for name, (values, _, _) in found.items()}
    share = anchored.noise_share(list(rows.values()), [profiles[REPLICATE] for _, profiles, _ in found.values()])
    truths = [profiles[REPLICATE_TRUTH] for _, profiles, _ in found.values()]
    for own, (name, (_, profiles, _)) in enumerate(found.items()):
        row = rows[name]
        assert row.error - share * row.own_noise == pytest.approx(theirs["expr_mse_unbiased_capped"][name], rel=1e-6)
        assert row.size == pytest.approx(theirs["expr_distance_unbiased"][name], rel=1e-6)
        rank = anchored.discriminate(profiles[REPLICATE_CHANGE], truths, own=own)
        assert rank == pytest.approx(theirs["pds_cosine"][name])
        assert found[name][0]["pearson"] == pytest.approx(theirs["pearson"][name], abs=1e-5)
        for metric in ("direction_fidelity", "direction_reach", "changed_genes"):
            assert getattr(row, metric) == pytest.approx(theirs[SIX[metric]][name], abs=0.1), metric
