"""Reverse questions read by rule: what is sought, for which cells, toward which state."""

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.planners.offline.seeking import parse_seek


def read(question, **options):
    return parse_seek(question, knowledge=load_knowledge(), **options)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (
            "Which cytokine moves B cells toward IFN-beta-treated CD14 monocytes?",
            "which cytokine moves B cell toward CD14-positive monocyte under IFN-beta",
        ),
        ("what treatment would make monocytes more like M2 macrophages", "which treatment moves monocyte toward "),
        (
            "Which knock-out moves THP-1 cells toward IFNGR2-KO?",
            "which knock-out moves THP-1 toward THP-1 under IFNGR2",
        ),
        (
            "Which drug moves IFN-beta treated B cells back to the untreated state?",
            "which drug moves B cell under IFN-beta toward their untreated state",
        ),
        (
            "Which compounds push NK cells away from the type I interferon response state?",
            "which drug moves natural killer cell away from type I interferon response",
        ),
        (
            "Which drug reverses the effect of IFN-beta in B cells?",
            "which drug moves B cell away from B cell under IFN-beta",
        ),
        ("Which drug mimics IFN-beta in B cells?", "which drug moves B cell toward B cell under IFN-beta"),
    ],
)
def test_a_question_is_read_as_what_is_sought(question, words):
    found = read(question)
    assert found.words.startswith(words)
    assert not found.unused


@pytest.mark.parametrize(
    ("target", "genes"),
    [
        ("high ISG15 and MX1 and IFIT3, low CXCL8 and IL6", {"ISG15": 1, "MX1": 1, "IFIT3": 1, "CXCL8": -1, "IL6": -1}),
        ("ISG15+ MX1+ CXCL8-", {"ISG15": 1, "MX1": 1, "CXCL8": -1}),
        ("ISG15 up, MX1 up, CXCL8 down", {"ISG15": 1, "MX1": 1, "CXCL8": -1}),
        ("less CXCL8, IL1B and more ISG15", {"CXCL8": -1, "IL1B": -1, "ISG15": 1}),
    ],
)
def test_genes_of_a_target_have_the_direction_that_stands_beside_them(target, genes):
    found = read(f"Which treatment moves B cells toward {target}?")
    assert (found.target_kind, found.genes) == ("genes", genes)


def test_words_that_nothing_was_made_from_are_listed():
    found = read("Which drug moves lung fibroblasts of smokers toward the hypoxia response?")
    assert found.target_kind == "set"
    assert set(found.unused) >= {"smokers"}


def test_a_state_that_was_given_is_only_named_by_the_question():
    found = read("Which drug moves B cells toward my favourite state?", is_given=True)
    assert (found.target_kind, found.target, found.unused) == ("given", "my favourite state", ())


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("How would B cells respond to IFN-beta?", "is not read as a question for a treatment"),
        ("Which drug moves foo cells toward IFN-beta-treated B cells?", "'foo cells' is no known cell type; near are"),
        ("Which drug moves B cells toward bliss?", "'bliss' is not understood as a target state"),
        ("Which drug moves B cells toward ISG15+ MX1+?", "names 2 genes .ISG15, MX1., and 3 are needed"),
        ("Which drug moves B cells toward the hypoxic response?", "Pathways of a similar name: hypoxia response"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_possible(question, message):
    with pytest.raises(InvalidInputError, match=message):
        read(question)
