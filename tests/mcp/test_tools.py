"""What the tools answer: small values with run ids and limits, and errors that say what to do next."""

import json
import sys

import anyio
import pytest

from haystack_kernel.mcp.options import OFFERED, WITHHELD, RunOptions
from haystack_kernel.schema import OPTIONS
from tests.mcp.conftest import QUESTION, call

pytestmark = pytest.mark.slow

MOST_CHARACTERS = 6_000  # of an answer: about 2,000 tokens


@pytest.fixture(scope="module")
def of_finished(finished):
    """A bench on the storage of a finished run, and its id."""
    from haystack_kernel.mcp.bench import Bench

    ports, record = finished
    return Bench(ports.settings, open_ports=lambda consent: ports), record.run_id


def test_a_question_is_looked_at_and_nothing_is_started(bench, jobs):
    found = call(bench, "ask", {"question": QUESTION, "n_candidates": 2})
    assert (found["cell_type"], found["treatment"], found["cell_type_id"]) == ("B cell", "IFN-beta", "CL:0000236")
    assert [item["treatment"] for item in found["candidates"]] == ["IFN-beta", "IFN-beta"]
    assert found["first_answer"]["n_prompt_cells"] > 0
    assert found["estimate"] | {"is_free": True, "starts_anything": False} == found["estimate"]
    assert len(json.dumps(found)) < MOST_CHARACTERS
    assert (jobs.submitted, bench.list_runs(most=5)["n_runs"]) == ([], 0)


def test_candidates_are_banned_by_the_ids_that_were_shown(bench):
    before = call(bench, "candidates", {"question": QUESTION})
    first = before["candidates"][0]
    after = call(bench, "candidates", {"question": QUESTION, "options": {"ban": [first["id"]]}})
    assert first["id"] not in [item["id"] for item in after["candidates"]]
    said = call(bench, "candidates", {"question": QUESTION, "options": {"ban": ["c-00000000"]}})
    assert "call `candidates` first" in said


def test_a_refused_question_says_what_can_be_asked(bench):
    said = call(bench, "reading", {"question": "How would glorps respond to IFN-beta?"})
    assert "glorps" in said
    assert "closest known terms" in said


def test_arguments_are_refused_in_words(bench):
    assert "did you mean 'question'?" in call(bench, "reading", {"qestion": QUESTION})
    assert "question: " in call(bench, "reading", {"question": "short"})
    assert "there is no tool 'answer'" in call(bench, "answer", {})
    assert "options.model" in call(bench, "reading", {"question": QUESTION, "options": {"model": "/etc/passwd"}})
    assert "no run" in call(bench, "status", {"run_id": "run-20260102t030405-abcdef"})
    assert "run id" in call(bench, "status", {"run_id": "../../etc"})


def test_a_crash_is_told_without_what_it_says(bench, monkeypatch, caplog):
    def fail(*args, **options):
        msg = "secret path"
        raise RuntimeError(msg)

    monkeypatch.setattr(bench, "list_runs", fail)
    said = call(bench, "list_runs")
    assert "failed inside HAYSTACK (RuntimeError)" in said
    assert "haystack doctor" in said
    assert "secret path" not in said
    assert "secret path" in caplog.text  # for the person, on the server's error output


def test_the_tools_are_described_in_few_words(bench):
    from haystack_kernel.mcp.server import build_server

    tools = anyio.run(build_server(bench).list_tools)
    assert (
        sum(len(json.dumps(tool.input_schema)) + len(tool.description) for tool in tools) < 16_000
    )  # about 4,000 tokens
    asked = next(tool for tool in tools if tool.name == "ask").input_schema
    assert (asked["required"], asked["$defs"]["RunOptions"]["additionalProperties"]) == (["question"], False)
    assert asked["$defs"]["RunOptions"]["properties"]["seed"] == {
        "minimum": 0,
        "type": "integer",
        "description": "random seed",
    }


def test_an_option_of_a_run_is_offered_or_withheld_for_a_stated_reason():
    assert sorted((*OFFERED, *WITHHELD)) == sorted(OPTIONS)
    assert set(RunOptions.model_fields) == set(OFFERED)


