"""The questions of the evaluation through planner claude: asked of the local server, then replayed from the transcript.

No language model answers here: the answers are written by hand (answers.json), so what is tested are the checks, the
repair round, the transcript and its replay. With a key, ``tests/evals/reading.py`` asks for real.
"""

import json

import pytest

pytest.importorskip("anthropic", reason="anthropic is not installed")

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.ports import Consent
from haystack_kernel.schema import Settings
from haystack_kernel.store import to_transcript
from tests.conftest import tiny_options
from tests.evals import answers, quotes, scoring
from tests.servers import messages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    return scoring.rows()


@pytest.fixture(scope="module")
def ports_for(tmp_path_factory, demo_atlas_root):
    def make(consent=None, **claude):
        settings = load_settings(layer="test", **tiny_options(tmp_path_factory.mktemp("evals"), demo_atlas_root))
        whole = {**settings.model_dump(), "atlases": ["demo"], "claude": claude}
        return connect(Settings.model_validate(whole), consent=consent)

    return make


@pytest.fixture(scope="module")
def asked(ports_for, rows):
    """Question -> what was given, and how often the server was asked."""
    with messages.messages_server(answers.answering()) as server:
        ports = ports_for(Consent(approve=True), base_url=server.address, api_key=server.key)
        given = {row["question"]: scoring.ask(ports, row["question"], planner="claude") for row in rows}
        return given, server.usages


def test_every_question_is_read_rightly_and_every_trap_is_kept(asked, rows):
    given, usages = asked
    knowledge = load_knowledge()
    verdicts = [scoring.judge(row, given[row["question"]], knowledge=knowledge) for row in rows]
    print(*scoring.summary(verdicts), sep="\n")  # noqa: T201 - the table of the evaluation
    assert [item.question for item in verdicts if item.right is False or item.trap_kept is False] == []
    assert [item.question for item in verdicts if item.valid_ids is False or item.failed] == []
    assert len(usages) == 66  # one a question, one more for each of 7 repairs, none for the one refused before
    assert sum(len(one.calls) for one in given.values()) == len(usages)


def test_the_instructions_are_read_from_the_cache_from_the_second_request_on(asked):
    _, usages = asked
    assert usages[0]["cache_creation_input_tokens"] >= messages.MODELS["claude-sonnet-5-5"]
    assert all(usage["cache_read_input_tokens"] > 0 for usage in usages[1:])


def test_a_replayed_transcript_gives_the_same_readings_without_key_network_or_money(asked, rows, ports_for, tmp_path):
    given, _ = asked
    path = tmp_path / "transcript.json"
    path.write_bytes(to_transcript(call for one in given.values() for call in one.calls))
    ports = ports_for()
    for row in rows:
        if row["group"] != "worded" and len(given[row["question"]].calls) < 2:
            continue  # the others are replayed in the same way
        first = given[row["question"]]
        again = scoring.ask(ports, row["question"], planner="replay", transcript=str(path))
        assert again.usd == 0
        assert again.words == first.words
    assert "sk-ant" not in path.read_text(encoding="utf-8")


def test_papers_are_read_and_what_they_do_not_say_is_left_out_and_counted(ports_for):
    with messages.messages_server(quotes.answering()) as server:
        ports = ports_for(Consent(approve=True), base_url=server.address, api_key=server.key)
        read = {case["title"]: quotes.ask(ports, case) for case in quotes.papers()}
    wrong = [title for title, one in read.items() if not one.right]
    assert wrong == ["Synovial fibroblasts"]  # where the written answer claims a gene that the sentence does not name
    unproven = {title: one.n_unproven for title, one in read.items() if one.n_unproven}
    assert unproven == {"Synovial fibroblasts": 1, "An abstract with orders": 1}
    assert (sum(one.n_unproven for one in read.values()), sum(one.n_quotes for one in read.values())) == (2, 21)


def test_the_written_answers_belong_to_the_questions(rows):
    replies = answers.replies()
    assert list(replies) == [row["question"] for row in rows]
    assert [len(one) for one in replies.values()].count(0) == 1  # mice: refused before anything is asked
    assert json.dumps(replies).count("sk-") == 0
