"""A report is checked: each kind of change in it, in its record and in its run folder is found and named."""

import dataclasses
import re
import shutil

import pytest

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.manage import verify_report
from haystack_kernel.report import candidate_table, render_report
from haystack_kernel.report.reading import differences, sections_of
from haystack_kernel.report.render import NO_SEAL, sealed
from haystack_kernel.rounds.publishing import write_report
from haystack_kernel.schema import Citation, Citations, Paper, Quote
from haystack_kernel.store import RunStore, layout, write_csv

pytestmark = pytest.mark.slow

SAID = "IFN-beta raises UP1 in B cells."
PAPERS = Citations(
    n_papers=1,
    citations=(
        Citation(
            paper=Paper(id="pmid:1", title="A paper", abstract=f"Before. {SAID}", pmid="1", sources=("pubmed",)),
            scored=True,
            quotes=(
                Quote(
                    gene="UP1", direction=1, stance="support", quote=SAID, where="abstract", start=8, end=8 + len(SAID)
                ),
            ),
        ),
    ),
)


@pytest.fixture(scope="module")
def pages():
    """The page of the designed run, drawn once."""
    return {}


@pytest.fixture
def page(bundle, make_notebook, pages):
    if not pages:
        whole = dataclasses.replace(bundle, citations=PAPERS, notebook=make_notebook())
        pages["page"] = render_report(whole)
    return pages["page"]


def swapped(page, pattern, *, first=0, second=1):
    found = list(re.finditer(pattern, page, re.DOTALL))
    one, two = found[first], found[second]
    assert one[0] != two[0]
    return page[: one.start()] + two[0] + page[one.end() : two.start()] + one[0] + page[two.end() :]


def without(page, text):
    assert page.count(text) >= 1, text
    return page.replace(text, "", 1)


def instead(page, text, other):
    assert text in page, text
    return page.replace(text, other, 1)


