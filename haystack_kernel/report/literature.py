"""What papers say about the prediction: contradictions first, each claim with the sentence that it rests on.

In: the citations of the best round. Out: escaped HTML, and BibTeX of the papers that support or contradict it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from haystack_kernel.report.html import DOWN, UP, Html, escape, items, paragraph, table
from haystack_kernel.report.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from haystack_kernel.schema import Citation, Citations, Paper, Quote

SOURCES = {"pubmed": "PubMed", "europepmc": "Europe PMC", "semanticscholar": "Semantic Scholar"}
_SAYS = {1: f"{UP} rises", -1: f"{DOWN} falls", 0: "no direction"}
_HOW = (
    "Titles and abstracts were read by rules, not by a person: a sentence counts when it names the gene, the "
    "perturbation and a direction. The absence of a statement is not a contradiction. Open the paper before you rely "
    "on a quotation."
)
_BIBTEX_UNSAFE = re.compile(r"[{}\\\"%#$&~^_\x00-\x1f]")


def literature_part(citations: Citations | None) -> Html:
    """Return the section of the report; it says why when no source was searched or none answered."""
    if citations is None:
        return Html(paragraph("The version that produced this round did not search the literature."))
    if citations.reason:
        return Html(paragraph(f"{citations.reason[0].upper()}{citations.reason[1:]}."))
    groups = {
        stance: [item for item in citations.citations if item.quotes[0].stance == stance]
        for stance in ("contradiction", "support", "mention")
    }
    shown = [_sources(citations)]
    shown.append(_group("Papers that contradict the prediction", groups["contradiction"], none="None found."))
    shown.append(_group("Papers that support the prediction", groups["support"], none="None found."))
    if groups["mention"]:
        more = f" {citations.n_left_out} more are not listed." if citations.n_left_out else ""
        summary = (
            f"{counted(len(groups['mention']), 'paper')} that name a gene and the perturbation without taking a side"
        )
        listed = "".join(_citation(item) for item in groups["mention"])
        shown.append(f"<details><summary>{escape(summary)}.{escape(more)}</summary>{listed}</details>")
    return Html("".join([*shown, paragraph(_HOW, kind="small")]))


def bibtex(citations: Citations | None) -> str:
    """Return entries of the papers that support or contradict the prediction; empty for none."""
    if citations is None:
        return ""
    cited = [item.paper for item in citations.citations if item.quotes[0].stance != "mention"]
    entries = []
    for paper in cited:
        fields = {
            "author": " and ".join(plain(name) for name in paper.authors),
            "title": plain(paper.title),
            "journal": plain(paper.journal),
            "year": str(paper.year or ""),
            "doi": plain(paper.doi or "", keep="_"),
            "pmid": paper.pmid or "",
            "note": "RETRACTED" if paper.retracted else "",
        }
        told = ",\n  ".join(f"{name} = {{{value}}}" for name, value in fields.items() if value)
        key = re.sub(r"[^A-Za-z0-9]+", "-", paper.id)
        entries.append(f"@article{{{key},\n  {told}}}\n")
    return "".join(entries)


def paper_link(paper: Paper) -> str | None:
    """Return the address of a paper by its DOI, else by its PubMed id; None without either."""
    if paper.doi:
        return f"https://doi.org/{quote(paper.doi, safe='/()')}"
    return f"https://pubmed.ncbi.nlm.nih.gov/{quote(paper.pmid)}/" if paper.pmid else None


def _sources(citations: Citations) -> str:
    of_genes = {answer.source: answer for answer in citations.gene_answers}
    rows = []
    for answer in citations.answers:
        second, found = of_genes.get(answer.source), "not searched"
        if second is not None:
            found = f"{second.n_papers}; {second.reason}" if second.reason else f"{second.n_papers}"
        rows.append((SOURCES[answer.source], answer.n_papers, found, answer.reason or "answered"))
    columns = ("source", "papers on the perturbation", "papers on predicted genes", "status")
    when = f"{citations.searched_at:%Y-%m-%d}" if citations.searched_at else "unknown"
    caption = (
        f"Literature sources, searched on {when}; {counted(citations.n_papers, 'paper')} after removing duplicates"
    )
    return table(columns, rows, caption=caption)


def _group(heading: str, cited: list[Citation], *, none: str) -> str:
    body = "".join(_citation(item) for item in cited) if cited else paragraph(none)
    return f"<h3>{escape(heading)} ({len(cited)})</h3>{body}"


def _citation(item: Citation) -> str:
    paper = item.paper
    title, link = escape(paper.title), paper_link(paper)
    if link is not None:
        title = f'<a href="{escape(link)}" target="_blank" rel="noopener noreferrer">{title}</a>'
    sources = ", ".join(SOURCES[name] for name in paper.sources)
    authors = ", ".join(paper.authors[:3]) + (" et al." if len(paper.authors) > 3 else "")
    facts = [authors, paper.journal]
    facts += [str(paper.year)] if paper.year else []
    facts += [f"DOI {paper.doi}"] if paper.doi else []
    facts += [f"PMID {paper.pmid}"] if paper.pmid else []
    facts.append(f"found by {sources}")
    about = "; ".join(fact for fact in facts if fact)
    notes = []
    if paper.retracted:
        notes.append("RETRACTED: not counted in the score")
    elif not item.scored:
        notes.append("found by a search for the predicted genes: shown, not counted in the score")
    quotes = "".join(_quotes(item.quotes))
    return (
        f'<div class="card"><p>{title}</p>{paragraph(about, kind="small")}{items(notes, kind="warning")}{quotes}</div>'
    )


def _quotes(quotes: Iterable[Quote]) -> Iterable[str]:
    by_sentence: dict[tuple[str, int], list[Quote]] = {}
    for item in quotes:
        by_sentence.setdefault((item.where, item.start), []).append(item)
    for said in by_sentence.values():
        genes = "; ".join(f"{item.gene} {_SAYS[item.direction]} ({item.stance})" for item in said)
        yield f"<blockquote><p>{escape(said[0].quote)}</p>{paragraph(genes, kind='small')}</blockquote>"


def plain(text: str, *, keep: str = "") -> str:
    """Return the text without what BibTeX would read as its own."""
    return _BIBTEX_UNSAFE.sub(lambda found: found.group() if found.group() in keep else " ", text).strip()
