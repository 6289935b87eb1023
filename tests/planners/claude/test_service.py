"""The service as it may be: slow, busy, broken, refusing, of another provider; and the tools that a model may call."""

import json

import pytest

from haystack_kernel import flow
from haystack_kernel.errors import ServiceError
from haystack_kernel.jobs import in_usd
from haystack_kernel.jobs.places import Places
from haystack_kernel.jobs.spending import read_spending
from haystack_kernel.planners.claude.cost import estimate_planner, load_prices, price_of, usage_in
from haystack_kernel.schema import ClaudeSettings, RunConfig, Usage
from haystack_kernel.store import CallFolder
from tests.planners.claude.model import B_CELLS, data_in, honest
from tests.servers import messages

PLAIN = "How would B cells respond to IFN-beta?"


def understand(ports, begin_with):
    record = begin_with(ports, PLAIN)
    return flow.perform(record, "understand", ports), CallFolder(ports.store, record.run_id).calls


@pytest.mark.parametrize(
    ("faults", "waited"),
    [
        ([messages.overloaded()], 2.0),
        ([messages.overloaded(), messages.broken(503)], 6.0),
        ([messages.rate_limited(7)], 7.0),
        ([messages.broken(500), messages.broken(502), messages.broken(504)], 14.0),
    ],
)
def test_a_busy_service_is_asked_again_and_every_try_is_kept(server, asking, begin_with, clock, faults, waited):
    server.script += faults
    before = clock.seconds
    record, calls = understand(asking(), begin_with)
    assert record.query.cell_type_name == "B cell"
    assert clock.seconds - before == waited
    assert [call.status for call in calls] == [fault.status for fault in faults] + [200]
    assert record.cost_usd == pytest.approx(calls[-1].usage.usd)  # what failed cost nothing


@pytest.mark.parametrize(
    ("replies", "says"),
    [
        ([messages.rate_limited(3600)], r"asks to wait 3600 s \(status 429\), longer than claude.max_wait_s"),
        ([messages.overloaded()] * 4, r"answered with status 529: Overloaded"),
        ([messages.unauthorized()], r"refuses the credentials \(status 401: invalid x-api-key\)"),
        ([messages.refuses()], r"the model refused to answer: declined"),
        ([messages.page()], r"answered with something else than a message: '<html>"),
    ],
)
def test_what_cannot_be_had_is_said_plainly_and_without_a_key(server, asking, begin_with, replies, says):
    server.script += replies
    ports = asking()
    record = ports.store.create(begin_with(ports, PLAIN))
    with pytest.raises(ServiceError, match=says) as caught:
        flow.advance(record, ports)
    assert server.key not in str(caught.value)
    failed = ports.store.load(record.run_id)
    assert (failed.status, failed.failure.kind) == ("failed", "ServiceError")
    record = flow.advance(flow.revive(failed, ports), ports)  # the service is well again
    assert record.query.cell_type_name == "B cell"


def test_a_service_that_is_not_there_costs_nothing(asking, begin_with, clock):
    ports = asking(base_url="http://127.0.0.1:9")
    record = begin_with(ports, PLAIN)
    with pytest.raises(ServiceError, match="cannot be reached"):
        flow.perform(record, "understand", ports)
    calls = CallFolder(ports.store, record.run_id).calls
    assert [call.status for call in calls] == [0, 0, 0, 0]
    places = Places(1.0, clock=clock)
    spent = read_spending(ports.store.uri(record.run_id), places=places, settings=ports.settings.batch)
    assert (spent.spent_usd, spent.reserved_usd) == (0.0, 0.0)


def test_vertex_asks_with_the_token_of_the_project_and_no_key(server, asking, begin_with):
    server.answer = lambda body: messages.says(B_CELLS)
    ports = asking(provider="vertex", project="proj", region="global", access_token=server.key, api_key=None)
    record, calls = understand(ports, begin_with)
    assert record.query.cell_type_name == "B cell"
    (asked,) = server.requests
    assert asked.path.endswith(
        "/projects/proj/locations/global/publishers/anthropic/models/claude-sonnet-5-5:rawPredict"
    )
    assert "x-api-key" not in asked.headers
    # the same request through another provider has the same digest, so that a transcript drives both
    other = asking()
    assert understand(other, begin_with)[1][0].digest == calls[0].digest


def test_google_cloud_is_a_setting_too(server, asking, begin_with):
    ports = asking(provider="google_cloud", project="proj", workspace="wrkspc", access_token=server.key, api_key=None)
    assert understand(ports, begin_with)[0].query.cell_type_name == "B cell"
    assert server.requests[0].headers["authorization"] == f"Bearer {server.key}"


def test_thoughts_of_the_model_are_given_back_unchanged(tiny_settings, asking, begin_with):
    with messages.messages_server(honest, thinks=True) as thinking:
        ports = asking(base_url=thinking.address, api_key=thinking.key)
        record = ports.store.create(begin_with(ports, PLAIN))
        record = flow.work(record, ports, until="assemble")
        assert record.rounds[0].choice.planner == "claude"
        assert len(thinking.requests) == 3


# --- tools ----------------------------------------------------------------------------------------------------------


def chosen_after(ports, begin_with, server, *calls):
    """Tool results of the calls, one after the other, and the record once the honest choice was submitted."""
    left = list(calls)

    def answer(body):
        if not body.get("tools"):
            return honest(body)
        return messages.uses(left.pop(0)) if left else honest(body)

    server.answer = answer
    record = flow.work(ports.store.create(begin_with(ports, PLAIN)), ports, until="assemble")
    blocks = [
        block
        for message in server.requests[-1].body["messages"]
        if message["role"] == "user"
        for block in messages.content_blocks(message)
        if block["type"] == "tool_result"
    ]
    return blocks, record


