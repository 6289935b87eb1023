"""Consent, looks and questions back: in the form, in %ask, and in other words for the rest of a run."""

import builtins
import io

import pytest

from haystack_kernel import flow
from haystack_kernel.config.connect import connect
from haystack_kernel.errors import ApprovalNeededError, InvalidInputError
from haystack_kernel.jupyter import magic
from haystack_kernel.jupyter.execute import execute_run
from haystack_kernel.manage import fork
from haystack_kernel.manage.previews import preview
from haystack_kernel.run import open_run, resume
from haystack_kernel.schema import Settings
from haystack_kernel.widgets.asking import Ask
from tests.planners.claude.model import B_CELLS, READING
from tests.servers import messages

PLAIN = "How would B cells respond to IFN-beta?"
ROUNDABOUT = "What happens to the cells that carry immunoglobulin on their surface when you hit them with IFN-beta?"
READ = {**READING, "cells": {"words": "the cells that carry immunoglobulin on their surface", "name": "B cell"}}
ASKED = {"text": "Which cells are meant?", "questions": [PLAIN, "How would plasma cells respond to IFN-beta?"]}


@pytest.fixture
def claude_settings(server, tiny_settings):
    section = {"base_url": server.address, "api_key": server.key}
    return Settings.model_validate({**tiny_settings.model_dump(), "claude": section})


def reads_roundabout(body):
    return messages.says(READ)


def test_auto_is_claude_where_a_key_is_and_says_so_before_it_spends(server, claude_settings):
    with pytest.raises(ApprovalNeededError, match=r"Planner claude would ask.*--yes"):
        open_run(PLAIN, settings=claude_settings)
    assert server.requests == []
    heard = []
    run = open_run(PLAIN, settings=claude_settings, approve=True, progress=heard.append)
    assert run.record.config.planner == run.query.planner == "claude"
    assert any("planner claude asks claude-sonnet-5-5, at most" in event.message for event in heard)
    # and without a key it is offline, in the record too
    bare = Settings.model_validate({**claude_settings.model_dump(), "claude": {}})
    assert open_run(PLAIN, settings=bare).record.config.planner == "offline"


def test_without_credentials_claude_is_refused_with_what_to_set(tiny_settings):
    with pytest.raises(InvalidInputError, match=r"no credentials: set ANTHROPIC_API_KEY"):
        open_run(PLAIN, settings=tiny_settings, planner="claude", approve=True)


def test_a_look_costs_nothing_and_says_that_rules_read_the_question(server, claude_settings):
    ports = connect(claude_settings)
    seen = preview(PLAIN, ports=ports)
    assert seen.by_rules
    assert (seen.record.query.planner, seen.record.config.planner) == ("offline", "claude")
    assert seen.high_usd == claude_settings.claude.max_usd
    with pytest.raises(ApprovalNeededError, match=r"read by rules, which cost nothing\. Claude may read it otherwise"):
        preview("Quid faciunt haec omnia in vivo?", ports=ports)
    assert server.requests == []


def test_the_form_lets_claude_read_once_and_the_run_starts_from_that_reading(server, claude_settings):
    server.answer = reads_roundabout
    form = Ask(ROUNDABOUT, settings=claude_settings)
    form.look()
    form.settle()
    assert "Let Claude read it now" in form.picture(live=True)
    form.read()
    form.settle()
    assert form.seen.record.query.cell_type_text == "the cells that carry immunoglobulin on their surface"
    assert len(server.requests) == 1
    form.look()  # again: what was read is looked up
    form.settle()
    assert (form.seen.by_rules, form.seen.record.query.planner, len(server.requests)) == (False, "claude", 1)
    run_id = form.seen.record.run_id
    run = open_run(ROUNDABOUT, run_id=run_id, settings=claude_settings, approve=True)
    assert (run.query.cell_type_name, len(server.requests)) == ("B cell", 1)
    assert run.record.cost_usd == pytest.approx(form.seen.record.cost_usd)


def test_the_form_shows_what_is_asked_back_as_choices(server, claude_settings):
    server.script += [messages.says({**READ, "clarification": ASKED})]
    form = Ask(ROUNDABOUT, settings=claude_settings)
    form.read()
    form.settle()
    page = form.picture(live=True)
    assert "Which cells are meant?" in page
    form.answer(PLAIN)
    form.settle()
    assert (form.question, form.seen.record.query.cell_type_name) == (PLAIN, "B cell")
    assert len(server.requests) == 1  # the plain question is read by rules until Claude is let read it


