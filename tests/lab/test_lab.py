"""The tools of this folder see what a person would see."""

import pytest

from tests.servers.lab import axe_faults, layout_faults

pytestmark = [pytest.mark.browser, pytest.mark.slow]

GOOD = "<div id='shown' style='width:300px'><p>one line</p><p>and another</p></div>"
BAD = """<div id='shown' style='width:300px;color:#999;background:#aaa'>
<p style='position:absolute;top:0;left:0'>one text</p><p style='position:absolute;top:4px;left:8px'>over it</p>
<p style='width:40px;overflow:hidden;white-space:nowrap;margin-top:80px'>a text that is cut off</p>
<p style='width:900px;margin-left:500px'>outside</p><img src='data:,'></div>"""


def test_a_notebook_runs_in_both_themes_is_saved_and_outlives_a_reload(lab, open_notebook):
    lab.write("first.ipynb", "x = 41", 'from IPython.display import HTML\nHTML(text := """' + GOOD + '""")', "x + 1")
    seen = open_notebook("first.ipynb", theme="dark")
    seen.run_all()
    assert seen.text(2) == "42"
    assert layout_faults(seen.page.locator("#shown")) == []
    colours = set()
    for theme in ("dark", "light"):
        seen.theme(theme)
        colours.add(seen.page.evaluate("getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor"))
        assert axe_faults(seen.page, "#shown") == []
    assert len(colours) == 2
    seen.save()
    assert seen.saved().cells[2].outputs[0]["data"]["text/plain"] == "42"
    seen.reload()
    assert seen.text(2) == "42"
    kernels = {one["id"] for one in lab.kernels()}  # those of other tests too
    seen.restart_kernel()
    assert {one["id"] for one in lab.kernels()} == kernels
    assert (seen.asked, seen.said) == ([], [])


def test_text_that_overlaps_is_cut_or_leaves_its_box_is_found(browser):
    page = browser.new_page()
    page.set_content(BAD)
    found = " ".join(layout_faults(page.locator("#shown")))
    for fault in ("overlap: one text | over it", "cut: a text that", "outside, by", "without alternative", "not drawn"):
        assert fault in found
    assert {"color-contrast", "image-alt"} <= {rule for rule, _ in axe_faults(page, "#shown")}
    page.close()