def test_a_finished_run_is_read_in_small_pieces(of_finished, finished):
    bench, run_id = of_finished
    best = finished[1].best
    found = call(bench, "result", {"run_id": run_id, "n_genes": 3, "genes": ["mx1", "NOGENE9"]})
    assert found["run_id"] == run_id
    assert found["score"] == pytest.approx(best.composite.value, rel=0.01)
    assert len(found["up"]) == 3
    assert [row["gene"] for row in found["asked"]] == ["MX1"]
    assert found["not_in_the_prediction"] == ["NOGENE9"]
    assert found["limits"]
    assert found["n_genes_called"] == best.n_de
    assert len(json.dumps(found)) < MOST_CHARACTERS
    scored = call(bench, "explain_score", {"run_id": run_id})
    assert [row["component"] for row in scored["components"]] == [item.name for item in best.components]
    assert len(json.dumps(scored)) < MOST_CHARACTERS
    assert call(bench, "status", {"run_id": run_id, "wait_s": 1})["is_over"] is True
    assert call(bench, "compare", {"run_a": run_id, "run_b": run_id})["pearson_of_effects"] == 1
    listed = call(bench, "list_runs")["runs"]
    assert run_id in [row["run_id"] for row in listed]


def test_a_run_without_a_round_says_so(bench):
    from tests.mcp.conftest import Person

    started = call(bench, "start", {"question": QUESTION}, person=Person({"approve": True}))
    for tool in ("result", "explain_score"):
        assert "no scored round yet" in call(bench, tool, {"run_id": started["run_id"]})
    assert call(bench, "status", {"run_id": started["run_id"]})["status"] == "running"


def test_the_atlases_are_searched_by_known_terms(bench):
    everything = call(bench, "search_atlases")["atlases"]
    assert [row["atlas"] for row in everything] == ["tiny", "demo"]
    found = call(bench, "search_atlases", {"cell_type": "monocyte", "treatment": "interferon beta", "atlas": "tiny"})
    row = found["conditions"][0]
    assert (row["treatment"], row["n_cells"], row["n_donors"]) == ("IFN-beta", 36, 3)
    assert found["read_as"]["cell_type"] == "monocyte and its subtypes"
    assert call(bench, "search_atlases", {"treatment": "IL-6", "atlas": "tiny"})["nothing_found"] is True
    assert "possible: tiny, demo" in call(bench, "search_atlases", {"atlas": "nowhere"})


def test_the_tools_of_jupyterlab_are_the_same_and_start_nothing(of_finished, monkeypatch):
    from importlib import import_module

    from haystack_kernel.mcp import lab
    from haystack_kernel.mcp.server import build_server

    bench, run_id = of_finished
    monkeypatch.setattr(lab, "_bench", lambda: bench)
    tools = {
        name.partition(":")[2]: getattr(import_module(name.partition(":")[0]), name.partition(":")[2])
        for name in lab.TOOLS
    }
    served = [tool.name for tool in anyio.run(build_server(bench).list_tools)]
    assert sorted(tools) == sorted(f"haystack_{name}" for name in served)
    n_before = bench.list_runs(most=1)["n_runs"]
    found = tools["haystack_start"](QUESTION, RunOptions(seed=3))
    assert "haystack.widgets.ask('How would B cells respond to IFN-beta?', seed=3)" in found["cell_for_the_person"]
    assert (found["started"], bench.list_runs(most=1)["n_runs"]) == (False, n_before)
    assert tools["haystack_result"](run_id, n_genes=1)["run_id"] == run_id
    assert "glorps" in tools["haystack_reading"]("How would glorps respond to IFN-beta?")["error"]
    first = tools["haystack_candidates"](QUESTION)["candidates"][0]["id"]
    banned = tools["haystack_start"](QUESTION, RunOptions(ban=[first]))
    assert (banned["the_person_does_in_the_form"], "ban" in banned["cell_for_the_person"]) == (["ban"], False)
    monkeypatch.setattr(bench, "list_runs", lambda most: 1 / 0)
    assert "HAYSTACK failed inside (ZeroDivisionError)" in tools["haystack_list_runs"]()["error"]


def test_the_configuration_of_a_client_starts_this_python():
    from haystack_kernel.mcp.serving import stdio_configuration

    entry = json.loads(stdio_configuration(storage="gs://lab/haystack", max_cost=5))["mcpServers"]["haystack"]
    wanted = ["-m", "haystack_kernel", "mcp", "--storage", "gs://lab/haystack", "--max-cost", "5"]
    assert (entry["command"], entry["args"]) == (sys.executable, wanted)
