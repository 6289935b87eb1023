"""The part on papers: order, links, hostile text, BibTeX."""

from datetime import UTC, datetime

from haystack_kernel.report.literature import bibtex, literature_part, paper_link
from haystack_kernel.schema import Citation, Citations, Paper, Quote, SourceAnswer

HOSTILE = '<script>alert("x")</script>'


def citation(stance, *, title="A synthetic study", scored=True, **facts):
    paper = Paper(id="pmid:7", title=title, sources=("pubmed",), authors=("Author A",), year=2020, **facts)
    said = Quote(gene="IL6", direction=1, stance=stance, quote=f"It {stance} {HOSTILE}.", where="title", start=0, end=9)
    return Citation(paper=paper, scored=scored, quotes=(said,))


def citations(*cited, **facts):
    answers = (
        SourceAnswer(source="pubmed", n_papers=3),
        SourceAnswer(source="europepmc", reason="it answered 500, a fault of the service (3 tries)"),
    )
    when = datetime(2026, 1, 2, tzinfo=UTC)
    return Citations(searched_at=when, answers=answers, n_papers=3, citations=cited, **facts)


def test_contradictions_come_first_and_failed_sources_are_told():
    part = literature_part(
        citations(citation("contradiction"), citation("support", pmid="7"), citation("mention"), n_left_out=4)
    )
    assert (
        part.index("contradict the prediction (1)") < part.index("support the prediction (1)") < part.index("<details>")
    )
    assert "it answered 500, a fault of the service (3 tries)" in part
    assert "4 more are not listed" in part
    assert HOSTILE not in part
    assert "&lt;script&gt;" in part


def test_nothing_found_is_not_a_contradiction():
    part = literature_part(citations())
    assert "contradict the prediction (0)</h3><p>None found.</p>" in part
    assert "The absence of a statement is not a contradiction" in part


def test_why_no_source_was_asked_is_said():
    assert "The literature sources were not asked: x." in literature_part(
        Citations(reason="the literature sources were not asked: x")
    )
    assert "did not search the literature" in literature_part(None)


def test_notes_of_a_paper():
    part = literature_part(
        citations(citation("support", retracted=True, scored=False), citation("support", scored=False))
    )
    assert part.count("RETRACTED: not counted") == 1
    assert part.count("shown, not counted") == 1


def test_links_lead_to_the_identifier():
    both = citation("support", doi="10.1/a(b)<c>", pmid="7").paper
    assert paper_link(both) == "https://doi.org/10.1/a(b)%3Cc%3E"
    assert paper_link(both.model_copy(update={"doi": None})) == "https://pubmed.ncbi.nlm.nih.gov/7/"
    assert paper_link(citation("support").paper) is None


def test_bibtex_holds_the_papers_that_take_a_side_and_cannot_break_out():
    told = bibtex(
        citations(citation("support", title="50% of {x} \\input{y} & z", doi="10.1/a_b"), citation("mention"))
    )
    assert told.count("@article{pmid-7,") == 1
    assert "title = {50  of  x   input y    z}" in told
    assert "doi = {10.1/a_b}" in told
    assert told.count("{") == told.count("}")
