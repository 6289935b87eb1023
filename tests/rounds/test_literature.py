"""A run with the literature on: asked once, stored, cited, read again without the network."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from haystack_kernel import flow, keys
from haystack_kernel.config.options import build_config
from haystack_kernel.config.settings import load_settings
from haystack_kernel.literature import PaperSearcher
from haystack_kernel.rounds import literature as papers
from haystack_kernel.rounds import publishing
from haystack_kernel.schema import LiteratureSettings

UP = ["ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3", "MX1", "OAS1", "RSAD2"]


def load_server():
    path = Path(__file__).parents[1] / "servers" / "literature.py"
    spec = importlib.util.spec_from_file_location("literature_server_for_runs", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(make):
    told = [
        make(
            f"{n}",
            f"Synthetic study number {n} of one treatment",
            f"IFN-beta induced {gene} in B cells.",
            f"10.1234/{n}",
        )
        for n, gene in enumerate(UP, 1)
    ]
    against = make("90", "A synthetic study that says the opposite", "ISG15 was reduced by IFN-beta in B cells.")
    gone = make("91", "RETRACTED: A synthetic study of MX2", "IFN-beta reduced MX2.", "10.1234/91")
    return [*told, against, gone]


@pytest.fixture
def asked(ports, tmp_path):
    """The server, and ports that ask it."""
    module = load_server()
    with module.literature_server(entries(module.Entry)) as server:
        settings = LiteratureSettings(**server.settings)
        searcher = PaperSearcher(settings, folder=tmp_path / "papers", clock=ports.clock)
        yield server, replace(ports, literature=searcher)


@pytest.mark.slow
def test_a_run_asks_scores_cites_and_never_asks_twice(asked, begin):
    server, ports = asked
    record = flow.work(begin(literature=True), ports, until="interpret")
    component = next(item for item in record.best.components if item.name == keys.LITERATURE)
    assert component.statistic > 0
    assert component.detail["n_telling"] == 9
    citations = json.loads(ports.store.read(record.run_id, "rounds/1/citations.json"))
    first = citations["citations"][0]
    assert first["paper"]["pmid"] == "90"
    assert first["quotes"][0]["stance"] == "contradiction"
    retracted = [item for item in citations["citations"] if item["paper"]["retracted"]]
    assert [item["scored"] for item in retracted] == [False]
    for item in citations["citations"]:
        for quote in item["quotes"]:
            text = item["paper"][quote["where"]]
            assert text[quote["start"] : quote["end"]] == quote["quote"]
    publishing.write_report(record, ports)
    report = ports.store.read(record.run_id, "report.html").decode()
    assert 'id="literature"' in report
    assert "https://doi.org/10.1234/1" in report

    n_asked = len(server.requests)
    again = record.model_copy(update={"rounds": (record.rounds[-1].model_copy(update={"files": ()}),)})
    silent = replace(ports, literature=None)  # a resumed run reads the files
    found = papers.find_papers(again, silent)
    assert len(found.papers) == 10
    assert len(server.requests) == n_asked


@pytest.mark.slow
def test_all_sources_down_leaves_nan_and_the_run_goes_on(asked, begin):
    server, ports = asked
    server.faults = {name: [(404, b"")] * 9 for name in server.entries}
    record = flow.work(begin(literature=True, n_prompt=4, n_query=3), ports)
    component = next(item for item in record.best.components if item.name == keys.LITERATURE)
    assert math.isnan(component.score)
    assert "pubmed: it answered 404" in component.reason
    assert record.status == "done"
    citations = json.loads(ports.store.read(record.run_id, "citations.json"))
    assert [answer["reason"] for answer in citations["answers"]] == ["it answered 404"] * 3


def test_who_is_asked_by_default(tmp_path):
    settings = load_settings(layer="default", storage=str(tmp_path))
    assert build_config(settings, atlases=("kang",)).literature
    assert not build_config(settings, atlases=("kang",), literature=False).literature
    assert not build_config(settings, atlases=("demo",)).literature  # simulated cells
    assert build_config(settings, atlases=("demo",), literature=True).literature
    assert not build_config(load_settings(layer="test", storage=str(tmp_path)), atlases=("kang",)).literature
