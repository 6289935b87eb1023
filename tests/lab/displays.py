"""Every display of the package as the outputs of a notebook, made in this process: no kernel is needed to look at them.

In: a run record and its tables. Out: a notebook, and pages as other front ends show its outputs. As a program it takes
pictures of the displays of a finished run: ``python -m tests.lab.displays STORAGE RUN_ID FOLDER``.
"""

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from IPython.core.formatters import DisplayFormatter
from IPython.core.pylabtools import print_figure
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from haystack_kernel import pl, report
from haystack_kernel.atlas.record import AtlasRecord, DatasetRecord, SourceFile
from haystack_kernel.report.displays import register
from haystack_kernel.retrieval.query_check import QueryCheck
from haystack_kernel.schema import Bill, CellSet, CostEstimate, JobHandle, JobStatus
from inference.preflight import Answer, Preflight

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOSTILE = {  # each names what goes wrong where it is not guarded against
    "script": "<script>window.ran=1</script>",
    "handler": "<img src=x onerror=window.ran=2>",
    "attribute": "\" onmouseover=window.ran=3 x='",
    "style": "</style><style>*{display:none}</style>",
    "comment": "<!-- the rest of the page",
    "template": "{{ 7 * 7 }} ${window.ran=4} {% raw %}",
    "mathematics": "$\\mathbf{x}$ \\(y\\)",
    "right to left": "خلية بائية B cell تائية",
    "override": "B\N{RIGHT-TO-LEFT OVERRIDE}llec\N{LEFT-TO-RIGHT EMBEDDING}",
    "terminal": "B cell\x1b[2J\x1b]0;owned\x07",
    "emoji": "B cell 🧬👩🏽‍🔬🏴‍☠️",
    "wide": "生物学的細胞" * 4,
    "long word": "donor_" + "x" * 300,
    "long text": "a cell type with a very long name " * 12,
}


def jobs_of(name):
    """An estimate, a job and its status, and a cell set, with ``name`` wherever a text is shown."""
    bill = Bill(
        job_id="job-1-a1",
        attempt=1,
        machine=f"t4 {name}",
        provisioning="spot",
        seconds=754,
        usd=0.0312,
        state="preempted",
    )
    return {
        "estimate": CostEstimate(
            machine=f"n1-standard-8 with one T4 {name}",
            provisioning="spot",
            n_machines=2,
            low_usd=0.08,
            likely_usd=0.21,
            high_usd=4.6,
            low_s=400,
            likely_s=1100,
            high_s=14400,
            basis=f"list prices of 2026-01 (to be checked); earlier jobs of this kind; {name}",
        ),
        "job": JobHandle(
            job_id=f"haystack-1-{name}", executor="batch", spec_hash="x", submitted_at=NOW, location=f"zones/{name}"
        ),
        "job status": JobStatus(
            state="running",
            detail=f"waiting for a machine in {name}",
            n_tasks=6,
            n_done=2,
            attempt=2,
            bills=(bill,),
            accrued=bill.model_copy(update={"attempt": 2, "state": "running", "job_id": "job-1-a2"}),
            log_tail=f"task 1: done\ntask 2: {name}\n",
        ),
        "check": QueryCheck(
            uri=f"{name}.h5ad",
            preflight=Preflight(
                name=name,
                n_cells=120,
                n_genes=2000,
                answers=(
                    Answer("raw counts", True, f"in layers/{name}"),
                    Answer("human genes", False, f"the first are {name}"),
                    Answer("model genes covered", None, "75.0% (12 of 16)"),
                ),
                refusals=("no human gene",),
                frac_model_genes=0.75,
            ),
            adata=None,
            checked=None,
        ),
        "atlas": AtlasRecord.model_construct(
            name="kang",
            n_cells=24673,
            digest="sha256:0123456789abcdef",
            datasets={
                name: DatasetRecord.model_construct(
                    label=name,
                    n_cells=24673,
                    n_genes=15706,
                    source=SourceFile.model_construct(counts_in=f"layers/{name}"),
                )
            },
            summary={
                "cell_types": [{"id": "CL:1", "name": name, "n_cells": 120}, {"name": "B cell", "n_cells": 6000}],
                "perturbations": [{"name": f"IFN-beta {name}", "n_cells": 12000}],
            },
        ),
        "cell set": CellSet(
            atlas="kang", dataset=name, is_control=True, label=name, n_cells=12345, donor_ids=(name, "d2")
        ),
    }


def all_displays(record, tables, *, name="", figures=True):
    """The values that a notebook may end a cell with, by name; ``name`` goes into those that no run holds."""
    best = record.best
    drawn = {
        "roles": lambda: pl.roles(record),
        "volcano": lambda: pl.volcano(tables.de),
        "umap": lambda: pl.umap(tables.embedding),
        "bars": lambda: pl.pathway_bars(tables.pathways),
    }
    return {
        "run": report.run_card(record, folder=f"store/runs/{record.run_id}"),
        "run, interrupted": report.run_card(record.model_copy(update={"status": "running"}), status="interrupted"),
        "question": record.query,
        "candidates": report.candidate_table(record),
        "candidate": record.candidates[0],
        "rounds": report.rounds_table(record),
        "answer": report.answer(record, de=tables.de, pathways=tables.pathways),
        "score": best.composite,
        "score table": report.score_table(record),
        "component": best.components[0],
        "agreement": report.agreement_table(record),
        "confidence": report.trust_table(record),
        "genes": report.gene_table(tables.de, expected=record.query.expected_targets),
        "pathways": report.pathway_table(tables.pathways),
        "cells": report.cell_table(tables.prompts),
        **jobs_of(name),
        **({name: draw().figure for name, draw in drawn.items()} if figures else {}),
    }


