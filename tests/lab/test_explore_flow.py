"""explore.ipynb in a real JupyterLab: ask, correct, start, reload, restart, find again, cancel, save and reopen."""

import re
from pathlib import Path

import nbformat
import pytest

from tests.servers.lab import axe_faults, layout_faults

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "explore.ipynb"
PARAMETERS, ASK, RUNS, ATTACH = 2, 4, 7, 8  # places of the cells, after one that names the storage
LIVE = ".haystack-live"
MONITORED = ".head, .tiles, .phases, [data-key=rounds]"  # the answer is a card of its own, looked at elsewhere
SAID_WITHOUT_A_KERNEL = "Error: widget model not found"


@pytest.fixture
def explore(lab, open_notebook, tmp_path, tiny_atlas_root):
    """The notebook, opened on the tiny atlas with few cells and a storage of this test."""
    settings = {
        "STORAGE": tmp_path / "store",
        "ATLAS_ROOT": tiny_atlas_root,
        "KNOWLEDGE": tmp_path / "knowledge",
        "CACHE": tmp_path / "cache",
        "ATLASES": '@json ["tiny"]',
        "INFERENCE__N_PROMPT": 4,
        "INFERENCE__N_QUERY": 3,
        "INFERENCE__ENGINE": "weighted",
        "GROUNDING__N_DRAWS": 199,
        "GROUNDING__N_SEEDS": 0,
        "ROUNDS__MAXIMUM": 1,
    }
    named = {f"HAYSTACK_{name}": str(value) for name, value in settings.items()}
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    attach = 'attached = haystack.attach(found[0].run_id) if (found := haystack.list_runs()) else "no run"\nattached'
    lab.write("explore.ipynb", f"import os\nos.environ.update({named!r})", *cells, f"import os\n{attach}")
    (tmp_path / "store").mkdir()
    return open_notebook("explore.ipynb")


def faults(seen, cell, places):
    """What is wrong with the layout of what is shown of some places of a cell's outputs."""
    shown = seen.output(cell).locator(places).locator("visible=true")
    shown.first.wait_for()
    return [fault for one in shown.all() for fault in layout_faults(one)]


def look_fine(seen, cell, places):
    """Nothing overlaps, is cut or cannot be read, in either theme."""
    for theme in ("dark", "light"):
        seen.theme(theme)
        assert faults(seen, cell, places) == []
        assert axe_faults(seen.page, LIVE) == []


def run_cell(seen, number):
    """Run one cell to its end."""
    seen._do(
        f"""const panel = jupyterapp.shell.currentWidget; panel.content.activeCellIndex = {number};
        await jupyterapp.commands.execute('notebook:run-cell');"""
    )


def ask_and_correct(seen):
    """Type a question, look, correct its cell type in the card, pin the last candidate."""
    form = seen.output(ASK).locator(LIVE).first
    form.locator("textarea[name=question]").fill("How would B cells respond to IFN-beta?")
    form.locator("textarea[name=question]").press("Enter")
    first_answer = form.locator("[data-key=quick] tbody tr").first
    first_answer.wait_for()
    look_fine(seen, ASK, ".desk")
    form.locator("summary", has_text="Correct the reading").click()
    form.locator("input[name='term cell type']").fill("CD4 T cells")
    form.locator("input[name='term cell type']").press("Enter")
    seen.page.wait_for_function(
        "() => document.querySelector('.haystack-live textarea').value.includes('CD4 T cells respond')"
    )
    first_answer.wait_for()
    form.locator("[data-key=candidates] button[aria-pressed]").last.click()
    form.locator("[data-key=candidates] button[aria-pressed=true]").wait_for()
    first_answer.wait_for()
    return form


def start_and_reload(seen, form):
    """Start the run, load the page again while it goes on, and return the id of the run."""
    form.get_by_role("button", name="Start", exact=True).click()
    watched = seen.output(ASK).locator(f"{LIVE} .monitor")
    watched.locator("li.done").first.wait_for()
    run_id = re.search(r"run-\d{8}t\d{6}-\w{6}", watched.locator(".head").inner_text())[0]
    seen.save()
    seen.reload()
    watched.wait_for()
    return run_id


def find_again(seen, run_id):
    """In a kernel that was restarted: attach to the run, choose it in the list, and see it end."""
    seen.restart_kernel()
    for number in (0, PARAMETERS, ASK, ATTACH):
        run_cell(seen, number)
    seen.output(ATTACH).get_by_text(run_id).locator("visible=true").first.wait_for()
    run_cell(seen, RUNS)
    seen.output(RUNS).get_by_role("button", name=f"Show run {run_id}").click()
    seen.output(RUNS).locator(f"{LIVE} .monitor .badge.done").wait_for()
    look_fine(seen, RUNS, MONITORED)


def explore_by_hand(seen):
    """Open the explorer, choose a gene in its table, draw a lasso on its map."""
    page = seen.page
    seen.output(RUNS).get_by_role("button", name="Explore", exact=True).click()
    genes = seen.output(RUNS).locator(".hx-word[data-key^='gene ']")
    genes.first.wait_for()
    genes.nth(2).click()
    seen.output(RUNS).locator("tr.hx-chosen").first.wait_for()
    canvas = seen.output(RUNS).locator(".hx-canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    left, top, right, bottom = box["x"] + 4, box["y"] + 4, box["x"] + box["width"] - 4, box["y"] + box["height"] - 4
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top + 2)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    seen.output(RUNS).locator(".hx-status", has_text="selected").wait_for()


def fork_and_cancel(seen):
    """Start a run with another seed from the one that is shown, and cancel it."""
    fork = seen.output(RUNS).locator(f"{LIVE} .fork")
    fork.locator("select[name=option]").select_option("seed")
    fork.locator("input[name=value]").fill("3")
    fork.get_by_role("button", name="Fork and start").click()
    forked = seen.output(RUNS).locator(f"{LIVE} .monitor").nth(1)
    forked.locator("summary", has_text="Cancel").click()
    forked.get_by_role("button", name="Cancel the run").click()
    forked.get_by_text("Cancelled. Nothing was billed").wait_for()


def test_a_question_is_asked_watched_found_again_forked_cancelled_and_kept(explore):
    explore.run_all()
    form = ask_and_correct(explore)
    run_id = start_and_reload(explore, form)
    find_again(explore, run_id)
    explore_by_hand(explore)
    fork_and_cancel(explore)
    explore.save()
    pictures = [one["data"]["text/html"] for one in explore.saved().cells[RUNS].outputs if "text/html" in one["data"]]
    assert "Interpretation" in pictures[0]
    explore.restart_kernel()
    explore.reload()  # nobody knows the live views any more
    assert "Interpretation" in explore.text(RUNS)
    assert "Error" not in explore.text(RUNS)
    assert faults(explore, RUNS, MONITORED) == []
    assert explore.asked == []
    assert [line for line in explore.said if not line.startswith(SAID_WITHOUT_A_KERNEL)] == []
