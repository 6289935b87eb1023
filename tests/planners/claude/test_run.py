"""A whole run planned by a model of the local service: choices, words, transcript, replay, resume."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from haystack_kernel import flow, rounds
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config
from haystack_kernel.errors import ApprovalNeededError, ContractError, LimitError
from haystack_kernel.ports import Consent
from haystack_kernel.run import new_record
from haystack_kernel.schema import Settings, Transcript
from haystack_kernel.store import CallFolder, layout
from tests.conftest import QUESTION, InlineExecutor, tiny_options
from tests.planners.claude.model import honest
from tests.servers import messages

pytestmark = pytest.mark.slow


def ports_for(folder, root, server=None, *, consent=None, clock=None, **claude):
    section = {"base_url": server.address, "api_key": server.key} if server else {}
    options = {
        **tiny_options(folder, root),
        "claude": {**section, **claude},
        "rounds": {"maximum": 1},
        "literature": {"enabled": False},
    }
    ports = connect(Settings.model_validate(options), consent=consent or Consent(approve=True))
    if clock is not None:
        ports.planners["claude"]._clock = clock
    return replace(ports, executors={"local": InlineExecutor(ports.clock)})


def begin(ports, question=QUESTION, **options):
    options = {"n_prompt": 60, "n_query": 24, **options}
    config = build_config(ports.settings, **options)
    return ports.store.create(new_record(question, run_id=None, config=config, ports=ports))


@pytest.fixture(scope="module")
def planned(tmp_path_factory, tiny_atlas_root):
    """Ports, record and server of a run that was planned by the honest model; read only."""
    with messages.messages_server(honest) as server:
        ports = ports_for(tmp_path_factory.mktemp("planned"), tiny_atlas_root, server)
        yield ports, flow.work(begin(ports), ports), server


def test_choices_and_words_are_the_models_and_every_number_is_the_records(planned):
    ports, record, _ = planned
    assert record.status == "done"
    choice = record.rounds[0].choice
    assert choice.planner == record.query.planner == record.interpretation.planner == "claude"
    assert re.search(r"T cell of tiny and .*monocyte of tiny show the treatment itself", choice.reason)
    assert not re.search(r"\bc\d\b", choice.reason)
    text = record.interpretation.model_text
    gene = next(name for name in record.best.top_genes if name in text.paragraphs[0])
    de = ports.store.read(record.run_id, layout.DE).decode().splitlines()
    column = de[0].split(",").index("log2fc")
    value = next(float(row.split(",")[column]) for row in de[1:] if row.startswith(f"{gene},"))
    assert f"({value:+.1f})" in text.paragraphs[0]
    assert f"The score is {record.best.composite.shown}," in text.paragraphs[0]
    assert record.interpretation.headline.startswith("Predicted for B cell under IFN-beta")  # by rules, as ever
    assert text.next_experiments


def test_what_it_cost_is_billed_by_step_and_the_transcript_holds_every_request(planned):
    ports, record, server = planned
    transcript = Transcript.model_validate_json(ports.store.read(record.run_id, layout.TRANSCRIPT))
    steps = [call.step for call in transcript.calls]
    assert steps == ["understand", "choose 1", "choose 1", "interpret"]
    assert len(server.requests) == len(steps)
    used = {time.step: time.usage for time in record.steps if time.usage}
    assert set(used) == {"understand", "choose 1", "interpret"}
    assert {bill.job_id: bill.usd for bill in record.bills} == pytest.approx(
        {
            "planner-understand": used["understand"].usd,
            "planner-choose-1": used["choose 1"].usd,
            "planner-interpret": used["interpret"].usd,
        }
    )
    assert record.cost_by_kind == {"planner": pytest.approx(sum(one.usd for one in used.values()))}
    assert used["choose 1"].prompts == used["interpret"].prompts != ""
    assert server.key not in ports.store.read(record.run_id, layout.TRANSCRIPT).decode()


def test_the_cache_is_read_from_the_second_request_of_a_step_on(planned):
    _, record, server = planned
    turns = [usage for asked, usage in zip(server.requests, server.usages, strict=True) if asked.body.get("tools")]
    assert turns[0]["cache_creation_input_tokens"] >= 1024
    assert turns[1]["cache_read_input_tokens"] >= turns[0]["cache_creation_input_tokens"]
    used = next(time.usage for time in record.steps if time.step == "choose 1")
    assert used.cache_read_tokens == turns[1]["cache_read_input_tokens"]


def test_no_label_of_the_atlas_is_shown(planned):
    _, record, server = planned
    said = server.said_to()
    for label in ("tiny", "CD14+ monocyte", "tiny:d1", record.run_id):
        assert label not in said
    assert "classical monocyte" in said or "CD14-positive monocyte" in said


def test_a_transcript_drives_a_run_without_key_consent_or_network(planned, tmp_path, tiny_atlas_root):
    made, record, server = planned
    n_asked = len(server.requests)
    path = tmp_path / "kept.json"
    path.write_bytes(made.store.read(record.run_id, layout.TRANSCRIPT))
    ports = ports_for(tmp_path, tiny_atlas_root, consent=Consent())
    again = flow.work(begin(ports, planner="replay", transcript=str(path)), ports)
    assert again.status == "done"
    assert again.query == record.query.model_copy(update={"planner": "replay"})
    assert again.rounds[0].choice.candidate_keys == record.rounds[0].choice.candidate_keys
    assert again.interpretation.model_text == record.interpretation.model_text
    assert again.score == record.score
    both = [[time.usage for time in one.steps if time.usage] for one in (record, again)]
    assert both[0] == both[1]
    assert (again.bills, again.cost_usd, len(server.requests)) == ((), 0.0, n_asked)


def test_another_question_is_not_in_the_transcript(planned, tmp_path, tiny_atlas_root):
    made, record, _ = planned
    path = tmp_path / "kept.json"
    path.write_bytes(made.store.read(record.run_id, layout.TRANSCRIPT))
    ports = ports_for(tmp_path, tiny_atlas_root, consent=Consent())
    record = begin(ports, "How would NK cells respond to IFN-beta?", planner="replay", transcript=str(path))
    with pytest.raises(ContractError, match="no answer to request 1 of step 'understand'"):
        flow.advance(record, ports)


def fails_after(n_requests):
    """An honest model whose service breaks down after some requests."""
    left = iter(range(n_requests))

    def answer(body):
        return honest(body) if next(left, None) is not None else messages.broken()

    return answer


@pytest.mark.parametrize("n_before", [1, 2])
def test_a_step_that_was_interrupted_goes_on_with_the_answers_it_has_paid_for(
    tmp_path, tiny_atlas_root, clock, n_before
):
    """After the reading, and in the middle of choosing."""
    with messages.messages_server(fails_after(n_before)) as server:
        ports = ports_for(tmp_path, tiny_atlas_root, server, clock=clock, tries=1)
        record = begin(ports)
        with pytest.raises(Exception, match="status 500"):
            flow.work(record, ports, until="assemble")
        failed = ports.store.load(record.run_id)
        assert failed.status == "failed"
        assert failed.cost_usd == pytest.approx(
            sum(call.usage.usd for call in CallFolder(ports.store, record.run_id).calls)
        )
        server.answer = honest
        done = flow.work(flow.revive(failed, ports), ports, until="assemble")
        assert done.rounds[0].choice.planner == "claude"
        answered = [asked for asked in server.requests if asked.status == 200]
        assert len(answered) == 3  # as many as without the interruption


@pytest.mark.parametrize(
    ("cap", "value", "says"),
    [
        ("max_turns", 2, "2 requests in step 'choose 1', which is the limit claude.max_turns"),
        ("max_total_tokens", 1000, "tokens, which is the limit claude.max_total_tokens"),
    ],
)
def test_a_limit_ends_the_step_and_a_higher_one_goes_on(tmp_path, tiny_atlas_root, cap, value, says):
    """Looking without end."""

    def wanders(body):
        if not body.get("tools"):
            return honest(body)
        return messages.uses(("measured", {"treatment": "", "cell_type": ""}))

    with messages.messages_server(wanders) as server:
        ports = ports_for(tmp_path, tiny_atlas_root, server, **{cap: value})
        record = begin(ports)
        with pytest.raises(LimitError, match=says):
            flow.work(record, ports)
        failed = ports.store.load(record.run_id)
        assert (failed.status, failed.failure.step) == ("failed", "choose")
        server.answer = honest
        more = ports_for(tmp_path, tiny_atlas_root, server)
        assert flow.work(flow.revive(failed, more), more, until="assemble").rounds


@pytest.fixture
def at_step(planned, tmp_path, tiny_atlas_root):
    """The finished run as it was before a step, in a storage of its own: ``at_step("choose", server)``."""
    made, record, _ = planned

    def make(step, server):
        ports = ports_for(tmp_path, tiny_atlas_root, server)
        if step == "understand":
            return ports, begin(ports)
        source, target = (Path(one.settings.storage) / "runs" / record.run_id for one in (made, ports))
        shutil.copytree(source, target)
        return ports, ports.store.save(record.before({"choose": "rounds"}.get(step, step)))

    return make


@pytest.mark.parametrize("step", ["understand", "choose", "interpret"])
def test_at_the_cap_in_dollars_the_run_stops_and_goes_on_when_it_is_raised(at_step, step, tmp_path, tiny_atlas_root):
    with messages.messages_server(honest) as server:
        free, record = at_step(step, server)
        before = record.cost_usd
        # 8,000 tokens of an answer alone may cost 0.08
        consent = Consent(approve=True, max_usd=before + 0.05)
        tight = ports_for(tmp_path, tiny_atlas_root, server, consent=consent, max_tokens=8001)
        with pytest.raises(ApprovalNeededError, match=r"The cap is .*--max-cost") as caught:
            flow.advance(record, tight)
        assert caught.value.facts["spent_usd"] == round(before, 4)
        assert server.requests == []
        failed = free.store.load(record.run_id)
        assert (failed.failure.kind, failed.failure.step) == ("ApprovalNeededError", step)
        more = ports_for(tmp_path, tiny_atlas_root, server, max_tokens=8001)
        after = flow.advance(flow.revive(failed, more), more)
        assert (after.status, server.requests != [], after.cost_usd > before) == ("running", True, True)


def test_the_setting_caps_the_planner_alone(tmp_path, tiny_atlas_root):
    with messages.messages_server(honest) as server:
        ports = ports_for(tmp_path, tiny_atlas_root, server, max_usd=0.05)
        with pytest.raises(ApprovalNeededError, match=r"raise the setting claude\.max_usd"):
            flow.advance(begin(ports), ports)
        assert server.requests == []


def test_the_request_is_written_before_it_is_sent(tmp_path, tiny_atlas_root, clock):
    """A connection that ends in the middle of an answer: what it may have cost stays reserved."""
    with messages.messages_server(lambda body: replace(honest(body), cut_after=40)) as server:
        ports = ports_for(tmp_path, tiny_atlas_root, server, clock=clock, tries=1)
        record = begin(ports)
        with pytest.raises(Exception, match=r"cannot be reached"):
            flow.advance(record, ports)
        (call,) = CallFolder(ports.store, record.run_id).calls
        assert call.status is None
        assert call.reserved_usd > 0.08
        assert json.dumps(call.request) == json.dumps(server.requests[0].body)
        assert ports.store.load(record.run_id).cost_usd == 0.0  # what is not known is no bill, but caps count it
        view = rounds.planner_view(record, ports, step="understand")
        assert view.spending() == pytest.approx((0.0, call.reserved_usd))


def test_the_report_marks_what_a_model_wrote_and_folds_transcript_and_bill(planned):
    ports, record, _ = planned
    page = ports.store.read(record.run_id, layout.REPORT).decode()
    text = record.interpretation.model_text
    assert f"Written by {text.model}, a language model." in page
    assert page.index("Written by claude") < page.index("In figures")
    assert "(Written by a language model.)" in page
    section = page[page.index('id="transcript"') :]
    assert f"4 requests, {record.cost_usd:.2g} USD by list prices" in section or "4 requests, 0.0" in section
    assert "The conversation of step" in section
    assert "contrast(" in section
    assert "The planner asked claude-sonnet-5-5 4 times" in page
    assert len(page) < 5_000_000
