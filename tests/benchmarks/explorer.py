"""An explorer with many cells in headless Chromium: from the end of a lasso to the gene table that answers it.

In: nothing but this machine. Out: the row ``explore.select`` of the benchmark. The browser talks to Python through
Playwright, whose bridge is slower than a kernel's; the processor time of the answer alone is told beside it.
"""

import math
import shutil
import time

import numpy as np
import pandas as pd

from haystack_kernel.explorer.arms import Arms
from haystack_kernel.explorer.load import ExplorerData
from haystack_kernel.explorer.messages import answer
from haystack_kernel.explorer.state import ExplorerState
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.schema import RunConfig, RunRecord
from tests.explorer.cells import many_cells
from tests.explorer.page import lasso, open_page

N_GENES = 2500
ANSWERED = """(n) => { const told = document.querySelector('.hx').dataset;
  return told.selected !== undefined && told.selected !== '0' && told.selected !== n ? performance.now() : false; }"""


def designed(n):
    """The state of an explorer with ``n`` cells and 2,500 genes, a fifth of the counts above zero."""
    rng, names = np.random.default_rng(1), [f"GENE{i}" for i in range(N_GENES)]
    padj = rng.random(N_GENES) ** 8
    de = pd.DataFrame(
        {"gene": names, "log2fc": rng.normal(size=N_GENES), "delta": rng.normal(size=N_GENES), "padj": padj}
    )
    de = de.assign(is_tested=True, is_de=de["padj"] < 0.05)
    columns = ["pathway", "score", "statistic", "p_signal", "p_specificity", "is_expected", "n_genes"]
    now = pd.Timestamp("2026-01-02T03:04:05Z").to_pydatetime()
    data = ExplorerData(
        record=RunRecord(run_id="run-of-many-cells", question="How fast?", config=RunConfig(), created_at=now),
        de=de,
        pathways=pd.DataFrame(columns=columns),
        arms=Arms((), genes=pd.Index(names, dtype=object)),
        knowledge=load_knowledge(),
    )
    return ExplorerState(many_cells(data, n=n, n_genes=N_GENES))


def explore_select(folder):
    """Lasso to table with 2,000 and 100,000 cells; the median of five."""
    from playwright.sync_api import sync_playwright

    ours = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for n in (2_000, 100_000):
            state = designed(n)
            began = time.perf_counter()
            page = open_page(browser, state)
            ours[f"first_s_{n}"] = time.perf_counter() - began
            times, python = [], []
            for turn in range(6):
                page.evaluate("""() => document.querySelector('.hx-lasso').addEventListener('pointerup', () => {
                    window.ended = performance.now(); }, { capture: true, once: true })""")
                before = page.locator(".hx").get_attribute("data-selected")
                lasso(page, box=(0, 0, 0.4 + 0.08 * turn, 1), selected=False)
                times.append(page.wait_for_function(ANSWERED, arg=before).json_value() - page.evaluate("window.ended"))
                bits = np.packbits(state.mask, bitorder="little").tobytes()
                began = time.process_time()
                answer(state, {"kind": "select"}, [bits])
                python.append(1000 * (time.process_time() - began))
            ours[f"lasso_to_table_ms_{n}"] = float(np.median(times[1:]))
            ours[f"python_processor_ms_{n}"] = float(np.median(python[1:]))
            page.context.close()
        browser.close()
    slowest = ours["lasso_to_table_ms_100000"]
    return {
        "work": "explorer, 2,500 genes: lasso to gene table with 2,000 and 100,000 cells",
        "ours": ours,
        "reference": None,
        "ratio": None,
        "goal": "<= 500 ms with 100,000 cells",
        "met": not math.isnan(slowest) and slowest <= 500,
    }


ROWS = {"explore.select": explore_select}