def test_every_tool_answers_from_tables_and_atlas(server, asking, begin_with):
    calls = [
        ("resolve_term", {"text": "antibody secreting cells", "kind": "cell_type"}),
        ("related_cell_types", {"name": "B cell"}),
        ("treatment_facts", {"name": "IFN-beta"}),
        ("measured", {"treatment": "IFN-beta", "cell_type": ""}),
        ("literature", {}),
    ]
    blocks, record = chosen_after(asking(), begin_with, server, *calls)
    resolved, related, facts, held, papers = (json.loads(block["content"]) for block in blocks[:5])
    assert set(resolved) == {"name", "id", "near"}
    assert related["of"] == "B cell"
    assert "IFNAR1" in facts["targets"]
    assert {row["treatment"] for row in held["rows"]} == {"IFN-beta"}
    assert all(row["cells"] == 36 and row["donors"] == 3 for row in held["rows"])
    assert papers["why"] == "no literature source is asked in this run"
    assert record.rounds[0].choice.planner == "claude"


REFUSED = [
    (("submit", {"keys": ["c99"], "reason": "It is near."}), "'c99' is no candidate; possible: c1"),
    (("submit", {"keys": [], "reason": "Nothing."}), "choose at least one of c1"),
    (("submit", {"keys": ["c1"], "reason": ""}), "give two or three sentences"),
    (("submit", {"keys": ["c1"], "reason": "It scored 9.7."}), "9.7 is none of the numbers that you were shown"),
    (("submit", {"keys": ["c1"], "reason": "See www.example.org."}), "write no address"),
    (("submit", {"keys": ["c1"]}), "reason: Field required"),
    (("submit", {"keys": ["c1"], "reason": "It is near.", "score": 10}), "score: Extra inputs are not permitted"),
    (("contrast", {"first": "c1", "second": "c77"}), "'c77' is no candidate"),
    (("treatment_facts", {"name": "nothing known"}), "no known treatment of that name"),
    (("related_cell_types", {"name": "nothing known"}), "no known cell type of that name"),
    (("set_score", {"value": 10}), "not found"),
]


def test_what_a_tool_refuses_is_told_and_changes_nothing(server, asking, begin_with):
    blocks, record = chosen_after(asking(max_turns=20), begin_with, server, *(call for call, _ in REFUSED))
    for block, (call, says) in zip(blocks, REFUSED, strict=False):
        content = block["content"]
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        assert block["is_error"] is True, call
        assert says in text
    assert record.rounds[0].choice.planner == "claude"
    assert "9.7" not in record.rounds[0].choice.reason


def test_a_model_that_never_submits_fails_clearly_after_one_reminder(server, asking, begin_with):
    server.answer = lambda body: messages.says("I would rather talk.") if body.get("tools") else honest(body)
    ports = asking()
    with pytest.raises(ServiceError, match="ended twice without submitting a choice"):
        flow.work(ports.store.create(begin_with(ports, PLAIN)), ports, until="assemble")
    assert "Call submit now" in messages.shown_strings(server.requests[-1].body)[0]
    assert data_in(server.requests[-1].body)["candidates"]


def test_a_set_that_was_tried_is_refused_and_another_one_is_taken(server, asking, begin_with):
    ports = asking()
    record = flow.work(ports.store.create(begin_with(ports, PLAIN)), ports, until="assemble")
    first = record.rounds[0].choice.candidate_keys
    scored = record.rounds[0].model_copy(update={"decision": "go on"})
    again = flow.perform(record.model_copy(update={"rounds": (scored,)}), "choose", ports)
    assert again.rounds[1].choice.candidate_keys != first


# --- money ----------------------------------------------------------------------------------------------------------


def test_prices_tell_cache_reads_and_writes_apart_and_the_size_of_the_prompt():
    price = price_of("claude-sonnet-5-5")
    assert price.of(Usage(input_tokens=1_000_000)) == pytest.approx(2.0)
    assert price.of(Usage(input_tokens=1_000_000, cache_read_tokens=1_000_000)) == pytest.approx(0.1)
    assert price.of(Usage(input_tokens=1_000_000, cache_write_tokens=1_000_000)) == pytest.approx(2.5)
    assert price.of(Usage(output_tokens=1_000_000)) == pytest.approx(10.0)
    small = price_of("claude-haiku-5-5")
    assert small.of(Usage(input_tokens=100_000)) == pytest.approx(0.01)
    assert small.of(Usage(input_tokens=100_001)) == pytest.approx(0.0500005)
    assert price_of("claude-haiku-4-5-20251001") == price_of("claude-haiku-4-5")
    as_of, prices = load_prices()
    assert as_of >= "2026-11"
    assert all(one.cache_read < one.input < one.cache_write < one.output for one in prices.values())


def test_usage_without_an_answer_is_no_usage():
    assert usage_in("<html>", model="claude-sonnet-5-5") is None
    assert usage_in({"error": {}}, model="claude-sonnet-5-5") is None
    said = {"usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 5}}
    usage = usage_in(said, model="claude-sonnet-5-5")
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (100, 90, 5)


def test_an_estimate_never_exceeds_the_cap():
    estimate = estimate_planner(RunConfig(), ClaudeSettings(max_usd=0.01))
    assert estimate.low_usd == estimate.likely_usd == estimate.high_usd == 0.01
    usual = estimate_planner(RunConfig(max_rounds=5), ClaudeSettings())
    assert 0 < usual.low_usd < usual.likely_usd < usual.high_usd == 1.0
    assert in_usd(usual.likely_usd)
