"""The three clients against a local server that speaks the documented forms, in good and in bad weather."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from haystack_kernel.literature import PaperSearcher, build_query
from haystack_kernel.schema import LiteratureSettings, PaperQuery, Perturbation, StructuredQuery


def server_module():
    path = Path(__file__).parents[1] / "servers" / "literature.py"
    spec = importlib.util.spec_from_file_location("literature_server", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["literature_server"] = module
    spec.loader.exec_module(module)
    return module


served = server_module()
Entry, literature_server = served.Entry, served.literature_server

QUERY = PaperQuery(perturbation=("TGF-beta1", 'TGF "beta"'), cell_type=("fibroblast",))
ONE = Entry("101", "A synthetic study of one factor in cells of a dish", "TGF-beta1 induced COL1A1.", "10.1234/one")
TWO = Entry("102", "Another synthetic study of the same factor elsewhere", "TGF-beta1 reduced MMP1.", "10.1234/two")
SOURCES = ("pubmed", "europepmc", "semanticscholar")


@pytest.fixture
def server():
    with literature_server([ONE, TWO]) as running:
        yield running


@pytest.fixture
def find(server, tmp_path, clock):
    def search(query=QUERY, **settings):
        made = LiteratureSettings(**server.settings, **settings)
        return PaperSearcher(made, folder=tmp_path / "cache", clock=clock).search(query)

    return search


def reasons(found):
    return {answer.source: answer.reason for answer in found.answers}


def test_the_same_papers_of_three_sources_are_one_each_with_everything_known(find):
    found = find()
    assert [(p.id, p.doi, p.sources) for p in found.papers] == [
        ("pmid:101", "10.1234/one", SOURCES),
        ("pmid:102", "10.1234/two", SOURCES),
    ]
    assert found.papers[0].abstract == "Results: TGF-beta1 induced COL1A1."
    assert (found.papers[0].journal, found.papers[0].year, found.papers[0].authors) == (
        "Synthetic Journal",
        2020,
        ("Author A",),
    )
    assert [(a.source, a.n_papers, a.reason) for a in found.answers] == [(name, 2, "") for name in SOURCES]


def test_each_source_is_asked_in_its_own_language_and_politely(find, server):
    find(email="somebody@example.org", ncbi_api_key="k-ncbi", semanticscholar_api_key="k-s2")
    asked = {
        Path(path.split("?")[0]).name + source[0]: (path, form, head) for source, path, form, head in server.requests
    }
    _, form, head = asked["esearch.fcgip"]
    assert form["term"] == [
        '("TGF-beta1"[Title/Abstract] OR "TGF beta"[Title/Abstract]) AND ("fibroblast"[Title/Abstract]) AND hasabstract'
    ]
    assert (form["tool"], form["email"], form["api_key"]) == (["haystack-kernel"], ["somebody@example.org"], ["k-ncbi"])
    assert head["User-Agent"].startswith("haystack-kernel/")
    _, form, _ = asked["searche"]
    assert form["query"] == [
        '(TITLE_ABS:"TGF-beta1" OR TITLE_ABS:"TGF beta") AND (TITLE_ABS:"fibroblast") AND HAS_ABSTRACT:Y'
    ]
    assert form["resultType"] == ["core"]
    _, form, head = asked["searchs"]
    assert form["query"] == ["TGF beta1 fibroblast gene expression"]  # no hyphens, no operators
    assert head["x-api-key"] == "k-s2"
    assert not any("k-ncbi" in path or "k-s2" in path for _, path, _, _ in server.requests)


def test_keys_and_addresses_are_never_kept(find, server, tmp_path):
    server.faults["semanticscholar"] = [(403, b"{}")]
    found = find(email="somebody@example.org", ncbi_api_key="k-ncbi", semanticscholar_api_key="k-s2")
    assert reasons(found)["semanticscholar"] == "it answered 403; check the key"
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").iterdir()) + found.model_dump_json().encode()
    assert not any(secret in kept for secret in (b"k-ncbi", b"k-s2", b"somebody"))
    assert "k-ncbi" not in repr(LiteratureSettings(ncbi_api_key="k-ncbi"))


def test_an_answer_is_kept_for_its_time_and_no_longer(find, server, clock):
    first = find()
    n_asked = len(server.requests)
    assert find().papers == first.papers
    assert len(server.requests) == n_asked
    clock.seconds += 8 * 86_400
    find()
    assert len(server.requests) == 2 * n_asked


@pytest.mark.parametrize(("wait", "least_s"), [("7", 7.0), (None, 0.25), ("Fri, 02 Jan 2026 03:04:12 GMT", 5.0)])
def test_a_source_that_asks_for_patience_gets_it(find, server, clock, wait, least_s):
    server.faults["europepmc"] = [(429, b"slow down", {"Retry-After": wait} if wait else {}), (503, b"")]
    found = find(timeout_s=60)
    assert reasons(found)["europepmc"] == ""
    assert clock.seconds >= least_s


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ((500, b"oops"), "it answered 500, a fault of the service (3 tries)"),
        ((429, b"", {"Retry-After": "3600"}), "it answered 429, too many requests, and asked to wait 3600 s"),
        ((404, b""), "it answered 404"),
        ((302, b"", {"Location": "http://127.0.0.1:9/"}), "it answered 302"),
        ((200, b'{"resultList": '), "its answer is not in the documented form: no JSON"),
        ((200, b"[" * 100_000), "its answer is not in the documented form: no JSON"),
        ((200, b"x" * 3_000_000), "its answer is larger than 1 MiB"),
        (
            (200, b'{"resultList"', {"Content-Length": "9999"}),
            "the connection was lost (RemoteProtocolError) (3 tries)",
        ),
    ],
)
def test_a_source_that_fails_says_why_and_the_others_answer(find, server, fault, says):
    server.faults["europepmc"] = [fault] * 3
    found = find(max_mib=1)
    assert reasons(found) == {"pubmed": "", "europepmc": says, "semanticscholar": ""}
    assert [paper.sources for paper in found.papers] == [("pubmed", "semanticscholar")] * 2


@pytest.mark.parametrize(
    ("source", "bodies"),
    [
        ("europepmc", [{}]),
        ("europepmc", [{"resultList": {"result": [{"title": "no identifier"}]}}]),
        ("europepmc", [{"error": "quota"}]),
        ("semanticscholar", [{"total": 7}]),
        ("semanticscholar", [{"total": 1, "data": [{"name": "a field that was renamed"}]}]),
        ("pubmed", [{"esearchresult": {"count": "12", "idlist": []}}]),
        ("pubmed", [{"esearchresult": {"count": "1", "idlist": ["a1"]}}]),
        ("pubmed", [{"esearchresult": {"count": "1", "idlist": ["999"]}}]),
    ],
)
def test_an_answer_in_another_form_is_a_failure_and_not_a_search_without_result(find, server, source, bodies):
    server.faults[source] = [(200, json.dumps(body).encode()) for body in bodies]
    if "999" in str(bodies):  # the entries of that id do not come
        server.faults[source].append((200, b"<PubmedArticleSet></PubmedArticleSet>"))
    assert reasons(find())[source].startswith("its answer is not in the documented form: ")


@pytest.mark.parametrize(
    "xml",
    [
        b'<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><PubmedArticleSet>&z;</PubmedArticleSet>',
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><PubmedArticleSet>&x;</PubmedArticleSet>',
        b"<PubmedArticleSet><PubmedArticle>",
        b"<html><body>down for maintenance</body></html>",
    ],
)
def test_xml_with_entities_or_of_another_kind_is_refused(find, server, xml):
    ids = json.dumps({"esearchresult": {"idlist": ["101"]}}).encode()
    server.faults["pubmed"] = [(200, ids), (200, xml)]
    assert "not in the documented form" in reasons(find())["pubmed"]


@pytest.mark.slow
def test_a_slow_source_is_left_behind(server, tmp_path):
    from haystack_kernel.jobs import SystemClock

    server.delay_s["semanticscholar"] = 120.0
    clock = SystemClock()
    searcher = PaperSearcher(
        LiteratureSettings(**server.settings, timeout_s=3.0), folder=tmp_path / "cache", clock=clock
    )
    started = clock.monotonic()
    found = searcher.search(QUERY)
    assert clock.monotonic() - started < 100
    assert "did not answer" in reasons(found)["semanticscholar"]
    assert len(found.papers) == 2


def test_no_network_is_told_at_once(tmp_path, clock):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound, but nobody listens
        settings = LiteratureSettings(europepmc_url=closed, pubmed_url=closed, semanticscholar_url=closed)
        found = PaperSearcher(settings, folder=tmp_path, clock=clock).search(QUERY)
    assert not found.papers
    assert all("could not be reached" in reason for reason in reasons(found).values())


def test_papers_not_asked_for_and_identifiers_of_other_titles_are_left_out(find, server):
    server.unasked = [Entry("999", "An unasked synthetic paper that nobody searched for", "TGF-beta1 induced IL6.")]
    server.entries["semanticscholar"] = [Entry("101", "Wholly unrelated words on beetles", "TGF-beta1 induced IL6.")]
    found = find()
    assert [paper.id for paper in found.papers] == ["pmid:101", "pmid:102"]
    assert found.papers[0].title == ONE.title
    assert reasons(found)["semanticscholar"].startswith("1 left out")


def test_markup_in_titles_becomes_text(find, server):
    server.entries = {name: [] for name in SOURCES}
    server.entries["europepmc"] = [Entry("7", "<i>COL1A1</i> &amp; <b>x</b><script>alert(1)</script> at p<0.05", "a")]
    (paper,) = find().papers
    assert paper.title == "COL1A1 & x alert(1) at p<0.05"


@pytest.mark.parametrize(
    "entry",
    [
        Entry(
            "5",
            "A synthetic study that did not hold up in the end",
            "TGF-beta1 induced IL6.",
            kinds=("Retracted Publication",),
        ),
        Entry("5", "RETRACTED: A synthetic study that did not hold up", "TGF-beta1 induced IL6."),
        Entry("5", "A synthetic note on another synthetic study", "x", kinds=("Retraction of Publication",)),
    ],
)
def test_retracted_in_one_source_is_retracted(find, server, entry):
    server.entries = {name: [entry] for name in SOURCES}
    assert [paper.retracted for paper in find().papers] == [True]


def test_papers_without_common_identifier_are_joined_by_title(find, server):
    server.entries["europepmc"] = [Entry("", ONE.title.upper(), "", "10.5555/preprint")]
    server.faults["pubmed"] = [(404, b"")]
    server.faults["semanticscholar"] = [
        (200, json.dumps({"total": 1, "data": [{"paperId": "p", "title": ONE.title}]}).encode())
    ]
    (paper,) = find().papers
    assert (paper.id, paper.sources) == ("doi:10.5555/preprint", ("europepmc", "semanticscholar"))


def test_an_empty_answer_is_no_failure(find, server):
    server.entries = {name: [] for name in SOURCES}
    found = find()
    assert (found.papers, set(reasons(found).values())) == ((), {""})
    assert json.loads(served.as_europepmc([]))["hitCount"] == 0


def test_the_query_names_perturbation_and_cells_but_no_gene():
    asked = Perturbation(text="TGF-b", name="TGF-beta1", synonyms=("TGF beta1", "TGFB1"))
    query = StructuredQuery(
        question="q",
        task_type="perturbation_novel_cell_types",
        cell_type_name="fibroblast of lung",
        cell_type_synonyms=("lung fibroblast", "HLF"),
        perturbation=asked,
        expected_targets={"COL1A1": 1},
    )
    assert build_query(query) == PaperQuery(
        perturbation=("TGF-beta1", "TGF-b", "TGFB1"), cell_type=("fibroblast of lung", "lung fibroblast")
    )
    assert build_query(query.model_copy(update={"perturbation": None})) is None
