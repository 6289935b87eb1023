"""One pair compared: every engine's prediction, and a replicate of the measurement, against the measured response.

In: the files of the pair's folder. Out: facts and profiles, kept as ``judged.npz``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel import keys
from haystack_kernel.backtest import anchored
from haystack_kernel.backtest.metrics import compare_changes, highest_correlation
from haystack_kernel.errors import ContractError
from haystack_kernel.grounding.de.profiles import correlate, log_normalise
from haystack_kernel.retrieval.cells.sample import make_rng
from haystack_kernel.store import layout
from inference.effects import measure_effect, summarise_arm
from inference.manifest import ERROR_SUFFIX, OUTPUT_UNS

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray
    from scipy import sparse

    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.schema import BacktestPlan

    Floats = NDArray[np.float64]

TYPE_MEAN = "type-mean"  # the mean response of the cell type to other treatments
DECOY = "decoy"  # the best simple engine with a prompt of another treatment
REPLICATE = "replicate"
CONTROL_SUFFIX = "-control"  # task of an engine whose effect is the difference of two predictions
MIN_DETECTION = 0.02
N_SPLITS = 2  # of the measurement into two halves, for the replicate


@dataclass(frozen=True, eq=False)
class Measured:
    """The truth of a pair: raw counts of its arms and of the query cells, over the same genes."""

    treated: sparse.csr_matrix
    control: sparse.csr_matrix
    query: sparse.csr_matrix
    genes: list[str]


def judge_pair(number: int, plan: BacktestPlan, *, tasks: list[str], folder: CampaignFolder) -> bool:
    """Compare the predictions of a pair, unless that is done; whether it has been done before."""
    place = layout.pair_folder(number)
    path = f"{place}/{layout.JUDGED}"
    if folder.read(path) is not None:
        return True
    measured = _read_measured(place, folder)
    tested = _tested(measured)
    arms = [summarise_arm(log_normalise(one)) for one in (measured.treated, measured.control)]
    truth = measure_effect(*arms)
    expressed = anchored.expressed_genes(measured.control)
    real = anchored.rank_tests(measured.treated, measured.control, expressed=expressed)
    bulks = {
        name: anchored.bulk_profile(one) for name, one in (("truth", measured.treated), ("control", measured.control))
    }
    base = np.asarray(log_normalise(measured.query).mean(axis=0)).ravel()
    facts: dict[str, Any] = {"engines": {}, "n_tested": int(tested.sum()), "n_changed": int(real.is_changed.sum())}
    profiles = {name: bulk.profile for name, bulk in bulks.items()}
    profiles[keys.QUERY] = anchored.bulk_profile(measured.query).profile
    for engine in tasks:
        if engine.endswith(CONTROL_SUFFIX):
            continue
        predicted = folder.read_cells(layout.output_file(place, engine))
        if predicted is None:
            facts["engines"][engine] = {"failure": _why_missing(place, engine, folder)}
            continue
        beside = None
        if engine + CONTROL_SUFFIX in tasks:
            beside = folder.read_cells(layout.output_file(place, engine + CONTROL_SUFFIX))
        delta = _mean_log(predicted) - (base if beside is None else _mean_log(beside))
        padded = (
            predicted.var[keys.PADDED].to_numpy(bool) if keys.PADDED in predicted.var else np.zeros(len(delta), bool)
        )
        counts = predicted.X.tocsr()
        bulk = anchored.bulk_profile(counts)
        six = anchored.compare_cells(
            anchored.rank_tests(counts, measured.control, expressed=expressed),
            real,
            bulk=bulk,
            truth=bulks["truth"],
            control=bulks["control"],
        )
        near = compare_changes(delta, truth, tested=tested & ~padded)
        facts["engines"][engine] = {**asdict(near), **asdict(six), "model": _model_of(predicted)}
        profiles[engine] = bulk.profile
    facts["engines"][REPLICATE], profiles[REPLICATE], halves = _replicate(
        measured, tested=tested, expressed=expressed, full=real, seed=plan.seed + number
    )
    facts["split_halves"] = halves
    facts["highest_r"] = highest_correlation(halves)
    folder.write_arrays(path, facts, profiles)
    return False


def _read_measured(place: str, folder: CampaignFolder) -> Measured:
    parts = {}
    for name in (layout.TRUTH, layout.TRUTH_CONTROL, keys.QUERY):
        adata = folder.read_cells(layout.cells_file(place, name))
        if adata is None:
            msg = f"{layout.cells_file(place, name)} of the back-test is gone; remove the folder of the pair and repeat"
            raise ContractError(msg, path=place)
        parts[name] = adata
    genes = list(parts[keys.QUERY].var_names)
    aligned = [_aligned(parts[name], genes) for name in (layout.TRUTH, layout.TRUTH_CONTROL, keys.QUERY)]
    return Measured(aligned[0], aligned[1], aligned[2], genes)


def _aligned(adata: ad.AnnData, genes: list[str]) -> sparse.csr_matrix:
    if list(adata.var_names) != genes:
        adata = adata[:, genes]
    return adata.X.tocsr()


def _tested(measured: Measured) -> NDArray[np.bool_]:
    """Genes that at least 2 % of the cells of an arm show."""
    arms = (measured.treated, measured.control, measured.query)
    return np.max([np.asarray((one > 0).mean(axis=0)).ravel() for one in arms], axis=0) >= MIN_DETECTION


def _mean_log(adata: ad.AnnData) -> Floats:
    if keys.EXPECTED_LOG in adata.var:
        return np.asarray(adata.var[keys.EXPECTED_LOG].to_numpy(float))
    return np.asarray(log_normalise(adata.X).mean(axis=0)).ravel()


def _model_of(adata: ad.AnnData) -> str:
    """Digest of the weights, or of the foreign engine, that predicted the cells; empty where there are none."""
    stated = json.loads(adata.uns[OUTPUT_UNS]) if OUTPUT_UNS in adata.uns else {}
    model = stated.get("model")
    return str(model["sha256"]) if model else ""


def _why_missing(place: str, engine: str, folder: CampaignFolder) -> str:
    data = folder.read(layout.output_file(place, engine) + ERROR_SUFFIX)
    if data is not None:
        return str(json.loads(data)["message"])
    return "no other pair has a prompt of another treatment" if engine == DECOY else "it was not predicted"


def _replicate(
    measured: Measured, *, tested: NDArray[np.bool_], expressed: NDArray[np.bool_], full: anchored.RankTests, seed: int
) -> tuple[dict[str, Any], Floats, float]:
    """Score one half of the measurement against the other, each with control cells of its own, over a few splits."""
    rng = make_rng(seed, role="backtest/replicate")
    found: list[dict[str, float]] = []
    halves: list[float] = []
    profile = np.zeros(len(measured.genes))
    for _ in range(N_SPLITS):
        one, two = _halve(measured.treated, rng)
        base, other = _halve(measured.control, rng)
        tests = [anchored.rank_tests(cells, own, expressed=expressed) for cells, own in ((one, base), (two, other))]
        bulks = [anchored.bulk_profile(cells) for cells in (one, two, base, other)]
        # the second half's own change, laid on the first half's control cells
        moved = anchored.Bulk(bulks[2].profile + bulks[1].profile - bulks[3].profile, bulks[1].noise + bulks[3].noise)
        six = anchored.compare_cells(tests[1], tests[0], bulk=moved, truth=bulks[0], control=bulks[2])
        values = asdict(six)
        gate = full.is_changed
        weight = float(np.abs(full.lfc[gate]).sum())
        enough = int(gate.sum()) >= anchored.MIN_GATE and weight > 0
        miss = float(np.abs(tests[1].lfc - tests[0].lfc)[gate].sum())
        values["fold_change_error"] = miss / weight if enough else np.nan
        effects = [
            measure_effect(*(summarise_arm(log_normalise(arm)) for arm in arms)) for arms in ((one, base), (two, other))
        ]
        values |= asdict(compare_changes(effects[1].delta, effects[0], tested=tested))
        halves.append(correlate(effects[0].delta[tested], effects[1].delta[tested]))
        found.append(values)
        profile += moved.profile / N_SPLITS
    return {name: _mean([one[name] for one in found]) for name in found[0]}, profile, _mean(halves)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _halve(cells: sparse.csr_matrix, rng: np.random.Generator) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    order = rng.permutation(cells.shape[0])
    cut = (len(order) + 1) // 2
    return cells[np.sort(order[:cut])], cells[np.sort(order[cut:])]
