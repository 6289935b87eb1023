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
    Halves = tuple[sparse.csr_matrix, sparse.csr_matrix]

TYPE_MEAN = "type-mean"  # the mean response of the cell type to other treatments
DECOY = "decoy"  # the best simple engine with a prompt of another treatment
REPLICATE = "replicate"
CONTROL_SUFFIX = "-control"  # task of an engine whose effect is the difference of two predictions
MIN_DETECTION = 0.02
REPLICATE_CHANGE, REPLICATE_TRUTH = "replicate-change", "replicate-truth"  # changes of the two halves' profiles
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
    facts["engines"][REPLICATE], repeated, halves = replicate_measurement(
        measured, tested=tested, expressed=expressed, full=real, seed=plan.seed, number=number
    )
    profiles |= repeated
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


def replicate_measurement(
    measured: Measured,
    *,
    tested: NDArray[np.bool_],
    expressed: NDArray[np.bool_],
    full: anchored.RankTests,
    seed: int,
    number: int,
) -> tuple[dict[str, Any], dict[str, Floats], float]:
    """Score one half of the measurement against the other over a few splits; the profiles are those of the first.

    Pairs with the same control cells halve them alike: one half of them on both sides of a comparison of two pairs
    would make these nearer than the halves of one pair, which share no cell.
    """
    rng, of_control = make_rng(seed + number, role="backtest/replicate"), make_rng(seed, role="backtest/replicate")
    splits = []
    for _ in range(N_SPLITS):
        treated, control = _halve(measured.treated, rng), _halve(measured.control, of_control)
        splits.append(compare_halves(treated, control, tested=tested, expressed=expressed, full=full))
    values = {name: _mean([one[name] for one, _, _ in splits]) for name in splits[0][0]}
    return values, splits[0][1], _mean([halves for _, _, halves in splits])


def compare_halves(
    treated: Halves,
    control: Halves,
    *,
    tested: NDArray[np.bool_],
    expressed: NDArray[np.bool_],
    full: anchored.RankTests,
) -> tuple[dict[str, float], dict[str, Floats], float]:
    """Take the second half of a measurement as a prediction of the first, each with control cells of its own.

    Parameters
    ----------
    treated, control
        Raw counts of both halves.
    tested, expressed
        Genes for the correlation, and genes for the rank tests.
    full
        Rank tests of the whole measurement, whose changed genes and fold changes the error of fold changes refers to.

    Returns
    -------
    The metrics; profiles of the second half and changes of both, by name; correlation of the two halves' effects.
    """
    (one, two), (base, other) = treated, control
    tests = [anchored.rank_tests(cells, own, expressed=expressed) for cells, own in ((one, base), (two, other))]
    truth, again, first, second = (anchored.bulk_profile(cells) for cells in (one, two, base, other))
    values = asdict(anchored.compare_cells(tests[1], tests[0], bulk=again, truth=truth, control=first))
    gate = full.is_changed
    weight = float(np.abs(full.lfc[gate]).sum())
    enough = int(gate.sum()) >= anchored.MIN_GATE and weight > 0
    miss = float(np.abs(tests[1].lfc - tests[0].lfc)[gate].sum())
    values["fold_change_error"] = miss / weight if enough else np.nan
    effects = [
        measure_effect(*(summarise_arm(log_normalise(arm)) for arm in arms)) for arms in ((one, base), (two, other))
    ]
    values |= asdict(compare_changes(effects[1].delta, effects[0], tested=tested))
    profiles = {
        REPLICATE: again.profile,
        REPLICATE_CHANGE: again.profile - second.profile,
        REPLICATE_TRUTH: truth.profile - first.profile,
    }
    return values, profiles, correlate(effects[0].delta[tested], effects[1].delta[tested])


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _halve(cells: sparse.csr_matrix, rng: np.random.Generator) -> Halves:
    order = rng.permutation(cells.shape[0])
    cut = (len(order) + 1) // 2
    return cells[np.sort(order[:cut])], cells[np.sort(order[cut:])]
