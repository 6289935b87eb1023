import pytest

from haystack_kernel.retrieval.rank import compute_quality, rank_candidates
from haystack_kernel.schema import Candidate, CellSet, RetrievalSettings


def candidate(
    key,
    *,
    relevance=0.5,
    quality=0.5,
    perturbation="P",
    cell_type="T",
    dataset="d",
    pinned=False,
    evidence="other_cell_type",
    control=None,
):
    prompt = CellSet(
        atlas="a", dataset=dataset, is_control=False, perturbation=perturbation, cell_type_names=(cell_type,), n_cells=9
    )
    return Candidate(
        key=key,
        strategy="direct",
        prompt=prompt,
        control=control,
        control_reason="none",
        pinned=pinned,
        relevance=relevance,
        quality=quality,
        evidence_distance=evidence,
        reason="r",
    )


def rank(*candidates, **settings):
    return rank_candidates(candidates, settings=RetrievalSettings(**settings))


def test_rank_scores_by_weights_and_takes_diversity_from_what_was_picked():
    first, second, third = rank(
        candidate("a", relevance=1.0, quality=0.5),
        candidate("b", relevance=0.6, quality=0.5),  # shares all three: diversity 0.4
        candidate("c", relevance=0.4, quality=0.5, cell_type="U", dataset="e"),  # shares the perturbation only: 0.7
    )
    assert (first.key, first.diversity, first.score) == ("a", 1.0, pytest.approx(0.5 + 0.3 + 0.1))
    assert (second.key, second.diversity, second.score) == ("b", pytest.approx(0.4), pytest.approx(0.3 + 0.12 + 0.1))
    assert (third.key, third.diversity, third.score) == ("c", pytest.approx(0.7), pytest.approx(0.2 + 0.21 + 0.1))


def test_rank_when_diversity_outweighs_relevance_then_reorders():
    found = rank(
        candidate("a", relevance=1.0),
        candidate("b", relevance=0.9),
        candidate("c", relevance=0.8, cell_type="U", dataset="e", perturbation="Q"),
    )
    assert [one.key for one in found] == ["a", "c", "b"]


def test_rank_when_equal_then_takes_the_smaller_key_whatever_the_order():
    pool = [candidate(key, cell_type=key, dataset=key, perturbation=key) for key in "cab"]
    assert [one.key for one in rank(*pool)] == [one.key for one in rank(*pool[::-1])] == ["a", "b", "c"]


def test_rank_keeps_pins_first_in_the_order_given_even_beyond_the_limit():
    pool = [candidate("a", relevance=1.0), candidate("c", relevance=0.1, pinned=True), candidate("b", pinned=True)]
    assert [one.key for one in rank(*pool, n_top=1)] == ["c", "b"]
    assert [one.key for one in rank(*pool, n_top=3)] == ["c", "b", "a"]


def test_rank_puts_the_measured_pair_before_any_analogue_but_only_with_a_control():
    control = CellSet(atlas="a", dataset="d", is_control=True, n_cells=9)
    twin = candidate("a", relevance=1.0, quality=0.9, perturbation="Q", evidence="shared_target", control=control)
    pair = candidate("b", relevance=1.0, quality=0.2, evidence="same_pair", control=control)
    assert [one.key for one in rank(twin, pair)] == ["b", "a"]
    bare = candidate("b", relevance=1.0, quality=0.2, evidence="same_pair")
    assert [one.key for one in rank(twin, bare)] == ["a", "b"]


def test_rank_when_weights_exceed_one_then_the_score_stays_a_mean():
    (one,) = rank(candidate("a", relevance=1.0, quality=1.0), weight_relevance=5, weight_diversity=3, weight_quality=2)
    assert one.score == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("n_cells", "depth", "has_control", "matched", "expected"),
    [
        (50, 1000.0, True, True, 0.2 + 0.1 + 0.4),
        (50, float("nan"), True, False, 0.2 + 0.2),
        (0, 0.0, False, False, 0.0),
    ],
)
def test_quality_adds_cells_depth_and_control(n_cells, depth, has_control, matched, expected):
    value = compute_quality(n_cells=n_cells, median_total_counts=depth, has_control=has_control, donor_matched=matched)
    assert value == pytest.approx(expected)
