"""The explorer in a real JupyterLab: live while its kernel lives, a picture of the last choice when it does not."""

import pytest

from tests.explorer.page import lasso
from tests.servers.lab import axe_faults, layout_faults

pytestmark = [pytest.mark.browser, pytest.mark.slow]
GENE = "STAT1"


@pytest.fixture(scope="module")
def notebook(lab, finished):
    """A notebook that explores the finished run."""
    ports, record = finished
    opening = f"run = haystack.attach({record.run_id!r}, storage={ports.settings.storage!r})"
    setup = f"import haystack_kernel as haystack\n{opening}\nexplorer = run.explore()"
    lab.write("explore_run.ipynb", setup, "explorer", "print(explorer.gene, len(explorer.selected_cells()))")
    return "explore_run.ipynb"


def test_what_is_chosen_reaches_python_survives_a_reload_and_stays_when_the_kernel_is_gone(
    lab, open_notebook, notebook, finished
):
    seen = open_notebook(notebook, theme="dark")
    page = seen.page
    seen.run_all()
    page.locator(".hx[data-state=ready][data-painted]").wait_for()
    still = page.get_by_text(f"Explorer of run {finished[1].run_id}")
    assert still.is_hidden()
    page.get_by_label("Find").fill(GENE)
    page.get_by_label("Find").press("Enter")
    page.locator(".hx-status", has_text=f"Gene {GENE}.").wait_for(state="attached")
    lasso(page)
    n = int(page.locator(".hx").get_attribute("data-selected"))
    assert n > 100
    assert layout_faults(page.locator(".hx")) == []
    assert axe_faults(page, ".hx") == []
    dark = page.locator(".hx").evaluate("(one) => getComputedStyle(one).backgroundColor")
    seen.theme("light")
    assert page.locator(".hx").evaluate("(one) => getComputedStyle(one).backgroundColor") != dark

    seen.cell(2).locator(".jp-InputPrompt").click()
    seen.command("notebook:run-cell")
    page.locator(".jp-Cell-outputArea", has_text=f"{GENE} {n}").wait_for()
    seen.save()
    seen.reload()
    page.locator(f".hx[data-state=ready][data-selected='{n}']").wait_for()  # the kernel told the new page
    assert page.locator(".hx-name", has_text=f"{GENE} by role").is_visible()

    still = page.get_by_text(f"Gene {GENE}; {n:,} cells selected").last
    still.wait_for(state="attached")  # drawn again a moment after the choice
    seen.save()
    (saved,) = [out for out in seen.saved().cells[1].outputs if "text/html" in out.get("data", {})]
    assert f"{n:,} cells selected" in saved["data"]["text/html"]
    assert seen.asked == []
    seen.restart_kernel()
    seen.reload()
    still.wait_for()
    assert page.locator(".hx").count() == 0
    assert not page.get_by_text("model not found").is_visible()
    assert layout_faults(seen.output(1)) == []
