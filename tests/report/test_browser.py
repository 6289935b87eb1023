"""The page in headless Chromium: nothing leaves it, nothing foreign runs in it, tables work, it fits a phone."""

import dataclasses
import json
import re

import pytest

from haystack_kernel.report import ReportBundle, render_report
from haystack_kernel.schema import Interpretation, RunRecord
from haystack_kernel.store import layout, to_csv

pytestmark = pytest.mark.browser
NASTY = (
    "</script><script>window.ran=1</script><img src=x onerror='window.ran=2'>"
    "<a href='javascript:window.ran=3'>link</a><svg onload='window.ran=4'></svg>"
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Where the reports of this file lie; drawing one takes seconds, so each is drawn once."""
    return tmp_path_factory.mktemp("reports")


@pytest.fixture
def nasty_page(make_run, tables, make_notebook, picture, drawn):
    """A report whose every text tries to run code, with a notebook that does so too."""
    import nbformat

    path = drawn / "report.html"
    if path.exists():
        return path
    outputs = [
        nbformat.v4.new_output("display_data", data={"text/html": f"<div class='scroll'>{NASTY}</div>"}),
        nbformat.v4.new_output(
            "display_data", data={"text/html": "<table class='sortable'><tr><td>1</td></tr></table>"}
        ),
        nbformat.v4.new_output("stream", text=NASTY),
        nbformat.v4.new_output("display_data", data={"application/javascript": "window.ran=5"}),
        picture("a figure"),
    ]
    nasty_tables = type(tables)(
        de=tables.de,
        pathways=tables.pathways.assign(leading_genes=NASTY),
        prompts=tables.prompts.assign(cell_type_name=NASTY),
        embedding=tables.embedding,
    )
    notebook = make_notebook(*outputs, markdown=f"# Title\n\n{NASTY}\n\n[x](javascript:window.ran=6)")
    files = {layout.DE: to_csv(tables.de), layout.CITATIONS: NASTY.encode()}
    path.write_text(render_report(ReportBundle(make_run(NASTY), nasty_tables, notebook, files=files)), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, nasty_page):
    """Factory of pages, with what they asked the network for and said in the console."""
    contexts = []

    def make(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: page.said.append(f"dialog {dialog.message}") or dialog.dismiss())
        page.goto(nasty_page.as_uri())
        return page

    yield make
    for context in contexts:
        context.close()


def test_page_asks_for_nothing_and_runs_nothing_foreign(opened, nasty_page):
    page = opened()
    page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    for link in page.locator("a", has_text=re.compile("^(link|x)$")).all():
        link.click()
    assert page.evaluate("window.ran") is None
    assert [url for url in page.asked if not url.startswith("data:")] == [nasty_page.as_uri()]
    assert page.said == []
    assert "<script>window.ran=1</script>" in page.locator("h1").inner_text()


def test_policy_stops_what_an_escape_that_failed_would_let_in(opened):
    page = opened()
    page.evaluate(
        """() => {
          window.blocked = [];
          const note = (event) => window.blocked.push(event.effectiveDirective);
          document.addEventListener("securitypolicyviolation", note);
          const script = document.createElement("script");
          script.textContent = "window.ran = 7";
          document.body.append(script);
          const add = (text) => document.body.insertAdjacentHTML("beforeend", text);
          add("<img src='https://example.org/x.png' onerror='window.ran = 8'>");
          add("<a id='bad' href='javascript:window.ran=9'>bad</a>");
          document.getElementById("bad").click();
        }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran") is None
    assert {"img-src", "script-src-elem", "script-src-attr"} <= set(page.evaluate("window.blocked"))


def test_record_in_the_page_reads_back(opened, make_run):
    text = opened().evaluate("document.getElementById('haystack-record').textContent")
    assert RunRecord.model_validate_json(text).model_dump_json() == make_run(NASTY).model_dump_json()
    assert json.loads(text)["question"] == make_run(NASTY).question


def test_tables_sort_by_number_with_missing_values_last_and_filter(opened):
    page = opened()
    page.locator("#genes summary").first.click()
    page.locator("#pathways summary").first.click()
    genes = page.locator("#genes table")
    column = genes.locator("tbody tr:visible > *:first-child")
    genes.get_by_role("button", name="log2 fold change").click()
    assert column.all_inner_texts()[:2] == ["DOWN1", "DOWN2"]
    genes.get_by_role("button", name="log2 fold change").click()
    assert column.all_inner_texts()[:2] == ["UP1", "UP2"]
    assert genes.locator("th[aria-sort=descending]").count() == 1
    pathways = page.locator("#pathways table")
    first = pathways.locator("tbody tr > *:first-child")
    for _ in range(2):
        pathways.get_by_role("button", name="score").click()
        assert first.all_inner_texts()[-1] == "empty pathway"
    assert first.all_inner_texts()[0] == "type I interferon response"
    page.locator("#genes").get_by_label("Filter rows").fill("falls")
    assert column.all_inner_texts() == ["DOWN2", "DOWN1"]
    assert page.locator("#genes output").inner_text() == "2 of 7"


def test_keyboard_sorts_and_opens(opened):
    page = opened()
    page.locator("#genes summary").first.focus()
    page.keyboard.press("Enter")
    button = page.locator("#genes").get_by_role("button", name="gene", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("#genes tbody tr > *:first-child").first.inner_text() == "DOWN1"
    page.locator("#notebook > details > summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#notebook .cell").first.is_visible()


def test_page_is_whole_without_javascript(opened):
    page = opened(java_script_enabled=False)
    page.locator("#genes summary").first.click()
    assert page.locator("#genes tbody tr").count() == 7
    assert page.locator("#genes tbody tr").first.is_visible()
    assert page.get_by_label("Filter rows").count() == 0
    page.locator("#notebook > details > summary").click()
    assert page.locator("#notebook .cell").first.is_visible()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_never_scrolls_sideways(opened, width, scheme):
    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(22, 24, 26)" if scheme == "dark" else "rgb(255, 255, 255)")


def test_every_control_has_a_name_and_every_scroll_area_can_be_reached(opened):
    page = opened()
    unnamed = "(items) => items.filter((item) => !(item.labels?.length || item.textContent.trim())).length"
    assert page.eval_on_selector_all("input, button, summary, a[href]", unnamed) == 0
    assert page.locator(".scroll:not([tabindex='0']):not(.output *)").count() == 0
    assert page.locator("#notebook img:not([alt]), img[alt='']").count() == 0


# as long as the planner's own words are
WORDS = Interpretation(
    headline="Predicted for fibroblast of lung under TGF-beta1: 48 genes higher and 9 lower, led by PDGFRB, COL1A1 and "
    "COL1A2; score 8.5 of at most 8.5, consistent with known biology.",
    paragraphs=("One paragraph. " * 20,),
    limitations=(
        "Generated cells are not replicates: p values depend on the number of predicted cells (256), not of donors.",
        "The score measures how well the prediction agrees with prior knowledge, not how close it is to an experiment.",
        "Not computed: literature support (the literature sources were not asked: switched off).",
    ),
)


@pytest.fixture
def plain_page(make_run, tables, make_notebook, picture, drawn):
    """A report as a run leaves it, of the simulated atlas, so that it also warns."""
    path = drawn / "plain.html"
    if path.exists():
        return path
    run = make_run("fibroblast of lung", atlas="demo", interpretation=WORDS)
    wide = tables.pathways.assign(ulm_t=1.5, ulm_padj=1e-9, ora_log_odds=0.25, ora_padj=0.5, n_background=7)
    bundle = ReportBundle(
        run,
        dataclasses.replace(tables, pathways=wide),
        make_notebook(picture("a figure")),
        files={layout.DE: to_csv(tables.de)},
    )
    path.write_text(render_report(bundle), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_answer_limits_and_picture_fit_one_screen(opened, plain_page, width, height):
    page = opened(viewport={"width": width, "height": height})
    page.goto(plain_page.as_uri())
    boxes = {name: page.locator(name).first.bounding_box() for name in ("h1", ".headline", ".limits", ".shown img")}
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= height for box in boxes.values()), boxes
    assert page.locator("main > section > details[open]").count() == 0
    place = page.locator("#genes table")
    assert not place.is_visible()
    page.get_by_role("link", name="Predicted changes in gene expression").click()
    place.wait_for(state="visible")


def test_methods_and_citation_are_copied_and_tables_saved(opened, plain_page, tables):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.goto(plain_page.as_uri())
    for name, words in (("Copy citation", "@misc{run-20260102t030405-abcdef"), ("Copy methods", "Engine 'weighted'")):
        page.get_by_role("button", name=name).click()
        page.locator("[role=status]", has_text="copied").nth(0).wait_for()
        page.wait_for_function(
            "words => navigator.clipboard.readText().then((text) => text.includes(words))", arg=words
        )
    page.get_by_role("link", name="Save tables").click()
    with page.expect_download() as saved:
        page.get_by_role("link", name="de.csv").click()
    assert saved.value.suggested_filename == "de.csv"
    assert saved.value.path().read_bytes() == to_csv(tables.de)
    assert page.said == []


PARTED_WORDS = """(cells) => cells.flatMap((cell) => {
  const node = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode();
  return [...(node?.data ?? "").matchAll(/[^\\s-]+-?/g)].filter((word) => {
    const range = document.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    return new Set([...range.getClientRects()].map((one) => Math.round(one.top))).size > 1;
  }).map((word) => word[0]);
})"""


def test_print_cuts_no_table_and_shows_every_section_but_the_notebook(opened, plain_page):
    page = opened(viewport={"width": 703, "height": 1000})  # an A4 page between its margins
    page.goto(plain_page.as_uri())
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    tables = page.locator("main table:visible")
    assert tables.count() == page.locator("main table").count() - page.locator("#notebook table").count() > 5
    assert max(tables.evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().right)")) <= 703
    cut = (
        "(all) => all.filter((one) => one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight).length"
    )
    assert page.locator("main .scroll:visible").evaluate_all(cut) == 0
    parted = page.locator("main thead th:visible, main tbody th:visible:not(.long), main td.number:visible")
    assert parted.evaluate_all(PARTED_WORDS) == []
    heads = page.locator("main thead th button:visible")
    assert set(heads.evaluate_all("(all) => all.map((one) => getComputedStyle(one).display)")) == {"contents"}
    assert not page.locator("#notebook .cell").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("main > section > details[open]").count() == 0