def outputs_of(value):
    """The MIME bundle of a value and its metadata, as a kernel would send them."""
    formatter = DisplayFormatter()
    register(formatter.formatters)
    formatter.formatters["image/png"].for_type(Figure, lambda figure: print_figure(figure, "png", base64=True))
    return formatter.format(value)


def write_notebook(path, shown):
    """Write a notebook with one cell per display, as it is saved after it has run."""
    node = nbformat.v4
    cells = []
    for name, value in shown.items():
        data, metadata = outputs_of(value)
        kind = {"output_type": "display_data"} if isinstance(value, Figure) else {"output_type": "execute_result"}
        made = node.new_output(**kind, data=data, metadata=metadata)
        cells.append(node.new_code_cell(f"# {name}", outputs=[made], execution_count=len(cells) + 1))
        if isinstance(value, Figure):
            plt.close(value)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = node.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.write(notebook, path)
    return notebook


_HEADS = {
    "plain": "",
    "vscode": "body{--vscode-editor-foreground:#d4d4d4;--vscode-editor-background:#1e1e1e;"
    "--vscode-widget-border:#454545;--vscode-descriptionForeground:#bbbbbb;--vscode-textLink-foreground:#4daafc;--vscode-font-family:sans-serif;"
    "background:#1e1e1e;color:#d4d4d4;color-scheme:dark}",
    "colab": "body{background:#fff;color:#212121}@media(prefers-color-scheme:dark){:root{color-scheme:dark}"
    "body{background:#202124;color:#e3e3e3}}th,td{padding:8px;text-align:right}",
}


def page_like(front_end, outputs):
    """The outputs in a page without Jupyter's styles: ``plain``, ``vscode`` (dark variables) or ``colab``."""
    parts = [f"<section id='{number}'>{output}</section>" for number, output in enumerate(outputs)]
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'><title>x</title>"
    return f"<!DOCTYPE html><html lang=en>{head}<style>{_HEADS[front_end]}</style><body>{''.join(parts)}"


def trust(lab, notebook):
    """Sign a notebook with the key of a lab, so that it counts as run by its reader."""
    from nbformat.sign import NotebookNotary

    notary = NotebookNotary(data_dir=str(lab.root.parent / "data"))
    notary.sign(notebook)
    notary.store.close()


def _pictures(storage, run_id, folder):
    """Pictures of every display in each front end."""
    from nbconvert import HTMLExporter
    from playwright.sync_api import sync_playwright

    from haystack_kernel.report import load_bundle
    from haystack_kernel.store import RunStore
    from tests.servers.lab import OpenNotebook, layout_faults, running_lab

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    store = RunStore(storage)
    bundle = load_bundle(store.load(run_id), store)
    shown = all_displays(bundle.record, bundle.tables, name="europe-west4-b")
    names = list(shown)
    notebook = write_notebook(folder / "all.ipynb", shown)
    outputs = [cell.outputs[0]["data"]["text/html"] for cell in notebook.cells]
    pages = {kind: page_like(kind, outputs) for kind in _HEADS}
    for template in ("lab", "classic"):
        pages[f"nbconvert-{template}"] = HTMLExporter(template_name=template).from_notebook_node(notebook)[0]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for kind, text in pages.items():
            (folder / f"{kind}.html").write_text(text)
            for scheme, width in (("light", 1000), ("dark", 1000), ("light", 390)):
                page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
                page.goto((folder / f"{kind}.html").absolute().as_uri())
                print(kind, scheme, width, layout_faults(page.locator("body"))[:8])
                page.screenshot(path=folder / f"{kind}-{scheme}-{width}.png", full_page=True)
                page.close()
        with running_lab(Path(tempfile.mkdtemp())) as lab:
            nbformat.write(notebook, lab.root / "all.ipynb")
            for trusted in (False, True):
                if trusted:
                    trust(lab, notebook)
                for theme, width in (("light", 1280), ("dark", 1280), ("light", 600)):
                    kind = f"lab-{'trusted' if trusted else 'untrusted'}-{theme}-{width}"
                    seen = OpenNotebook.open(browser, lab, "all.ipynb", theme=theme, width=width, height=11000)
                    faults = {name: layout_faults(seen.output(number)) for number, name in enumerate(names)}
                    print(kind, {name: found[:5] for name, found in faults.items() if found})
                    seen.page.locator(".jp-Notebook").first.screenshot(path=folder / f"{kind}.png")
                    seen.close()
        browser.close()


if __name__ == "__main__":
    _pictures(*sys.argv[1:])
