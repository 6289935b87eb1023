"""A quotation is found in its paper or refused; nothing that merely resembles it passes."""

import pytest

from haystack_kernel.literature.quoting import prove
from haystack_kernel.schema import Paper

PAPER = Paper(
    id="pmid:1",
    title="IFN-\u03b2 and its genes",
    abstract=(
        "Background was poor. IFN-\u03b2 raised STAT1 in 3.5% of B\u00a0cells (p < .05). It did not raise IL6! "
        "The patient\u2019s cells kept \u201cdiscs\u201d of MX1."
    ),
    sources=("pubmed",),
)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "IFN-\u03b2 raised STAT1 in 3.5% of B cells (p < .05).",
            "IFN-\u03b2 raised STAT1 in 3.5% of B\u00a0cells (p < .05).",
        ),
        ("ifn\u2011\u03b2 RAISED stat1   in\n3.5%", "IFN-\u03b2 raised STAT1 in 3.5% of B\u00a0cells (p < .05)."),
        ("It did not raise IL6", "It did not raise IL6!"),
        ('patient\'s cells kept "discs" of MX1', "The patient\u2019s cells kept \u201cdiscs\u201d of MX1."),
        (
            "did not raise IL6! The patient's cells",
            "It did not raise IL6! The patient\u2019s cells kept \u201cdiscs\u201d of MX1.",
        ),
        ("IFN-\u03b2 and its genes", "IFN-\u03b2 and its genes"),
    ],
)
def test_words_of_the_paper_give_their_whole_sentences_and_the_place(words, sentence):
    proof = prove(PAPER, words)
    assert proof.quote == sentence
    text = PAPER.title if proof.where == "title" else PAPER.abstract
    assert text[proof.start : proof.end] == sentence


@pytest.mark.parametrize(
    "words",
    [
        "IFN-\u03b2 raised STAT2 in 3.5% of B cells",  # another gene
        "It did raise IL6! The patient's",  # a word left out
        "raised STAT1 in 3.5% of B cells, (p < .05)",  # a comma more
        "FN-\u03b2 raised STAT1 in 3.5%",  # half a word
        "STAT1 in 3.5",  # too short
        "",
        "and its genes Background was poor",  # title and abstract are two texts
        "3\u22c55% of B cells (p < .05)",  # another sign
        ".* .* .* .*",
    ],
)
def test_anything_else_is_no_quotation(words):
    assert prove(PAPER, words) is None


def test_letters_whose_lower_case_is_longer_do_not_shift_the_place():
    paper = PAPER.model_copy(update={"abstract": "\u0130\u0130 cells differ. IFN-beta raised STAT1 in them."})
    assert prove(paper, "ifn-beta raised stat1 in").quote == "IFN-beta raised STAT1 in them."
