"""How near a prediction comes: every metric against values worked out another way, and against designed answers."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu

from haystack_kernel.backtest import anchored
from haystack_kernel.backtest.judge import (
    REPLICATE,
    REPLICATE_CHANGE,
    REPLICATE_TRUTH,
    Measured,
    compare_halves,
    replicate_measurement,
)
from haystack_kernel.backtest.metrics import compare_changes, highest_correlation
from inference.effects import Effect

N_GENES = 60


def effect(delta, se=0.01):
    return Effect(np.asarray(delta, float), np.full(len(delta), se), 50, 50)


@pytest.fixture
def arms():
    """Counts of control cells, of cells in which 20 genes rise and 10 fall, and of a weaker prediction of them."""
    rng = np.random.default_rng(3)
    base = rng.gamma(2.0, 2.0, N_GENES)
    change = np.ones(N_GENES)
    change[:20], change[20:30] = 3.0, 0.2

    def draw(factor, n=120):
        return sp.csr_matrix(rng.poisson(base * factor, (n, N_GENES)).astype(np.float32))

    return draw(np.ones(N_GENES)), draw(change), draw(change**0.5)


def test_closeness_of_a_right_a_reversed_and_an_empty_prediction():
    truth = np.r_[np.linspace(-1, 1, 100), np.zeros(100)]
    tested = np.ones(200, bool)
    right = compare_changes(2 * truth, effect(truth), tested=tested)
    assert right.pearson == pytest.approx(1)
    assert right.cosine == pytest.approx(1)
    assert right.direction == right.overlap == 1
    assert right.rmse == pytest.approx(np.sqrt(np.mean(truth**2)))
    wrong = compare_changes(-truth, effect(truth), tested=tested)
    assert wrong.pearson == pytest.approx(-1)
    assert wrong.direction == 0
    assert wrong.overlap == 1
    still = compare_changes(np.zeros(200), effect(truth), tested=tested)
    assert np.isnan([still.pearson, still.cosine, still.overlap]).all()
    assert still.direction == 0.5


def test_noise_of_the_measurement_is_taken_out_of_the_clean_correlation():
    rng = np.random.default_rng(0)
    true, noise = rng.normal(size=4000), rng.normal(size=4000)
    near = compare_changes(true, effect(true + noise, se=1.0), tested=np.ones(4000, bool))
    assert near.pearson == pytest.approx(np.sqrt(0.5), abs=0.03)
    assert near.reliability == pytest.approx(0.5, abs=0.03)
    assert near.clean == pytest.approx(1, abs=0.03)
    assert np.isnan(near.direction) or near.direction > 0.9


def test_direction_needs_ten_clear_genes_and_untested_genes_do_not_count():
    truth = np.r_[np.ones(9), np.zeros(50)]
    assert np.isnan(compare_changes(truth, effect(truth), tested=np.ones(59, bool)).direction)
    truth = np.r_[np.ones(20), -np.ones(20)]
    half = compare_changes(np.ones(40), effect(truth), tested=np.arange(40) < 20)
    assert half.direction == 1


@pytest.mark.parametrize(("halves", "highest"), [(1.0, 1.0), (0.5, np.sqrt(2 / 3)), (0.0, np.nan), (-0.2, np.nan)])
def test_highest_correlation_follows_spearman_and_brown(halves, highest):
    assert highest_correlation(halves) == pytest.approx(highest, nan_ok=True)


def test_bulk_profile_and_its_jackknife_are_those_of_leaving_out_each_cell(arms):
    counts = arms[0][:15]
    bulk = anchored.bulk_profile(counts)
    dense = counts.toarray()

    def profile(x):
        return np.log1p(5e4 * x.sum(axis=0) / x.sum())

    left = np.array([profile(np.delete(dense, place, axis=0)) for place in range(15)])
    assert bulk.profile == pytest.approx(profile(dense))
    assert bulk.noise == pytest.approx(14 / 15 * ((left - left.mean(axis=0)) ** 2).sum())
    assert anchored.bulk_profile(counts[:1]).noise == 0


def test_the_jackknife_takes_the_noise_of_the_measurement_off(arms):
    """Two samples of the same cells are as near as noise allows: their corrected distance is about 0."""
    control, treated, _ = arms
    halves = [anchored.bulk_profile(one) for one in (treated[:60], treated[60:], control)]
    tests = [
        anchored.rank_tests(one, control, expressed=np.ones(N_GENES, bool)) for one in (treated[:60], treated[60:])
    ]
    six = anchored.compare_cells(tests[0], tests[1], bulk=halves[0], truth=halves[1], control=halves[2])
    assert six.size > 0.3
    assert abs(six.error - six.own_noise) < 0.05 * six.size


def test_a_replicate_is_as_near_as_noise_allows_however_few_its_control_cells_are(arms):
    """The halves are compared as they are: control cells of their own would bring their noise along."""
    control, treated, _ = arms
    every = np.ones(N_GENES, bool)
    full = anchored.rank_tests(treated, control, expressed=every)
    halves = (treated[:60], treated[60:]), (control[:3], control[3:6])
    values, profiles, _ = compare_halves(*halves, tested=every, expressed=every, full=full)
    bulks = [anchored.bulk_profile(one) for pair in halves for one in pair]
    assert profiles[REPLICATE] == pytest.approx(bulks[1].profile)
    assert profiles[REPLICATE_CHANGE] == pytest.approx(bulks[1].profile - bulks[3].profile)
    assert profiles[REPLICATE_TRUTH] == pytest.approx(bulks[0].profile - bulks[2].profile)
    noise = (bulks[2].noise + bulks[3].noise) / N_GENES
    assert abs(values["error"] - values["own_noise"]) < 0.1 * noise


def test_pairs_with_the_same_control_cells_halve_them_alike(arms):
    """Else a half of one pair would hold control cells of the other half of another pair, and be near it by them."""
    control, *treated = arms
    every, found = np.ones(N_GENES, bool), []
    for number, cells in enumerate(treated, start=1):
        measured = Measured(cells, control, control, [f"GENE{i}" for i in range(N_GENES)])
        full = anchored.rank_tests(cells, control, expressed=every)
        setup = {"tested": every, "expressed": every, "full": full, "seed": 4, "number": number}
        found.append(replicate_measurement(measured, **setup)[1])
    halves = [one[REPLICATE] - one[REPLICATE_CHANGE] for one in found]
    assert halves[0] == pytest.approx(halves[1])
    assert halves[0] != pytest.approx(anchored.bulk_profile(control).profile)


def test_rank_tests_are_those_of_scipy_over_the_expressed_genes(arms):
    control, treated, _ = arms
    expressed = anchored.expressed_genes(control)
    assert expressed.all()
    expressed[3] = False
    found = anchored.rank_tests(treated, control, expressed=expressed)
    scaled = [one.toarray() / one.sum(axis=1) * 1e6 for one in (treated, control)]
    scaled = [np.asarray(one)[:, expressed] for one in scaled]
    known = mannwhitneyu(*scaled, use_continuity=False, method="asymptotic").pvalue
    assert found.pval == pytest.approx(known, rel=1e-6)
    assert found.lfc == pytest.approx(np.log2((scaled[0].mean(axis=0) + 1) / (scaled[1].mean(axis=0) + 1)))


def six_of(predicted, arms):
    control, treated, _ = arms
    expressed = np.ones(N_GENES, bool)
    tests = [anchored.rank_tests(one, control, expressed=expressed) for one in (predicted, treated)]
    bulks = [anchored.bulk_profile(one) for one in (predicted, treated, control)]
    return anchored.compare_cells(*tests, bulk=bulks[0], truth=bulks[1], control=bulks[2])


def test_the_measurement_itself_reaches_every_best_value_and_control_cells_the_worst(arms):
    best, none, weak = six_of(arms[1], arms), six_of(arms[0], arms), six_of(arms[2], arms)
    assert (best.direction_fidelity, best.direction_reach, best.changed_genes, best.fold_change_error) == (1, 1, 1, 0)
    assert none.direction_fidelity == none.changed_genes == 0
    assert none.fold_change_error == pytest.approx(1)
    assert 0.3 < weak.fold_change_error < 0.7
    assert 0.5 < weak.direction_fidelity < 1
    assert best.error < weak.error < none.error


def test_reach_ends_where_wrong_directions_begin():
    n = 40
    measured = anchored.RankTests(np.ones(n), np.full(n, 0.01), np.full(n, 0.001))
    lfc = np.r_[np.ones(18), -np.ones(2), np.ones(0), -np.ones(20)]
    ranked = anchored.RankTests(lfc, np.full(n, 0.01), np.linspace(0.0001, 0.04, n))
    bulk = anchored.Bulk(np.ones(3), 0.0)
    six = anchored.compare_cells(ranked, measured, bulk=bulk, truth=bulk, control=bulk)
    assert six.direction_reach == 20 / n  # 18 right of 20 are 90 %; one more wrong one is less
    first_wrong = anchored.RankTests(np.r_[-1.0, np.ones(n - 1)], ranked.padj, ranked.pval)
    assert anchored.compare_cells(first_wrong, measured, bulk=bulk, truth=bulk, control=bulk).direction_reach == 1


def test_discrimination_is_one_for_the_right_treatment_half_for_the_same_answer_to_all_and_unknown_for_one():
    table = [np.eye(4)[place] for place in range(4)]
    assert anchored.discriminate(table[2] + 0.1, table, own=2) == 1
    assert anchored.discriminate(table[1], table, own=2) == pytest.approx(1 - 2 / 3)
    assert anchored.discriminate(np.ones(4), table, own=2) == 0.5
    assert anchored.discriminate(np.zeros(4), table, own=0) == 0.5
    assert np.isnan(anchored.discriminate(table[0], table[:1], own=0))


def test_a_prediction_that_is_the_same_for_all_treatments_gets_no_credit_for_noise():
    rows = [anchored.Sixfold(1.0, 0.2, 2.0, *[np.nan] * 4)] * 3
    assert anchored.noise_share(rows, [np.arange(5.0)] * 3) == 0
    assert anchored.noise_share(rows, list(np.eye(3, 5) * 10)) == 1


def test_anchoring_puts_the_mean_at_0_and_a_replicate_at_1_in_either_direction():
    assert anchored.anchor(0.5, mean=0.2, replicate=0.8) == pytest.approx(0.5)
    assert anchored.anchor(0.4, mean=1.0, replicate=0.2) == pytest.approx(0.75)
    assert np.isnan(anchored.anchor(0.5, mean=0.5, replicate=0.52))


def test_too_few_genes_have_no_leading_ones():
    truth = np.linspace(-1, 1, 99)
    assert np.isnan(compare_changes(truth, effect(truth), tested=np.ones(99, bool)).overlap)