@pytest.mark.parametrize(("typed", "n_requests"), [("1", 2), ("How would B cells respond to IFN-beta?", 2), ("", 1)])
def test_one_question_is_asked_back_where_somebody_can_answer(server, claude_settings, typed, n_requests):
    server.script += [messages.says({**READ, "clarification": ASKED}), messages.says(B_CELLS)]
    answers = iter([typed])

    def ask_back(asked):
        assert asked.text == "Which cells are meant?"
        given = next(answers)
        return asked.questions[0] if given == "1" else given or None

    run = open_run(ROUNDABOUT, settings=claude_settings, approve=True, ask_back=ask_back)
    assert len(server.requests) == n_requests
    assert run.record.question == (PLAIN if n_requests == 2 else ROUNDABOUT)
    if n_requests == 2:
        assert run.record.notes == (f"asked first: {ROUNDABOUT!r}; asked back: Which cells are meant?",)
        assert sum(bill.attempt for bill in run.record.bills) == 2


def test_ask_takes_consent_and_answers_from_whoever_types(server, claude_settings, tiny_env, monkeypatch):
    monkeypatch.setenv("HAYSTACK_CLAUDE__BASE_URL", server.address)
    monkeypatch.setenv("ANTHROPIC_API_KEY", server.key)
    said, typed = [], iter(["0.5", "2"])

    def types(prompt):
        said.append(prompt)
        return next(typed)

    monkeypatch.setattr(builtins, "input", types)
    server.script += [messages.says({**READ, "clarification": {**ASKED, "questions": [ROUNDABOUT, PLAIN]}})]
    run = magic._open(ROUNDABOUT)
    assert run.record.question == PLAIN
    assert "type the most that it may cost" in said[0]
    assert f"  2. {PLAIN}" in said[1]
    # nobody answers: nothing is spent
    n_asked = len(server.requests)
    monkeypatch.setattr(builtins, "input", lambda prompt: "")
    with pytest.raises(ApprovalNeededError):
        magic._open(PLAIN)
    assert len(server.requests) == n_asked


def test_a_run_that_claude_cannot_go_on_with_goes_on_by_rules_when_asked_to(server, claude_settings):
    run = open_run(PLAIN, settings=claude_settings, approve=True)
    server.answer = lambda body: messages.unauthorized()
    with pytest.raises(Exception, match="refuses the credentials"):
        run.work(until="assemble")
    with pytest.warns(UserWarning, match="planned by offline, not by claude, as asked"):
        again = resume(run.run_id, settings=claude_settings, planner="offline")
    again.work(until="assemble")
    assert again.record.rounds[0].choice.planner == "offline"
    assert again.record.query.planner == "claude"
    assert flow.next_step(again.record) == "assemble"


@pytest.mark.slow
def test_the_command_line_gives_its_consent_for_the_reading_too(server, tiny_env, monkeypatch):
    monkeypatch.setenv("HAYSTACK_CLAUDE__BASE_URL", server.address)
    monkeypatch.setenv("ANTHROPIC_API_KEY", server.key)
    refusal = {"kind": "several", "words": "B cells", "reason": "names too much", "questions": []}
    server.script += [messages.says({**B_CELLS, "cells": None, "treatment": None, "refusal": refusal})]
    with pytest.raises(InvalidInputError, match="names too much"):
        execute_run(PLAIN, storage=None, run_id=None, options={}, stream=io.StringIO(), spending={"approve": True})
    assert len(server.requests) == 1


def test_a_fork_with_another_question_reads_it_with_the_consent_of_going_on(server, claude_settings):
    run = open_run(PLAIN, settings=claude_settings, approve=True)
    server.answer = lambda body: messages.says(READ)
    made = fork(run.run_id, question=ROUNDABOUT, settings=claude_settings)
    assert (made.query, len(server.requests)) == (None, 1)
    going_on = resume(made.run_id, settings=claude_settings, approve=True)
    assert going_on.work(until="retrieve").query.cell_type_name == "B cell"
