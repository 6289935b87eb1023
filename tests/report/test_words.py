"""How sure a run is, in words."""

import math

import pytest

from haystack_kernel.report.words import accuracy_text, change_text, next_text, twins_text
from haystack_kernel.schema import Composite, Confidence, ExpectedAccuracy, Without

NAN = math.nan
EXPECTED = ExpectedAccuracy(
    value=0.86, low=0.7, high=0.94, measured=0.76, n_cells=100, left_out="cell type", n_left_out=5, words="5 parts"
)


@pytest.fixture
def judged(make_run):
    """A run of one round with a score, an upper bound by replication and a confidence."""

    def make(value=8.5, *, replication=NAN, **confidence):
        record = make_run(composite=Composite(value=value, weight_computed=1.0, replication=replication))
        confidence = Confidence(**({"expected": EXPECTED} | confidence))
        return record.model_copy(update={"rounds": (record.rounds[0].model_copy(update={"confidence": confidence}),)})

    return make


def without(**scores):
    """Scores without parts of the prompt, as they are kept: lowest first."""
    found = [Without(kind="donor", name=name, composite=value) for name, value in scores.items()]
    return tuple(sorted(found, key=lambda one: one.composite))


def test_accuracy_is_said_with_its_interval_and_as_a_measurement_would_show_it(judged):
    said = accuracy_text(judged())
    assert "0.86 (80 % interval 0.70 to 0.94); a measurement of 100 cells an arm would show about 0.76." in said
    thin = accuracy_text(judged(expected=ExpectedAccuracy(reason="the effects are mostly noise")))
    assert thin == "No accuracy is expected: the effects are mostly noise."
    assert accuracy_text(judged(expected=None)) == ""


def test_what_would_change_the_answer_names_the_parts_that_flip_it(judged):
    held = change_text(judged(without=without(d1=7.9, d2=8.2)))
    assert held.endswith("without any one of them the score is 7.9 to 8.2.")
    assert change_text(judged(without=without(d1=7.9, d2=8.2)), brief=True) == ""
    fragile = change_text(judged(without=without(d1=6.1, d2=8.2)))
    assert fragile == "The answer hangs on single parts of the prompt: below 7 without donor d1 (6.1)."
    low = change_text(judged(6.0, without=without(d1=5.0, d2=7.5)))
    assert "at or above 7 without donor d2 (7.5)" in low
    many = change_text(judged(without=without(a=1.0, b=2.0, c=3.0, d=4.0)))
    assert many.endswith("donor c (3.0) or any of 1 others.")
    assert change_text(judged()) == "All evidence comes from one donor."
    assert change_text(judged(NAN)) == change_text(judged(expected=None)) == ""


def test_what_to_measure_next_is_donors_where_replication_bounds_the_score_else_what_narrows_the_interval(judged):
    narrower = EXPECTED.model_copy(update={"narrower": "one more cell type would narrow it"})
    assert next_text(judged(expected=narrower)) == "Measure next: one more cell type would narrow it."
    one_donor = next_text(judged(6.5, replication=0.78, expected=narrower))
    assert one_donor.startswith("Measure next: 1 more donor of 20 treated and 20 control cells")
    assert one_donor.endswith("; one more cell type would narrow it.")
    few = next_text(judged(4.0, replication=0.1))
    assert few.startswith("Measure next: 2 more donors")
    assert 10 - 6 / 2 ** (0.1 + 2 / 2) >= 7 > 10 - 6 / 2 ** (0.1 + 1 / 2)  # two are enough, one is not
    assert "the pair that was asked for" in next_text(judged(replication=3.0))
    assert next_text(judged(expected=None)) == ""


def test_twins_are_named_three_at_most(judged):
    assert twins_text(judged().best) == ""
    assert twins_text(judged(twins=("A",)).best) == "not distinguishable from A"
    assert twins_text(judged(twins=("A", "B", "C", "D", "E")).best) == "not distinguishable from A, B, C and 2 more"
