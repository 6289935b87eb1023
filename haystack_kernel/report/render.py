"""One HTML file that opens anywhere: without network, without a kernel, and with foreign scripts disabled.

In: a ReportBundle. Out: the page as text.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel import pl
from haystack_kernel.report import parts
from haystack_kernel.report.candidates import candidate_table
from haystack_kernel.report.figures import figure
from haystack_kernel.report.html import STYLE, Html, escape
from haystack_kernel.report.literature import bibtex, literature_part
from haystack_kernel.report.methods import BIBTEX, methods_paragraph
from haystack_kernel.report.notebook import notebook_fragment
from haystack_kernel.report.summary import answer
from haystack_kernel.report.tables import cell_table, gene_table, pathway_table
from haystack_kernel.report.trust import trust_table
from haystack_kernel.report.words import simulated_atlases

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from haystack_kernel.report.bundle import ReportBundle

EMPTY = Html("")
TEMPLATES = Path(__file__).parent / "template"
_READ_ROLES = "The engine learns from the prompt and control cells and transforms the query cells into predicted cells."
_READ_VOLCANO = (
    "One marker per tested gene. Right: predicted to rise. Higher: stronger statistical support. Triangles are genes "
    "called differentially expressed."
)
_READ_MAP = (
    "One marker per cell (at most 600 per role). Neighbours are similar, but distances on such a map are not evidence."
)
_READ_BARS = (
    "Bars to the right: predicted to be activated. The score ranges from 1 (chance) to 10. Hatched: pathways that the "
    "question expects."
)


@dataclass(frozen=True)
class Section:
    """One part of the page under a heading of its own."""

    anchor: str
    heading: str
    body: Html


@dataclass(frozen=True)
class Page:
    """The values that fill the template."""

    title: str
    kicker: str
    lead: Html = EMPTY
    meta: dict[str, str] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    notebook: NotebookNode | None = None
    record_json: str = "{}"


def render_report(bundle: ReportBundle) -> str:
    """Render the report of a run as one HTML page.

    Parameters
    ----------
    bundle
        Record, tables and, if the run came from one, the executed notebook (shown folded). A run that failed or
        was not scored is rendered with what it has.

    Returns
    -------
    The page as text.

    Examples
    --------
    >>> page = render_report(load_bundle(record, store))  # doctest: +SKIP
    """
    record, tables = bundle.record, bundle.tables
    lead = answer(record, de=tables.de, pathways=tables.pathways) if tables else answer(record)
    simulated = " (simulated cells)" if simulated_atlases(record) else ""
    meta = {
        "run": record.run_id,
        "created": f"{record.created_at:%Y-%m-%d %H:%M} UTC",
        "engine": record.config.engine,
        "atlases": ", ".join(record.config.atlases),
        "seed": str(record.config.seed),
        "HAYSTACK": record.versions.get("haystack-kernel", ""),
    }
    return _fill(
        Page(
            title=record.question,
            kicker=f"HAYSTACK run record{simulated}",
            lead=lead,
            meta={name: value for name, value in meta.items() if value},
            sections=tuple(_sections(bundle)),
            notebook=bundle.notebook,
            record_json=record.model_dump_json(),
        )
    )


def render_notebook(notebook: NotebookNode, *, title: str) -> str:
    """Render an executed notebook that has no run record, on the same page and with the same security policy.

    Parameters
    ----------
    notebook
        Any notebook of format 4; it is not changed.
    title
        Heading of the page.

    Returns
    -------
    The page as text.

    Examples
    --------
    >>> page = render_notebook(nbformat.read("run.ipynb", 4), title="My run")  # doctest: +SKIP
    """
    return _fill(Page(title=title, kicker="Executed notebook", notebook=notebook))


def _sections(bundle: ReportBundle) -> list[Section]:
    record, tables = bundle.record, bundle.tables
    found = [Section("question", "How the question was understood", parts.query_card(record))]
    if tables is not None:
        expected = record.query.expected_targets if record.query else {}
        genes = figure(pl.volcano(tables.de), caption=_READ_VOLCANO) + gene_table(tables.de, expected=expected)
        pathways = figure(pl.pathway_bars(tables.pathways), caption=_READ_BARS) + pathway_table(tables.pathways)
        score = parts.score_table(record) + parts.agreement_table(record)
        roles = figure(pl.roles(record), caption=_READ_ROLES) + cell_table(tables.prompts)
        found += [
            Section("genes", "Predicted changes in gene expression", Html(genes)),
            Section("pathways", "Agreement with known pathways", Html(pathways)),
            Section("score", "Score and its components", Html(score)),
            Section("trust", "Confidence", trust_table(record)),
            Section("roles", "Cells used, by role", Html(roles)),
        ]
        if tables.embedding is not None:
            where = figure(pl.umap(tables.embedding), caption=_READ_MAP)
            found.append(Section("cells", "Map of the cells", Html(where)))
        found.append(Section("literature", "Literature", literature_part(bundle.citations)))
    entries = escape(BIBTEX + bibtex(bundle.citations))
    methods = f"<p>{escape(methods_paragraph(record))}</p><h3>Citations (BibTeX)</h3><pre tabindex='0'>{entries}</pre>"
    found += [
        Section("rounds", "Rounds", parts.rounds_table(record)),
        Section("candidates", "Prompt candidates", candidate_table(record).html()),
        Section("methods", "Methods and citations", Html(methods)),
    ]
    return found


def _fill(page: Page) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    script = _script()
    # Escaped like this, no text of the record can end the script element that contains it.
    data = page.record_json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return environment.get_template("report.html.j2").render(
        page=page,
        notebook=Html(notebook_fragment(page.notebook)) if page.notebook is not None else "",
        record_json=Html(data),
        style=Html((TEMPLATES / "page.css").read_text(encoding="utf-8") + STYLE),
        script=Html(script),
        script_hash=script_digest(),
    )


def script_digest() -> str:
    """Digest by which the security policy of a page names its only script, so that no other one runs."""
    return base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()


def _script() -> str:
    return (TEMPLATES / "tables.js").read_text(encoding="utf-8")
