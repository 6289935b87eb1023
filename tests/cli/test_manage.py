"""Commands about several runs: one JSON line on stdout, tables for people, exit codes that scripts can rely on."""

import json

import pytest

from haystack_kernel.run import open_run

pytestmark = pytest.mark.slow

QUESTION = "How would B cells respond to IFN-beta?"


@pytest.fixture
def two(tiny_env):
    """Two runs that were begun, the second with another seed; both cancelled."""
    return [open_run(QUESTION, seed=seed).understand().cancel() for seed in (0, 5)]


def test_list_filters_and_shows_a_table(call, two):
    rows = json.loads(call("list").out)
    assert {row["run_id"] for row in rows} == {run.run_id for run in two}
    assert rows[0].keys() == {"run_id", "status", "score", "rounds", "engine", "question"}
    assert json.loads(call("list", "--status", "done").out) == []
    assert len(json.loads(call("list", "--limit", 1, "--since", "1d", "--text", "ifn").out)) == 1
    assert two[0].run_id in call("list", "--table").out
    said = call("list", "--status", "over")
    assert (said.code, said.out) == (2, "")
    assert "possible: running, done" in said.err


def test_fork_without_running_tells_what_was_taken_over(call, two):
    said = call("fork", two[0].run_id, "--set", "seed=3", "--set", "n-query=20", "--no-run")
    made = json.loads(said.out)
    assert (said.code, made["status"], made["forked_from"]) == (0, "interrupted", two[0].run_id)
    assert "left it to be continued" in made["detail"]
    assert made["next_commands"][0] == f"haystack resume {made['run_id']}"
    assert made["reused"] == ["understand"]
    assert made["next_step"] == "retrieve"
    assert "reused steps: understand" in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "sead=1"], "did you mean 'seed'"),
        (["--set", "seed"], "KEY=VALUE"),
        (["--set", "seed=0"], "nothing of run"),
        (["--set", "max_rounds=99"], "max_rounds"),
        ([], "nothing of run"),
        (["--set", "seed=1", "--new-run-id", "../x"], "is not a run id"),
    ],
)
def test_fork_refuses_in_words(call, two, arguments, says):
    said = call("fork", two[0].run_id, "--no-run", *arguments)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


def test_compare_of_runs_without_a_result_says_what_differs_and_what_is_missing(call, two):
    one, other = two
    told = json.loads(call("compare", one.run_id, other.run_id).out)
    assert told["differences"] == [{"what": "seed", "a": 0, "b": 5}]
    assert (told["pearson"], told["n_shared"]) == (None, 0)
    assert "no scored round" in told["reason"]
    table = call("compare", one.run_id, other.run_id, "--table").out
    assert "seed  0  5" in table
    assert "{" not in table


def test_gc_is_a_dry_run_unless_told(call, two):
    said = call("gc")
    found = json.loads(said.out)
    assert (found["deleted"], found["n_bytes"]) == (False, 0)
    assert "0 bytes (0.0 MiB) would be freed; --delete does it" in said.err
    assert "(job scratch)" in call("gc", "--table").out
    running = open_run(QUESTION)
    said = call("gc", running.run_id)
    assert (said.code, said.out) == (1, "")
    assert "is running" in said.err


def test_doctor_says_what_is_missing_and_fails_only_for_what_was_asked(call):
    said = call("doctor")
    lines = json.loads(said.out)
    assert said.code == 0, [line for line in lines if not line["ok"]]
    assert all({"check", "ok", "found", "remedy"} <= line.keys() for line in lines)
    cloud = call("doctor", "--for", "batch", "--table")
    assert cloud.code == 1
    assert "FAIL  batch settings: project unset" in cloud.out
    assert "      -> set HAYSTACK_BATCH__PROJECT" in cloud.out
    assert call("doctor", "--for", "mars").code == 2


def test_submit_refuses_what_run_refuses_and_makes_nothing(call, tiny_env):
    for arguments, says in (
        (["B cells?"], "too short"),
        ([QUESTION, "--threshold", "99"], "threshold"),
        ([QUESTION, "--atlas", "absent"], "absent"),
        (["run-20200101t000000-000000"], "no run"),
    ):
        said = call("submit", *arguments)
        assert (said.code, said.out) == (2, "")
        assert says in said.err
    assert not tiny_env.exists()


def test_submit_takes_every_option_of_run(call):
    shown = [set(call(command, "--help").out.split()) for command in ("run", "submit")]
    options = [{word for word in words if word.startswith("--")} for words in shown]
    assert options[0] == options[1]
    assert len(options[0]) > 15
