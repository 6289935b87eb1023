"""A question by hand: looked at, corrected, pinned and banned, started once, and with consent alone where it costs."""

import re
from pathlib import Path

import pytest

from haystack_kernel.manage.rewording import correct, reword
from haystack_kernel.widgets.markup import split_ticks

pytestmark = pytest.mark.slow  # they work a run

CONTROLS = re.compile(r"<(?:button|input|textarea|select|script)|data-do", re.IGNORECASE)


def test_a_look_shows_the_reading_the_cells_a_first_answer_and_the_cost_and_saves_nothing(look_once, settings):
    looked = look_once
    page = looked.picture(live=True)
    assert looked.seen.record.query.cell_type_name == "B cell"
    assert looked.problem == ""
    assert looked.busy == ""
    assert 'name="term treatment" value="IFN-beta"' in page
    assert all(f'data-do="pin" data-arg="{item.key}"' in page for item in looked.seen.record.candidates)
    best = looked.quick.effects.iloc[0]
    assert best["expected"] == 1
    assert best["weighted"] > 1
    assert f">{best['gene']}<" in page
    assert "costs nothing" in page
    assert "no earlier run" in page
    assert not list(Path(settings.storage).glob("runs/*"))


def test_the_still_picture_says_the_same_without_anything_to_press(looked):
    still = str(looked.still())
    assert not CONTROLS.search(still)
    assert looked.quick.effects.iloc[0]["gene"] in still
    assert "IFN-beta" in still
    assert "not started" in still


def test_a_correction_changes_the_words_of_the_question(looked, do):
    do(looked, "edit", **{"term cell type": "CD4 T cell", "term treatment": "IFN-beta"})
    assert looked.problem == ""
    assert looked.question == "How would CD4 T cell respond to IFN-beta?"
    assert "CD4" in looked.seen.record.query.cell_type_name
    assert looked.quick is not None
    do(looked, "edit", **{"term cell type": "glorp cell"})
    assert "glorp" in looked.problem
    assert looked.seen is None
    assert "glorp" in looked.picture(live=True)


def test_words_are_replaced_added_and_taken_out(looked):
    query = looked.seen.record.query
    assert correct(looked.question, query, {}) == looked.question
    assert correct(looked.question, query, {"tissue": "lung"}) == "How would B cells respond to IFN-beta in lung?"
    assert correct(looked.question, query, {"disease": "asthma"}).endswith("IFN-beta with asthma?")
    there = query.model_copy(update={"tissue_name": "blood"})
    said = "How would B cells from the blood respond to IFN-beta?"
    assert correct(said, there, {"tissue": ""}) == "How would B cells respond to IFN-beta?"
    with pytest.raises(ValueError, match="needs a cell type"):
        correct(looked.question, query, {"cell type": " "})
    with pytest.raises(ValueError, match="does not stand in the question"):
        reword(looked.question, "NK cells", "B cells")
    assert reword("Would b cells and subcells?", "B cells", "NK cells") == "Would NK cells and subcells?"


def test_a_meaning_is_chosen_by_one_press(looked, do):
    do(looked, "mean", "B cells => monocytes")
    assert looked.question == "How would monocytes respond to IFN-beta?"
    assert "monocyte" in looked.seen.record.query.cell_type_name


def test_candidates_are_pinned_and_banned_and_freed_again(looked, do):
    first, second = [item.key for item in looked.seen.record.candidates][:2]
    do(looked, "pin", second)
    assert looked.seen.record.candidates[0].key == second
    assert looked.options["pin"] == (second,)
    assert f'aria-pressed="true" type="button" data-key="pin {second}"' in looked.picture(live=True)
    do(looked, "ban", first)
    assert first not in [item.key for item in looked.seen.record.candidates]
    assert "Banned:" in looked.picture(live=True)
    do(looked, "ban", second)  # a candidate is one or the other
    assert looked.options["pin"] == ()
    assert looked.problem
    do(looked, "ban", second)
    do(looked, "ban", first)
    assert {first, second} <= {item.key for item in looked.seen.record.candidates}


