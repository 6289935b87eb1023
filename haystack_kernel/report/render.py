"""One HTML file that opens anywhere: without network, without a kernel, and with foreign scripts disabled.

In: a ReportBundle. Out: the page as text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from haystack_kernel import keys, pl
from haystack_kernel.report import parts
from haystack_kernel.report.candidates import candidate_table
from haystack_kernel.report.figures import figure
from haystack_kernel.report.files import file_links
from haystack_kernel.report.front import front
from haystack_kernel.report.html import STYLE, Html, escape, items
from haystack_kernel.report.literature import bibtex, literature_part
from haystack_kernel.report.methods import BIBTEX, methods_paragraph, run_entry
from haystack_kernel.report.notebook import notebook_fragment
from haystack_kernel.report.summary import answer
from haystack_kernel.report.tables import cell_table, gene_table, pathway_table
from haystack_kernel.report.transcript import transcript_gist, transcript_part
from haystack_kernel.report.trust import trust_table, truth_table
from haystack_kernel.report.words import counted, sample_words, score_text, shared_cells, simulated_atlases
from haystack_kernel.schema import RunRecord

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
_READ_MAP = "One marker per cell{}. Neighbours are similar, but distances on such a map are not evidence."
_READ_BARS = (
    "Bars to the right: predicted to be activated. The score ranges from 1 (chance) to 10. Hatched: pathways that the "
    "question expects."
)


_TAKE = (
    '<p class="take"><span data-copy="methods-text" data-label="Copy methods"></span>'
    '<span data-copy="citation-text" data-label="Copy citation"></span>{save}</p>'
)
_SAVE = '<a href="#files">Save tables</a>'


_NO_LINK, _NO_NOTEBOOK = "<!-- no link -->", "<!-- no notebook -->"
_LINK = '<li><a href="#notebook">Executed notebook</a></li>'
_RECORD = re.compile(r'<script type="application/json" id="haystack-record">(.*?)</script>', re.DOTALL)
_SEAL = re.compile(r'<meta name="haystack-seal" content="([0-9a-f]{64})">')
NO_SEAL = "0" * 64
_UNSHOWN = {"steps": (), "serial": 0}


@dataclass(frozen=True)
class Section:
    """One folded part of the page: its heading, its content in a line, and its content."""

    anchor: str
    heading: str
    body: Html
    gist: str = ""


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
    picture = figure(pl.volcano(tables.de), caption=_READ_VOLCANO) if tables else ""
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
            lead=front(record, picture=picture, links=_TAKE.format(save=_SAVE if bundle.files else "")),
            meta={name: value for name, value in meta.items() if value},
            sections=tuple(_sections(bundle)),
            notebook=bundle.notebook,
            record_json=record.model_dump_json(),
        )
    )


def render_page(*, title: str, kicker: str, body: Html) -> str:
    """Render a page of other content with the style, the scripts and the security policy of a report.

    Parameters
    ----------
    title
        Heading of the page.
    kicker
        Line above it.
    body
        The content, every text escaped.

    Returns
    -------
    The page as text.

    Examples
    --------
    >>> page = render_page(title="Runs", kicker="HAYSTACK", body=table(...))  # doctest: +SKIP
    """
    return _fill(Page(title=title, kicker=kicker, lead=body))


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
    """Every part below the first screen, in the order in which a reader asks: what, how sure, from what, how made."""
    record, tables, best = bundle.record, bundle.tables, bundle.record.best
    found = []
    if tables is not None and best is not None:
        whole = answer(record, de=tables.de, pathways=tables.pathways)
        expected = record.query.expected_targets if record.query else {}
        bars = figure(pl.pathway_bars(tables.pathways), caption=_READ_BARS) + pathway_table(tables.pathways)
        score = parts.score_table(record) + parts.agreement_table(record)
        verdict = best.confidence.verdict_words if best.confidence else "unavailable"
        leading = f", led by {', '.join(best.top_genes[:3])}" if best.top_genes else ""
        tested = truth_table(record)
        n_quoted = len(bundle.citations.citations) if bundle.citations else 0
        found += [
            Section("summary", "The answer in full", whole, "main numbers, interpretation and limitations"),
            Section(
                "genes",
                "Predicted changes in gene expression",
                Html(gene_table(tables.de, expected=expected)),
                f"{counted(best.n_de, 'gene')} called{leading}",
            ),
            Section("pathways", "Agreement with known pathways", Html(bars), counted(len(tables.pathways), "pathway")),
            Section("score", "Score and its components", Html(score), score_text(best)),
            *([Section("truth", "Tested against the measurement", tested, record.truth[0].words)] if tested else []),
            Section("trust", "Confidence", trust_table(record), verdict),
            Section(
                "literature",
                "Literature",
                literature_part(bundle.citations, readings=bundle.readings),
                counted(n_quoted, "paper"),
            ),
        ]
    found.append(
        Section("question", "How the question was understood", parts.query_card(record), record.taken_as or "")
    )
    found += [
        *_cells(bundle),
        Section("rounds", "Rounds", parts.rounds_table(record), counted(len(record.rounds), "round")),
        Section(
            "candidates",
            "Prompt candidates",
            candidate_table(record).html(),
            counted(len(record.candidates), "candidate"),
        ),
        *_of_model(bundle),
        Section("methods", "Methods and citations", _methods(bundle), "for a methods section and a bibliography"),
    ]
    if bundle.files:
        found.append(Section("files", "Tables to save", file_links(bundle.files), counted(len(bundle.files), "file")))
    return found


def _of_model(bundle: ReportBundle) -> list[Section]:
    calls = bundle.calls
    if not calls:
        return []
    return [Section("transcript", "What the language model was asked", transcript_part(calls), transcript_gist(calls))]


def _cells(bundle: ReportBundle) -> list[Section]:
    """Which cells were used as what, where they lie on the map, and what one gene does in them."""
    record, tables, found = bundle.record, bundle.tables, list[Section]()
    if tables is not None:
        both = items([f"{text}." for text in shared_cells(tables.prompts, record.config)], kind="warning")
        body = figure(pl.roles(record), caption=_READ_ROLES) + both + cell_table(tables.prompts)
        if tables.embedding is not None:
            sizes = {str(role): int(n) for role, n in tables.embedding[keys.ROLE].value_counts().items()}
            sample = "" if record.best is None else sample_words(sizes, record.best)
            told = f" ({sample}, drawn at random)" if sample else ""
            body += figure(pl.umap(tables.embedding), caption=_READ_MAP.format(told))
        gist = f"{len(tables.prompts):,} cells of the atlases"
        found.append(Section("roles", "Cells used, by role", Html(body), gist))
    if bundle.explorer is not None:
        gist = "map, volcano, violins and evidence of one gene"
        found.append(Section("explorer", "Cells and genes side by side", bundle.explorer, gist))
    return found


def _methods(bundle: ReportBundle) -> Html:
    record = bundle.record
    entries = escape(run_entry(record) + BIBTEX + bibtex(bundle.citations))
    return Html(
        f"<p id='methods-text'>{escape(methods_paragraph(record))}</p><h3>Citations (BibTeX)</h3>"
        f"<pre id='citation-text' tabindex='0'>{entries}</pre>"
    )


def _fill(page: Page) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    link, notebook = _NO_LINK, _NO_NOTEBOOK
    if page.notebook is not None:
        link, notebook = _LINK, _notebook_section(page.notebook, folded=bool(page.sections))
    return environment.get_template("report.html.j2").render(
        page=page,
        notebook_link=Html(link),
        notebook=Html(notebook),
        record_json=Html(_embedded(page.record_json)),
        style=Html((TEMPLATES / "page.css").read_text(encoding="utf-8") + STYLE),
        script=Html(_script()),
        script_hash=script_digest(),
        version=version("haystack-kernel"),
        seal=NO_SEAL,
    )


def _notebook_section(notebook: NotebookNode, *, folded: bool) -> str:
    body = f'<div class="notebook">{notebook_fragment(notebook)}</div>'
    heading = "<h2>Executed notebook</h2>"
    if folded:
        gist = '<span class="gist">the notebook that produced this record, code folded</span>'
        body, heading = f"<details><summary>{heading} {gist}</summary>\n{body}\n</details>", ""
    return f'<section id="notebook">\n{heading}{body}\n</section>'


def _embedded(record_json: str) -> str:
    """The record, escaped so that none of its texts can end the script element that contains it."""
    return record_json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def add_notebook(page: str, record: RunRecord, notebook: NotebookNode) -> str | None:
    """Put the executed notebook into a report that was rendered without it, which spares drawing its figures again.

    Parameters
    ----------
    page
        A report of the same run.
    record
        The run as it is now.
    notebook
        The notebook.

    Returns
    -------
    The same page as :func:`render_report` would return; None where the page tells another state of the run.

    Examples
    --------
    >>> page = add_notebook(page, record, notebook) or render_report(bundle)  # doctest: +SKIP
    """
    held, place = embedded_record(page), _RECORD.search(page)
    if held is None or place is None or _NO_LINK not in page or _NO_NOTEBOOK not in page:
        return None
    # the last step is written into the record after its report; nothing of the page shows it
    if held.model_copy(update=_UNSHOWN).model_dump_json() != record.model_copy(update=_UNSHOWN).model_dump_json():
        return None
    page = f"{page[: place.start(1)]}{_embedded(record.model_dump_json())}{page[place.end(1) :]}"
    page = _SEAL.sub(lambda found: found[0].replace(found[1], NO_SEAL), page, count=1)
    section = _notebook_section(notebook, folded=True)
    return page.replace(_NO_LINK, _LINK, 1).replace(_NO_NOTEBOOK, section, 1)


def embedded_record(page: str) -> RunRecord | None:
    """Read the record that a report holds; None where it holds none that this version can read."""
    found = _RECORD.search(page)
    if found is None or found[1] == "{}":
        return None
    try:
        return RunRecord.model_validate_json(found[1])
    except ValidationError:
        return None


def sealed(page: str) -> str:
    """Return the page with the digest of all its content, by which :func:`is_sealed` finds later changes."""
    return page.replace(NO_SEAL, hashlib.sha256(page.encode()).hexdigest(), 1)


def is_sealed(page: str) -> bool | None:
    """Whether nothing of a page was changed after it was written; None for a page without a seal."""
    found = _SEAL.search(page)
    if found is None or found[1] == NO_SEAL:
        return None
    return hashlib.sha256(page.replace(found[1], NO_SEAL, 1).encode()).hexdigest() == found[1]


def script_digest() -> str:
    """Digest by which the security policy of a page names its only script, so that no other one runs."""
    return base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()


def script_sources() -> str:
    """Return our scripts as a security policy names them: this version's, and those of pages that earlier ones wrote.

    The list is closed: a page cannot name a script of its own to whoever serves it.
    """
    known = (TEMPLATES / "scripts.txt").read_text(encoding="utf-8").split()
    return " ".join(f"'sha256-{digest}'" for digest in dict.fromkeys((script_digest(), *known)))


def _script() -> str:
    return "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("tables.js", "page.js"))
