"""What papers say about the prediction: contradictions first, each claim with the sentence that it rests on.

In: the citations of the best round, and what a language model read in the same papers where one was asked. Out: escaped
HTML, and BibTeX of the papers that support or contradict it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from haystack_kernel.report.html import DOWN, UP, Html, escape, items, paragraph, table
from haystack_kernel.report.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from haystack_kernel.schema import Citations, ModelReadings, Paper, Quote, Stance

SOURCES = {"pubmed": "PubMed", "europepmc": "Europe PMC", "semanticscholar": "Semantic Scholar"}
_SAYS = {1: f"{UP} rises", -1: f"{DOWN} falls", 0: "no direction"}
_HOW = (
    "Titles and abstracts were read by rules, not by a person: a sentence counts when it names the gene, the "
    "perturbation and a direction. The absence of a statement is not a contradiction. Open the paper before you rely "
    "on a quotation."
)
_GRAVEST: tuple[Stance, ...] = ("contradiction", "support", "mention")
_BIBTEX_UNSAFE = re.compile(r"[{}\\\"%#$&~^_\x00-\x1f]")


@dataclass(frozen=True)
class _Entry:
    """One paper and what is said to stand in it: by the rules, and by a language model where it was shown the paper."""

    paper: Paper
    scored: bool
    by_rules: tuple[Quote, ...] = ()
    by_model: tuple[Quote, ...] = ()
    reader: str = ""  # empty: no model was shown the paper

    @property
    def stance(self) -> Stance:
        """The gravest that either of them found."""
        found = {quote.stance for quote in (*self.by_rules, *self.by_model)}
        return next((stance for stance in _GRAVEST if stance in found), "mention")

    @property
    def disputed(self) -> tuple[str, ...]:
        """Genes of which the two say different things."""
        if not self.reader:
            return ()
        rules, model = _directions(self.by_rules), _directions(self.by_model)
        return tuple(gene for gene in {**rules, **model} if rules.get(gene, 0) != model.get(gene, 0))


def literature_part(citations: Citations | None, *, readings: ModelReadings | None = None) -> Html:
    """Return the section of the report; it says why when no source was searched or none answered.

    Parameters
    ----------
    citations
        The papers of the round as rules read them; None where the version that made the run had no search.
    readings
        What a language model read in them, shown beside the rules' reading; None where none was asked.

    Returns
    -------
    Escaped HTML. Papers that either reading takes for a contradiction come first, and in each group those on which
    the two disagree.

    Examples
    --------
    >>> literature_part(None)
    '<p>The version that produced this round did not search the literature.</p>'
    """
    if citations is None:
        return Html(paragraph("The version that produced this round did not search the literature."))
    if citations.reason:
        return Html(paragraph(f"{citations.reason[0].upper()}{citations.reason[1:]}."))
    entries = _entries(citations, readings)
    groups = {stance: [item for item in entries if item.stance == stance] for stance in _GRAVEST}
    shown = [_sources(citations), *([_reader(readings, entries)] if readings else [])]
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


def _entries(citations: Citations, readings: ModelReadings | None) -> list[_Entry]:
    """Each paper once, the gravest stance first and in each stance those on which the two readings disagree."""
    reader = readings.reader if readings else ""
    shown = set(readings.read) if readings else set()
    by_model = {item.paper.id: item for item in readings.citations} if readings else {}
    entries = []
    for item in citations.citations:
        found = by_model.pop(item.paper.id, None)
        entries.append(
            _Entry(
                paper=item.paper,
                scored=item.scored,
                by_rules=item.quotes,
                by_model=found.quotes if found else (),
                reader=reader if item.paper.id in shown else "",
            )
        )
    entries += [
        _Entry(paper=item.paper, scored=item.scored, by_model=item.quotes, reader=reader) for item in by_model.values()
    ]
    entries.sort(key=lambda item: (_GRAVEST.index(item.stance), not item.disputed))
    return entries


def _directions(quotes: Iterable[Quote]) -> dict[str, int]:
    """Gene -> the sign that the sentences of one paper give it together."""
    totals: dict[str, int] = {}
    for item in quotes:
        totals[item.gene] = totals.get(item.gene, 0) + item.direction
    return {gene: (total > 0) - (total < 0) for gene, total in totals.items()}


def _reader(readings: ModelReadings, entries: list[_Entry]) -> str:
    """Say which model read, how much, and how often it disagrees with the rules."""
    if readings.reason:
        return paragraph(f"No language model read these papers: {readings.reason}.")
    disputed = [item for item in entries if item.disputed]
    told = (
        f"{readings.reader}, a language model, read {counted(len(readings.read), 'paper')} as well. Its readings stand "
        f"beside those of the rules and count in no score. The two disagree on {counted(len(disputed), 'paper')}."
    )
    if readings.unread:
        told += f" Its answer on {counted(len(readings.unread), 'paper')} could not be used."
    if readings.n_unproven:
        were = "was" if readings.n_unproven == 1 else "were"
        told += (
            f" {counted(readings.n_unproven, 'sentence')} that it gave {were} left out: not found in the paper, or "
            "naming no gene that was asked about."
        )
    return paragraph(told, kind="model")


def _group(heading: str, cited: list[_Entry], *, none: str) -> str:
    body = "".join(_citation(item) for item in cited) if cited else paragraph(none)
    return f"<h3>{escape(heading)} ({len(cited)})</h3>{body}"


def _citation(item: _Entry) -> str:
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
    if item.disputed:
        notes.append(f"the rules and {item.reader} disagree on {', '.join(item.disputed)}")
    return (
        f'<div class="card"><p>{title}</p>{paragraph(about, kind="small")}{items(notes, kind="warning")}'
        f"{''.join(_quotes(item))}</div>"
    )


def _quotes(item: _Entry) -> Iterable[str]:
    """Each sentence once, with what the rules and the model read in it."""
    texts: dict[tuple[str, int], str] = {}
    for said in (*item.by_rules, *item.by_model):
        texts.setdefault((said.where, said.start), said.quote)
    for place, text in texts.items():
        lines = [_read(said for said in item.by_rules if (said.where, said.start) == place)]
        if item.reader:
            by_model = _read(said for said in item.by_model if (said.where, said.start) == place)
            lines = [f"by rules: {lines[0]}", f"by {item.reader}: {by_model}"]
        told = "".join(paragraph(line, kind="small") for line in lines)
        yield f"<blockquote><p>{escape(text)}</p>{told}</blockquote>"


def _read(quotes: Iterable[Quote]) -> str:
    return "; ".join(f"{item.gene} {_SAYS[item.direction]} ({item.stance})" for item in quotes) or "nothing"


def plain(text: str, *, keep: str = "") -> str:
    """Return the text without what BibTeX would read as its own."""
    return _BIBTEX_UNSAFE.sub(lambda found: found.group() if found.group() in keep else " ", text).strip()
