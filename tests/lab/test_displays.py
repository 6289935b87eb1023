"""Every display in the places where people meet it: Lab in both themes, trusted and not, other front ends, a phone."""

import pytest
from matplotlib.figure import Figure

from haystack_kernel.report.displays import CARDS, card_of
from tests.lab.displays import HOSTILE, all_displays, outputs_of, page_like, trust, write_notebook
from tests.report.conftest import de, embedding, make_run, pathways, prompts, tables  # noqa: F401 - fixtures
from tests.servers.lab import axe_faults, layout_faults

pytestmark = pytest.mark.browser


@pytest.fixture
def displays(make_run, tables):  # noqa: F811
    return all_displays(make_run(), tables, name="zone-b")


@pytest.mark.slow
def test_displays_hold_in_lab_in_both_themes_trusted_and_not(lab, open_notebook, displays):
    names = list(displays)
    notebook = write_notebook(lab.root / "displays.ipynb", displays)
    numbers = range(len(names))

    def faults(seen):
        return {names[number]: found for number in numbers if (found := layout_faults(seen.output(number)))}

    seen = open_notebook("displays.ipynb", theme="dark", scheme="light", height=9000)
    assert faults(seen) == {}
    stripped = seen.output(names.index("run"))
    assert "Headline of B cell" in stripped.inner_text()
    assert stripped.locator("style").count() == 0  # this is the untrusted view
    cell = seen.output(names.index("score table")).locator("tbody th").first
    assert cell.evaluate("(cell) => getComputedStyle(cell).textAlign") == "left"
    seen.close()

    trust(lab, notebook)
    seen = open_notebook("displays.ipynb", theme="dark", scheme="light", height=9000)
    assert seen.output(0).locator("style").count() == 1
    grounds = set()
    for theme in ("dark", "light"):
        seen.theme(theme)
        assert faults(seen) == {}, theme
        assert axe_faults(seen.page, ".jp-OutputArea-output") == [], theme
        picture = seen.output(names.index("volcano")).locator("img")
        grounds.add(picture.screenshot())
    assert len(grounds) == 2  # figures follow the theme, whatever the system says
    aligned = seen.output(names.index("genes")).locator("tbody tr").first.locator("th,td")
    sides = aligned.evaluate_all("(cells) => cells.map((cell) => getComputedStyle(cell).textAlign)")
    assert sides == ["left"] * 3 + ["right"] * 5 + ["left"]
    table = seen.output(names.index("genes"))
    assert table.locator(".filter").count() == 1
    table.locator("button", has_text="gene").click()
    first = table.locator("tbody th").first
    assert first.inner_text() == "DOWN1"
    table.locator("input").fill("up2")
    assert table.locator("tbody tr:visible").count() == 1
    assert (seen.asked, seen.said) == ([], [])


def test_displays_hold_in_pages_without_jupyter_and_on_a_phone(browser, displays, tmp_path):
    notebook = write_notebook(tmp_path / "all.ipynb", displays)
    for front_end, scheme, width in (
        ("plain", "light", 390),
        ("vscode", "light", 900),
        ("colab", "dark", 900),
        ("colab", "light", 390),
    ):
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        outputs = [cell.outputs[0]["data"]["text/html"] for cell in notebook.cells]
        outputs.append(outputs[list(displays).index("genes")])  # the same table may be shown twice
        page.set_content(page_like(front_end, outputs))
        where = (front_end, scheme, width)
        assert layout_faults(page.locator("body")) == [], where
        if width == 900:
            assert axe_faults(page, "section", allowed=("region",)) == [], where
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), where
        if scheme == "light" and front_end == "plain":
            page.emulate_media(media="print")
            page.set_viewport_size({"width": 720, "height": 1000})  # a sheet of A4 within its margins
            assert layout_faults(page.locator("body")) == [], "print"
        page.close()


@pytest.mark.slow
def test_displays_hold_in_pages_of_nbconvert(browser, displays, tmp_path, subtests):
    from nbconvert import HTMLExporter

    notebook = write_notebook(tmp_path / "all.ipynb", displays)
    page = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme="dark")
    page.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    for template in ("lab", "classic"):
        text = HTMLExporter(template_name=template).from_notebook_node(notebook)[0]
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        page.goto((tmp_path / "page.html").as_uri())
        assert page.locator(".haystack, .haystack-figure").count() == len(displays)
        for number, name in enumerate(displays):
            with subtests.test(template=template, name=name):
                assert layout_faults(page.locator(".haystack, .haystack-figure").nth(number)) == []
    page.close()


def test_hostile_names_are_inert_and_readable(browser, make_run, tables, subtests):  # noqa: F811
    page = browser.new_page(viewport={"width": 800, "height": 900})
    for kind, name in HOSTILE.items():
        filled = type(tables)(
            de=tables.de.assign(gene=[f"{name}{n}" for n in range(len(tables.de))]),
            pathways=tables.pathways.assign(pathway=name, leading_genes=name),
            prompts=tables.prompts.assign(cell_type_name=name, dataset=name, donor_id=name),
            embedding=tables.embedding,
        )
        shown = all_displays(make_run(name), filled, name=name, figures=False)
        bundles = {title: outputs_of(value)[0] for title, value in shown.items()}
        with subtests.test(kind=kind):
            page.set_content(page_like("plain", [one["text/html"] for one in bundles.values()]))
            page.evaluate("document.querySelectorAll('*').forEach((one) => one.dispatchEvent(new Event('mouseover')))")
            assert page.evaluate("window.ran") is None
            assert page.locator("img").count() == 0
            assert page.locator("section").count() == len(shown)
            assert layout_faults(page.locator("body")) == []
            for title, data in bundles.items():
                assert not any(mark in data["text/plain"] for mark in "\x1b\x07\N{RIGHT-TO-LEFT OVERRIDE}"), title
    page.close()


def test_hostile_names_are_shown_as_they_are_in_lab(lab, open_notebook, make_run):  # noqa: F811
    """Lab typesets mathematics and follows its own rules of what is safe: also there a name is a name."""
    given = {kind: make_run(name, question=f"How would {name} respond?").query for kind, name in HOSTILE.items()}
    notebook = write_notebook(lab.root / "hostile.ipynb", given)
    trust(lab, notebook)
    seen = open_notebook("hostile.ipynb", height=9000)
    for number, (kind, name) in enumerate(HOSTILE.items()):
        shown = seen.output(number)
        assert layout_faults(shown) == [], kind
        if kind not in ("override", "terminal"):
            assert " ".join(name.split()) in " ".join(shown.inner_text().split()), kind
    assert seen.page.evaluate("window.ran") is None
    assert (seen.asked, seen.said) == ([], [])


def test_every_class_with_a_card_is_shown_as_html_and_as_text(displays):
    shown = {type(value).__qualname__ for value in displays.values()}
    elsewhere = {"RunRecord", "Bill", "AtlasCollection"}
    assert {name for _, name in CARDS} <= shown | elsewhere
    for name, value in displays.items():
        data, _ = outputs_of(value)
        assert {"text/html", "text/plain"} <= set(data), name
        assert "<" not in data["text/plain"], name
        if not isinstance(value, Figure) and card_of(value) is not None:
            assert len(data["text/plain"].splitlines()) > 1, name
    assert "Headline of B cell" in outputs_of(displays["run"])[0]["text/plain"]
