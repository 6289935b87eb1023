"""One HTML file that opens anywhere: no network, no kernel, scripts of others inert.

In: a ReportBundle. Out: the page as text.
"""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys, pl
from haystack_kernel.report import parts
from haystack_kernel.report.html import STYLE, Html, escape, table
from haystack_kernel.report.methods import BIBTEX, methods_paragraph
from haystack_kernel.report.notebook import notebook_fragment

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment
    from matplotlib.axes import Axes
    from nbformat import NotebookNode

    from haystack_kernel.report.bundle import ReportBundle

TEMPLATES = Path(__file__).parent / "template"
N_GENES_SHOWN = 300
_DPI = 120


def render_report(bundle: ReportBundle) -> str:
    """Render the report of a run.

    Parameters
    ----------
    bundle
        Record, tables and, if the run was made by one, the executed notebook (shown folded).
    """
    record = bundle.record
    sections = [
        ("question", "The question, as understood", parts.query_card(record)),
        ("roles", "Who is prompt, control and query", _figure(pl.roles(record))),
        ("genes", "What is predicted", _figure(pl.volcano(bundle.de)) + _gene_table(bundle.de)),
        ("cells", "Where the predicted cells lie", _figure(pl.umap(bundle.embedding))),
        (
            "pathways",
            "Does known biology agree",
            _figure(pl.pathway_bars(bundle.pathways)) + _pathways(bundle.pathways),
        ),
        ("score", "The score, and what it rests on", parts.score_table(record) + parts.agreement_table(record)),
        ("rounds", "Rounds", parts.rounds_table(record)),
        ("candidates", "Which cells could show the effect", parts.candidate_table(record)),
        ("methods", "Methods and citations", f"<p>{escape(methods_paragraph(record))}</p><pre>{escape(BIBTEX)}</pre>"),
    ]
    return _page(
        title=record.question,
        sections=[(anchor, heading, Html(body)) for anchor, heading, body in sections],
        lead=parts.answer(record),
        meta=_meta(bundle),
        notebook=bundle.notebook,
        record_json=record.model_dump_json(),
    )


def render_notebook(notebook: NotebookNode, *, title: str) -> str:
    """Render an executed notebook that has no run record beside it, on the same page and under the same policy."""
    return _page(title=title, sections=[], lead=Html(""), meta={}, notebook=notebook, record_json="{}")


def _page(
    *,
    title: str,
    sections: list[tuple[str, str, Html]],
    lead: Html,
    meta: dict[str, object],
    notebook: NotebookNode | None,
    record_json: str,
) -> str:
    script = (TEMPLATES / "tables.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            sections=sections,
            lead=lead,
            meta=meta,
            notebook=Html(notebook_fragment(notebook)) if notebook is not None else "",
            unfold_notebook=not sections,
            record_json=Html(_as_script_data(record_json)),
            style=Html((TEMPLATES / "page.css").read_text(encoding="utf-8") + STYLE),
            script=Html(script),
            script_hash=digest,
        )
    )


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def _as_script_data(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure(axes: Axes) -> str:
    from matplotlib import pyplot as plt

    figure = axes.get_figure(root=True)
    if figure is None:
        return ""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = escape(axes.get_label())
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"></figure>'


def _gene_table(de: pd.DataFrame) -> str:
    tested = de[de[keys.IS_TESTED].astype(bool)]
    order = tested[keys.DELTA].abs().sort_values(ascending=False).index[:N_GENES_SHOWN]
    columns = [keys.GENE, keys.LOG2FC, keys.DELTA, keys.DETECTION_DIFF, keys.AUROC, keys.PADJ, keys.IS_DE]
    shown = tested.loc[order, columns]
    rows = [[*(_plain(value) for value in row[:-1]), bool(row[-1])] for row in shown.itertuples(index=False)]
    n = f"{len(shown)} of {len(tested)} tested genes with the largest change (all in de.csv)"
    caption = f"{n}. p values depend on how many cells were generated: generated cells are not replicates"
    return table(columns, rows, caption=caption, kind="sortable")


def _pathways(pathways: pd.DataFrame) -> str:
    columns = ["pathway", "statistic", "p_signal", "p_specificity", "score", "n_genes", "is_expected"]
    rows = [
        [*(_plain(value) for value in row[:-2]), int(row[-2]), bool(row[-1])]
        for row in pathways[columns].itertuples(index=False)
    ]
    return table(columns, rows, caption="Pathways, expected and discovered", kind="sortable")


def _plain(value: Any) -> Any:  # noqa: ANN401 - a cell of a table: text or numpy number
    return value if isinstance(value, str) else float(value)


def _meta(bundle: ReportBundle) -> dict[str, object]:
    record = bundle.record
    return {
        "run": record.run_id,
        "made": f"{record.created_at:%Y-%m-%d %H:%M} UTC",
        "engine": record.config.engine,
        "atlases": ", ".join(record.config.atlases),
        "seed": record.config.seed,
        "cells used": len(bundle.prompts),
        "version": record.versions.get("haystack-kernel", ""),
    }
