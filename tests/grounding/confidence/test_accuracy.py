"""Expected accuracy: parts of the prompt predicted from the rest, on designed effects whose accuracy is known."""

import math
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingCells
from haystack_kernel.grounding.confidence.accuracy import (
    BOTH,
    DONOR,
    PAIR,
    TYPE,
    Unit,
    combine,
    expect_accuracy,
    left_out_units,
)
from haystack_kernel.grounding.uncertainty.calls import study_prompt

N_GENES = 400
TYPES, DONORS = ("a", "b", "c", "d"), ("d1", "d2", "d3")


def draw(rng, rates, *, n, cell_type, donor):
    counts = sparse.csr_matrix(rng.poisson(rates, size=(n, N_GENES)).astype(np.float32))
    obs = pd.DataFrame({keys.CELL_TYPE: cell_type, keys.DONOR: donor}, index=[f"{i}" for i in range(n)])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(N_GENES)]))


def make_cells(*, shared, types=TYPES, donors=DONORS, n=20, asked=("e", "d1"), seed=0):
    """Cells whose log effects share ``shared`` of their variance among cell types; every type has its own profile."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=N_GENES)
    level = rng.lognormal(0, 0.5, size=N_GENES)
    arms = [[], []]
    for name in types:
        effect = math.sqrt(shared) * common + math.sqrt(1 - shared) * rng.normal(size=N_GENES)
        base = level * rng.lognormal(0, 0.3, size=N_GENES)
        for donor in donors:
            arms[0].append(draw(rng, base * np.exp(0.5 * effect), n=n, cell_type=name, donor=donor))
            arms[1].append(draw(rng, base, n=n, cell_type=name, donor=donor))
    prompt, control = (ad.concat(arm, index_unique="-") for arm in arms)
    query = draw(rng, level, n=60, cell_type=asked[0], donor=asked[1])
    return GroundingCells(query, None, query, prompt, control)


def study(cells, *, engine="weighted"):
    return study_prompt(cells, engine=engine, detection=np.ones(N_GENES), min_detection=0.02)


def expect(cells, *, engine="weighted", similarity=math.nan):
    studied = study(cells, engine=engine)
    return expect_accuracy(studied, query=cells.query, engine=engine, similarity=similarity)


def test_expect_accuracy_when_types_share_more_then_more_is_expected_and_the_truth_is_inside():
    values = []
    for shared in (0.3, 0.6, 0.85):
        found = expect(make_cells(shared=shared))
        # the mean of four such effects correlates with a fifth at this
        truth = shared / math.sqrt(shared + (1 - shared) / len(TYPES))
        assert found.low <= truth <= found.high
        assert found.value == pytest.approx(truth, abs=0.12)
        assert (found.left_out, found.n_left_out, found.reason) == (TYPE, 4, "")
        assert 0 < found.measured < found.value
        values.append(found.value)
    assert values == sorted(values)


def test_expect_accuracy_when_the_prompt_shows_nothing_then_nothing_is_expected_and_says_how_many_cells_would_help():
    cells = make_cells(shared=0.9)
    halves = [cells.prompt_control[start::2].copy() for start in (0, 1)]
    found = expect(GroundingCells(cells.query, None, cells.query, *halves))
    assert math.isnan(found.value)
    assert "mostly noise" in found.reason
    assert "would make it half" in found.reason


def test_expect_accuracy_when_the_prompt_has_few_cells_then_nothing_is_expected():
    found = expect(make_cells(shared=0.9, types=("a",), donors=("d1",), n=5))
    assert math.isnan(found.value)
    assert found.reason == "the smaller arm of the prompt has 5 cells; at least 10 are needed"


def test_expect_accuracy_when_nothing_can_be_left_out_then_wide_and_says_so():
    found = expect(make_cells(shared=0.9, types=("a",)))
    assert (found.left_out, found.n_left_out) == ("", 0)
    assert found.words.endswith("nothing in the prompt could be left out")
    assert found.narrower.startswith("two more cell types")
    assert found.high - found.low > 0.4


def test_expect_accuracy_when_the_engine_is_a_model_then_it_is_that_of_weighted_times_their_correlation():
    cells = make_cells(shared=0.6)
    own, model = expect(cells), expect(cells, engine="stack", similarity=0.5)
    assert model.value == pytest.approx(0.5 * own.value)
    assert "times r = 0.50 with engine weighted" in model.words
    assert math.isnan(expect(cells, engine="stack").value)


@pytest.mark.parametrize(
    ("asked", "design"),
    [(("e", "d1"), TYPE), (("e", "q1"), BOTH), (("a", "q1"), DONOR), (("a", "d1"), PAIR)],
)
def test_left_out_units_when_the_prompt_lacks_something_then_that_is_left_out(asked, design):
    cells = make_cells(shared=0.6, asked=asked)
    found, units = left_out_units(study(cells))
    assert found == design
    assert len(units) == (4 if design == TYPE else 12)


def test_expect_accuracy_when_three_donors_differ_much_then_its_interval_holds_the_accuracy_and_the_words_say_so():
    """As of patients: a figure with a wide interval says more than silence."""
    rng = np.random.default_rng(31)
    level, common = rng.lognormal(0, 0.5, N_GENES), np.where(rng.random(N_GENES) < 0.5, rng.normal(0, 0.5, N_GENES), 0)
    own = {donor: common + 1.2 * common.std() * rng.normal(size=N_GENES) for donor in ("d1", "d2", "d3", "q1")}
    arms = [
        [draw(rng, level * np.exp(effect * treated), n=n, cell_type="a", donor=donor) for donor, effect in own.items()]
        for treated, n in ((1, 60), (0, 60))
    ]
    query, (prompt, control) = arms[1][-1], (ad.concat(arm[:-1], index_unique="-") for arm in arms)
    found = expect(GroundingCells(query, None, query, prompt, control))
    assert re.search(r"parts of the prompt .* each a donor \(effects differ by \d+% between donors\)", found.words)
    assert found.high - found.low > 0.4
    truth = own["q1"]
    true = np.corrcoef(np.mean([own[name] for name in ("d1", "d2", "d3")], axis=0), truth)[0, 1]
    assert found.low < true < found.high


def unit(z, *, cell_type="a", donor="d", reliability=1.0, weight=1.0):
    return Unit(cell_type, donor, 50, z, reliability, weight)


def test_combine_when_units_agree_then_their_mean_and_narrower_the_more_there_are():
    none, two, six = (combine([unit(1.5, cell_type=f"{i}") for i in range(n)], design=TYPE) for n in (0, 2, 6))
    assert none.value == pytest.approx(math.tanh(1.0))
    assert none.value < two.value < six.value < math.tanh(1.5)
    assert none.high - none.low > two.high - two.low > six.high - six.low
    assert (none.n_effective, two.n_effective, six.n_effective) == (0, 1, pytest.approx(6))


def test_combine_when_units_share_their_donor_then_they_count_once():
    one = combine([unit(z, donor="x") for z in (0.5, 1.0, 1.5)], design=DONOR)
    three = combine([unit(z, donor=f"{z}") for z in (0.5, 1.0, 1.5)], design=DONOR)
    assert (one.n_effective, three.n_effective) == (1, pytest.approx(3))
    assert one.high - one.low > three.high - three.low


def test_combine_when_a_unit_is_noise_then_it_hardly_counts():
    sure = [unit(1.2, cell_type="a"), unit(1.2, cell_type="b"), unit(1.2, cell_type="c")]
    found = combine([*sure, unit(-2.0, cell_type="d", reliability=0.05)], design=TYPE)
    assert found.value == pytest.approx(combine(sure, design=TYPE).value, abs=0.03)