def test_nothing_starts_before_the_question_was_looked_at_as_it_is(ask, looked, do, jobs):
    asked = do(ask(), "start")
    assert "look at it again" in asked.problem
    do(looked, "start", question="How would CD4 T cells respond to IFN-beta?")
    assert "was changed after you looked" in looked.problem
    do(looked, "keep", question=looked.looked_at[0], max_rounds="4")  # as a field does that was left
    do(looked, "start")
    assert "was changed after you looked" in looked.problem
    assert 'name="max_rounds" value="4"' in looked.picture(live=True)
    assert not jobs.submitted


def test_a_run_starts_once(looked, do, jobs):
    do(looked, "start")
    do(looked, "start")
    assert [spec.kind for spec in jobs.submitted] == ["orchestrator"]
    assert looked.run.run_id == looked.run.record.run_id
    assert looked.run.record.orchestrator.executor == "local"
    assert looked.run.run_id in looked.problem
    assert f"Started as run {looked.run.run_id}" in looked.still()
    assert 'data-do="start"' not in looked.picture(live=True)


def test_what_costs_money_starts_with_consent_and_a_cap_alone(ask, do, jobs):
    asked = do(ask(executor="batch", max_rounds=2), "look")
    page = asked.picture(live=True)
    assert "Approve and start" in page
    assert f"{asked.seen.high_usd:.2f}" in page
    do(asked, "start", max_cost="5")
    assert "tick the approval" in asked.problem
    do(asked, "start", approve=["yes"], max_cost="a lot")
    assert "amount in US dollars" in asked.problem
    assert not jobs.submitted
    assert not any(consent.approve for consent in jobs.consents)
    do(asked, "start", approve=["yes"], max_cost="$7.50")
    assert (jobs.consents[-1].approve, jobs.consents[-1].max_usd) == (True, 7.5)
    assert asked.max_cost == 7.5
    assert len(jobs.submitted) == 1


def test_a_free_run_carries_no_consent(looked, do, jobs):
    do(looked, "start", approve=["yes"], max_cost="100")
    assert jobs.submitted
    assert not any(consent.approve for consent in jobs.consents)


def test_fields_become_options_and_empty_ones_leave_them_as_configured(ask, do):
    asked = ask(engine="shift", threshold=9)
    do(asked, "look", engine="mean", max_rounds="2", threshold="", more="seed=4", atlases=["tiny"])
    config = asked.seen.record.config
    assert (config.engine, config.max_rounds, config.threshold, config.seed) == ("mean", 2, 7.0, 4)
    asked.act("start", values={"engine": "", "max_rounds": "", "more": ""})  # reads the fields and starts nothing
    assert asked.options == {}
    do(asked, "look", max_rounds="many")
    assert "max_rounds" in asked.problem


@pytest.mark.parametrize(
    ("name", "arg"), [("__init__", ""), ("settle", ""), ("_look_again", ""), ("picture", ""), ("", ""), ("LOOK", "")]
)
def test_a_front_end_can_call_nothing_but_actions(ask, name, arg):
    asked = ask()
    asked.act(name, arg, {"question": "x"})
    assert (asked.question, asked.problem, asked.seen) == ("How would B cells respond to IFN-beta?", "", None)


def test_markup_in_a_question_stays_text(ask, do):
    evil = '"><img src=x onerror=alert(1)><script>alert(2)</script> B cells respond to IFN-beta?'
    asked = do(ask(evil), "look")
    for page in (asked.picture(live=True), str(asked.still())):
        assert "<img" not in page
        assert "<script" not in page
        assert "&lt;img" in page


def test_ticking_texts_travel_apart_and_come_back_unescaped():
    page, texts = split_ticks('<p><span class="tick" data-tick="left">&lt; 1 s</span></p>')
    assert page == '<p><span class="tick" data-tick="left"></span></p>'
    assert texts == {"left": "< 1 s"}
