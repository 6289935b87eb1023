"""The part on papers: order, links, hostile text, BibTeX."""

from datetime import UTC, datetime

from haystack_kernel.report.literature import bibtex, literature_part, paper_link
from haystack_kernel.schema import Citation, Citations, ModelReadings, Paper, Quote, SourceAnswer

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


# --- read by a language model as well ---------------------------------------------------------------------------------

SIGNS = {"support": 1, "contradiction": -1, "mention": 0}


def read_in(number, stance, *, gene="IL6", start=0):
    """A paper of that number in which something was read."""
    paper = Paper(id=f"pmid:{number}", title=f"Study {number} {HOSTILE}", sources=("pubmed",))
    quote = f"Sentence {number}-{start}."
    said = Quote(gene=gene, direction=SIGNS[stance], stance=stance, quote=quote, where="abstract", start=start, end=20)
    return Citation(paper=paper, scored=True, quotes=(said,))


def read_twice(by_rules, by_model, **facts):
    numbers = {item.paper.id for item in (*by_rules, *by_model)}
    read = ModelReadings(reader="claude-test", read=tuple(sorted(numbers)), citations=tuple(by_model), **facts)
    return literature_part(citations(*by_rules), readings=read)


def test_both_readings_stand_at_their_sentence_and_what_only_the_model_found_is_shown():
    part = read_twice([read_in(1, "support")], [read_in(1, "support"), read_in(2, "support")])
    assert part.count("<blockquote>") == 2
    assert "by rules: IL6 \u25b2 rises (support)" in part
    assert part.count("by claude-test: IL6 \u25b2 rises (support)") == 2
    assert "by rules: nothing" in part
    assert "support the prediction (2)" in part
    assert HOSTILE not in part


def test_a_contradiction_that_only_the_model_reads_comes_first_and_is_named_a_disagreement():
    agreed, turned = read_in(1, "support"), read_in(2, "support")
    part = read_twice([agreed, turned], [agreed, read_in(2, "contradiction")])
    assert "contradict the prediction (1)" in part
    assert part.index("Study 2") < part.index("Study 1")
    assert "the rules and claude-test disagree on IL6" in part
    assert "The two disagree on 1 paper." in part


def test_disagreements_lead_their_group_and_silence_of_both_is_none():
    rules = [read_in(1, "support"), read_in(2, "support"), read_in(3, "mention")]
    part = read_twice(rules, [read_in(1, "support")])
    assert part.index("Study 2") < part.index("Study 1") < part.index("Study 3")
    assert part.count("disagree on IL6") == 1


def test_a_paper_that_the_model_was_not_shown_is_not_disputed():
    readings = ModelReadings(reader="claude-test", read=("pmid:1",))
    part = literature_part(citations(read_in(1, "support"), read_in(2, "support")), readings=readings)
    assert part.count("disagree on IL6") == 1
    assert "claude-test" not in part[part.index("Study 2") :].partition("</div>")[0]


def test_unproven_sentences_are_counted_and_a_reason_stands_in_place_of_readings():
    assert "1 sentence that it gave was left out" in read_twice([read_in(1, "support")], [], n_unproven=1)
    assert "2 sentences that it gave were left out" in read_twice([read_in(1, "support")], [], n_unproven=2)
    reason = ModelReadings(reader="claude-test", reason="the budget of this run is used up")
    part = literature_part(citations(read_in(1, "support")), readings=reason)
    assert "No language model read these papers: the budget of this run is used up." in part


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
