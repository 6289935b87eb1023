"""The card of a screen: counts, the false discovery rate in words, every question, and why some have no prediction."""

import pytest

from haystack_kernel.campaign.rank import BIN_RULES, rank_questions, words_of
from haystack_kernel.report import screen_card
from tests.campaign.conftest import made  # noqa: F401 - a fixture


@pytest.fixture
def card(made):  # noqa: F811
    table = made(
        {"perturbation": "IFN-beta"},
        {"perturbation": "<b>drug</b>", "p_response": 0.9, "n_called": 0, "expected_low": -0.2},
        {"perturbation": "XQ-99", "status": "refused", "reason": "'XQ-99' is not known; the nearest known: XK-9"},
        {"perturbation": "XQ-98", "status": "refused", "reason": "'XQ-99' is not known; the nearest known: XK-9"},
        {"perturbation": "IL-6", "status": "failed", "reason": "out of memory"},
    )
    facts = {"engines": "weighted", "folder": "/storage/<x>", "not understood": ""}
    ranked = rank_questions(table)
    return screen_card(ranked, name="screen-0123456789ab", found=words_of(ranked), facts=facts, rules=BIN_RULES)


def test_a_terminal_reads_what_was_found_and_how_many_are_expected_to_be_false(card):
    lines = repr(card).splitlines()
    assert lines[0] == "5 treatments in 1 cell type: 5 questions"
    assert "status: 2 predicted, 2 refused, 1 failed" in lines
    said = (
        "found: 1 of 2 tested questions, at a false discovery rate of 10%: about 0.1 of them are expected to be false"
    )
    assert said in lines
    assert any(line.startswith("grounded: 1: all three hold") for line in lines)
    assert not any(line.startswith("not understood") for line in lines)
    row = next(line for line in lines if "IFN-beta" in line)
    assert "grounded" in row
    assert "0.60 (0.30 to 0.80)" in row


def test_every_question_has_a_row_and_each_reason_is_told_once(card):
    text = repr(card)
    assert text.count("'XQ-99' is not known") == 3  # two rows, one reason
    assert "refused: XQ-99 in B cell and 1 more: 'XQ-99' is not known" in text
    assert "failed: IL-6 in B cell: out of memory" in text


def test_names_are_shown_as_they_are_written(card):
    page = card._repr_html_()
    assert "<b>drug</b>" not in page
    assert "&lt;b&gt;drug&lt;/b&gt;" in page
    assert "/storage/&lt;x&gt;" in page
    assert 'class="sortable"' in page