CHANGES = {
    "a digit of a gene": ("genes", lambda page: instead(page, ">6.000<", ">9.000<")),
    "a digit that is sorted by": ("genes", lambda page: instead(page, 'data-value="3"', 'data-value="8"')),
    "the direction of a gene": ("genes", lambda page: instead(page, "rises", "falls")),
    "a gene's row": ("genes", lambda page: re.sub(r"<tr><th[^>]*>DOWN1</th>.*?</tr>", "", page, count=1)),
    "two tables swapped": ("genes", lambda page: swapped(page, r"<tbody>.*?</tbody>")),
    "two figures swapped": ("answer", lambda page: swapped(page, r'src="data:image/[^"]*"')),
    "two sections swapped": ("genes", lambda page: swapped(page, r'id="(?:genes|score)">\n<details>')),
    "a limitation": ("answer", lambda page: without(page, "<li>A limit</li>")),
    "the headline": ("answer", lambda page: instead(page, "Headline of B cell", "Headline of T cell")),
    "the score": (
        "answer",
        lambda page: instead(page, "7.3 of at most 7.3; 1 is chance", "9.3 of at most 7.3; 1 is chance"),
    ),
    "the bar of the score": ("answer", lambda page: instead(page, "width:70%", "width:99%")),
    "what a figure shows, in words": ("answer", lambda page: instead(page, "2 rise and 2 fall", "4 rise and 0 fall")),
    "a p value": ("score", lambda page: instead(page, ">2e-4<", ">2e-9<")),
    "a reason": ("score", lambda page: without(page, "no paper was searched")),
    "a quotation": ("literature", lambda page: instead(page, SAID, SAID.replace("raises", "lowers"))),
    "the address of a paper": ("literature", lambda page: instead(page, "gov/1/", "gov/2/")),
    "the stance of a paper": ("literature", lambda page: instead(page, "(support)", "(contradiction)")),
    "the words not used": ("question", lambda page: instead(page, "blorb", "TNF")),
    "the number of cells": ("rounds", lambda page: instead(page, 'data-value="40"', 'data-value="4000"')),
    "the engine": ("methods", lambda page: instead(page, "Engine &#x27;weighted&#x27;", "Engine &#x27;stack&#x27;")),
    "a version": ("methods", lambda page: instead(page, "numpy 2.0", "numpy 1.0")),
    "a citation": ("methods", lambda page: without(page, "@article{cl2016")),
    "a whole section": (
        "trust",
        lambda page: re.sub(r'<section id="trust">.*?</section>', "", page, count=1, flags=re.DOTALL),
    ),
    "a section of another page": (
        "extra",
        lambda page: page.replace("</main>", '<section id="extra">x</section></main>'),
    ),
    "code of the notebook": ("notebook", lambda page: instead(page, "first()", "other()")),
    "the question": ("page", lambda page: instead(page, "<h1>How would", "<h1>How did")),
    "the warning at the foot": ("page", lambda page: without(page, "Predicted cells are generated, not measured.")),
    "the policy": ("page", lambda page: instead(page, "default-src 'none'", "default-src *")),
    "a script": ("page", lambda page: page.replace("</body>", "<script>alert(1)</script></body>")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_in_its_section(page, name):
    section, change = CHANGES[name]
    assert differences(page, page) == {}
    changed = change(page)
    assert changed != page
    assert section in differences(changed, page)


def test_sections_hold_what_they_say_and_no_record(page):
    sections = sections_of(page)
    assert "6.000" in sections["genes"]
    assert not [text for text in sections["page"] if "schema_version" in text]


@pytest.fixture
def published(tmp_path, make_run, tables):
    """A run folder with the files of the best round, their digests in the record, and the report."""
    store = RunStore(str(tmp_path / "store"))
    record = store.create(make_run())
    number = record.best_round
    for folder in ("", f"{layout.round_folder(number)}/"):
        names = {layout.DE: tables.de, layout.PATHWAYS: tables.pathways, layout.PROMPTS: tables.prompts}
        files = [write_csv(store, record.run_id, f"{folder}{name}", table) for name, table in names.items()]
        files.append(write_csv(store, record.run_id, layout.CANDIDATES, candidate_table(record).to_frame()))
        papers = store.write(record.run_id, f"{folder}{layout.CITATIONS}", PAPERS.model_dump_json().encode())
        if not folder:
            record = record.model_copy(update={"files": (*files, papers)})
    write_report(store.save(record), connect(load_settings(storage=str(tmp_path / "store"))))
    return tmp_path / "store" / "runs" / record.run_id


def results(folder):
    return {line.check: line.ok for line in verify_report(str(folder / layout.REPORT)).lines}


def test_a_report_is_well_where_it_was_written_and_where_it_was_sent(published, tmp_path, monkeypatch):
    found = verify_report(str(published / layout.REPORT))
    assert found.ok
    assert {line.check: line.ok for line in found.lines} == dict.fromkeys(
        ("seal", "record", "files", "page", "quotes", "run"), True
    )
    monkeypatch.setenv("HAYSTACK_STORAGE", str(tmp_path / "elsewhere"))
    sent = tmp_path / "sent.html"
    sent.write_bytes((published / layout.REPORT).read_bytes())
    alone = {line.check: line.ok for line in verify_report(str(sent)).lines}
    assert alone == {"seal": True, "record": True, "files": True, "page": True, "quotes": True, "run": None}


def test_a_forged_digit_and_a_forged_seal_are_found(published):
    path = published / layout.REPORT
    page = path.read_text()
    seal = re.search(r'haystack-seal" content="([0-9a-f]+)"', page)[1]
    changed = page.replace(">6.000<", ">9.000<")
    path.write_text(changed)
    assert results(published)["seal"] is False
    path.write_text(sealed(changed.replace(seal, NO_SEAL)))
    found = {line.check: line for line in verify_report(str(path)).lines}
    assert found["seal"].ok is True
    assert found["page"].ok is False
    assert "section 'genes' shows '9.000' where the record gives '6.000'" in found["page"].found


def test_a_changed_file_a_changed_quote_and_a_changed_record_are_found(published):
    de = published / layout.DE
    de.write_text(de.read_text().replace("6", "9", 1))
    lines = {line.check: line for line in verify_report(str(published / layout.REPORT)).lines}
    assert (lines["page"].ok, lines["run"].ok) == (True, False)
    assert "de.csv was changed" in lines["run"].found
    page = (published / layout.REPORT).read_text()
    (published / layout.REPORT).write_text(page.replace('"best_round":1', '"best_round":null', 1))
    lines = {line.check: line for line in verify_report(str(published / layout.REPORT)).lines}
    assert (lines["page"].ok, lines["run"].ok) == (False, False)
    assert "best_round" in lines["run"].found


def test_what_is_no_report_is_refused_with_what_to_give(tmp_path):
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(InvalidInputError, match="holds no record"):
        verify_report(str(tmp_path / "page.html"))
    with pytest.raises(NotFoundError, match="give the path of a report"):
        verify_report(str(tmp_path / "absent.html"))


def test_pictures_of_cells_are_checked_where_the_run_folder_is_at_hand(finished, tmp_path):
    """Away from the folder they are not compared, and that is said; a page keeps them when the cells are deleted."""
    ports, record = finished
    page = ports.store.read(record.run_id, layout.REPORT).decode()
    (first,) = re.findall(r'<section id="explorer">.*?alt="([^"]+)"', page, re.DOTALL)
    assert first.startswith("Map of")
    assert len(page) < 5_000_000

    def told(text, storage=None):
        (tmp_path / "page.html").write_text(sealed(text), encoding="utf-8")
        line = next(
            one for one in verify_report(str(tmp_path / "page.html"), storage=storage).lines if one.check == "page"
        )
        return line.ok, line.found

    here = ports.settings.storage
    changed = instead(page, first, first.replace("Map of", "Map of at least"))
    assert told(page, here) == (True, "every text, number, table and figure equals what the record gives")
    ok, found = told(changed, here)
    assert not ok
    assert "section 'explorer' shows 'Map of at least" in found
    ok, found = told(page, str(tmp_path))
    assert ok
    assert found.endswith("not compared, because the run folder is needed for it: explorer")
    shutil.copytree(here, tmp_path / "store")
    (tmp_path / "store" / "runs" / record.run_id / layout.cells_file(layout.round_folder(1), "prompt")).unlink()
    ok, found = told(page, str(tmp_path / "store"))
    assert ok
    assert found.endswith("explorer")
