"""The explorer in headless Chromium: it is worked with mouse, keyboard and phone, and says what a person would see."""

import itertools
from dataclasses import replace

import pytest

from haystack_kernel.errors import NotFoundError
from haystack_kernel.explorer.state import ExplorerState
from tests.explorer.page import lasso, open_page
from tests.servers.lab import axe_faults, layout_faults

pytestmark = [pytest.mark.browser, pytest.mark.slow]
GENE, PATHWAY = "STAT1", "type I interferon response"
NASTY = "<img src=x onerror=window.ran=1><b>bold</b>\u202egene"


def first_genes(page, n=3):
    return page.locator(".hx tr[data-name]").evaluate_all(
        "(rows, n) => rows.filter((row) => row.closest('table').textContent.includes('Genes of the run'))"
        ".slice(0, n).map((row) => row.dataset.name)",
        n,
    )


def status(page, text):
    page.locator(".hx-status", has_text=text).wait_for(state="attached")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_it_is_worked_from_gene_to_lasso_and_back(browser, state, data, scheme, width):
    page = open_page(browser, state, scheme=scheme, width=width)
    largest = data.de[data.de["is_tested"]].set_index("gene")["delta"].abs().nlargest(3)
    assert first_genes(page) == largest.index.tolist()

    page.get_by_label("Find").fill(GENE.lower())
    page.keyboard.press("Enter")  # the only match
    status(page, f"Gene {GENE}.")
    assert state.gene == GENE
    assert page.get_by_label("Colour by").input_value() == "gene"
    page.get_by_label("Find").fill("")
    page.get_by_label("Mark pathway").select_option(PATHWAY)
    status(page, f"{len(state.marked())} genes of {PATHWAY} are marked.")
    page.get_by_label("marked genes only").check()
    assert set(first_genes(page, 50)) <= set(state.marked())
    page.get_by_label("marked genes only").uncheck()

    page.get_by_label("Compare with").select_option("baseline mean")
    status(page, "Pearson r")
    assert state.agreement().words in page.locator(".hx").inner_text()

    page.get_by_role("button", name="Lasso").click()  # on a phone the map is moved until then
    lasso(page, box=(0, 0, 1, 0.5))
    assert 0 < state.mask.sum() < len(data.arms)
    found = state.genes().query("is_tested").set_index("gene")["in_selection"].abs()
    assert first_genes(page) == found.nlargest(3).index.tolist()
    page.get_by_text("As a table").click()
    page.get_by_role("button", name="Select query cells").first.click()
    status(page, "24 cells selected.")
    page.get_by_role("button", name="Dots").click()
    page.get_by_role("img", name="Dot plot of STAT1").wait_for()

    page.get_by_label("Find").fill("STAT")  # a few rows are as good as hundreds, which take long to look through
    assert layout_faults(page.locator(".hx")) == []
    if scheme == "light":  # the dark theme is looked at in JupyterLab
        assert axe_faults(page, ".hx") == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Clear selection").click()
    status(page, "All cells count.")
    assert state.mask is None
    assert page.said == []
    page.context.close()


def test_the_keyboard_walks_through_the_genes_and_chooses_one(browser, state):
    page = open_page(browser, state)
    page.locator(".hx tr[data-name] button").first.focus()
    table = page.get_by_role("table", name="Genes of the run")
    wanted = table.locator("tbody button").nth(4).inner_text()
    table.locator("tbody button").first.focus()
    for key in ("ArrowDown", "ArrowDown", "End", "Home", "PageDown", "PageUp", *["ArrowDown"] * 4):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.textContent") == wanted
    page.keyboard.press("Enter")
    status(page, f"Gene {wanted}.")
    assert page.evaluate("document.activeElement.textContent") == wanted  # the focus stays where it was
    table.get_by_role("button", name="lfsr").press("Enter")
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("lfsr")
    page.context.close()


@pytest.mark.parametrize("width", [1280, 880])
def test_every_column_of_every_table_is_seen_beside_another_response(browser, state, width):
    """With everything that adds a column: a side with a long name, a pathway, a selection."""
    state.choose_side("baseline shift")
    state.choose_pathway(PATHWAY)
    state.select_group("predicted")
    page = open_page(browser, state, width=width)
    page.get_by_text("As a table").click()
    over = page.locator(".hx-scroll:visible").evaluate_all(
        "(all) => all.map((one) => one.scrollWidth - one.clientWidth)"
    )
    assert len(over) == 4
    assert max(over) <= 0
    assert layout_faults(page.locator(".hx")) == []
    page.context.close()


def test_the_volcano_chooses_and_a_refusal_is_said(browser, data):
    def refuse():
        raise NotFoundError("the atlas is gone")

    state = ExplorerState(replace(data, sides={**data.sides, "gone": ("an atlas that is gone", refuse)}))
    page = open_page(browser, state)
    before = state.gene
    volcano = page.get_by_role("img", name="Volcano plot")
    volcano.scroll_into_view_if_needed()
    box = volcano.bounding_box()
    tip = page.locator(".hx-tip:visible")
    places = itertools.product(range(38, int(box["height"]), 12), range(20, int(box["width"]), 6))
    for up, across in places:  # from the axis upwards, until a gene is named
        page.mouse.move(box["x"] + across, box["y"] + box["height"] - up)
        if tip.count() and not tip.inner_text().startswith(f"{before}:"):
            break
    named = tip.inner_text().split(":")[0]
    page.mouse.down()
    page.mouse.up()
    status(page, f"Gene {named}.")
    assert state.gene == named != before
    page.get_by_label("Compare with").select_option("gone")
    page.get_by_role("alert").filter(has_text="the atlas is gone").wait_for()
    assert page.get_by_label("Compare with").input_value() == ""
    page.get_by_label("Compare with").select_option("baseline mean")
    status(page, "Pearson r")
    assert page.get_by_role("alert").count() == 0  # what was wrong is over
    page.context.close()


def test_names_are_shown_as_text_and_run_nothing(browser, data):
    table = data.de.assign(gene=[NASTY, *data.de["gene"].iloc[1:]])
    table.loc[0, ["is_tested", "is_de", "delta"]] = [True, True, 99.0]
    parts = [replace(arm, table=arm.table.assign(cell_type_name=NASTY)) for arm in data.arms.parts]
    named = replace(
        data,
        record=data.record.model_copy(update={"question": NASTY}),
        de=table,
        pathways=data.pathways.assign(pathway=[f"{NASTY}{i}" for i in range(len(data.pathways))]),
        notes=(NASTY,),
        arms=replace(data.arms, parts=tuple(parts)),
        sides={NASTY: (NASTY, lambda: None)},
    )
    page = open_page(browser, ExplorerState(named))
    assert first_genes(page, 1) == [NASTY]
    assert page.locator(".hx b").count() == 0
    assert page.locator(".hx-title").inner_text() == NASTY
    assert page.evaluate("window.ran") is None
    assert page.said == []
    page.context.close()


def test_many_cells_are_drawn_and_selected(browser, many):
    page = open_page(browser, many)
    lasso(page, box=(0, 0, 0.5, 1))
    assert 0 < many.mask.sum() < 30_000
    painted = page.evaluate(
        """() => { const map = document.querySelector('.hx-canvas canvas');
        const data = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
        let n = 0; for (let at = 3; at < data.length; at += 4) if (data[at] > 0) n += 1; return n; }"""
    )
    assert painted > 10_000
    page.context.close()
