import numpy as np
import pandas as pd
import pytest

from haystack_kernel import pl


@pytest.fixture
def pathways():
    """One expected that leads, one expected that hardly moves, two that fall and rise, one not computed."""
    return pd.DataFrame(
        {
            "pathway": ["leads", "expected but still", "falls", "rises", "not computed"],
            "statistic": [1.5, 0.01, -0.75, 0.5, np.nan],
            "score": [10.0, np.nan, 2.5, 4.0, np.nan],
            "p_specificity": [0.0001, 0.5, 0.1, 0.05, np.nan],
            "is_expected": [True, True, False, False, False],
        }
    )


def bars(axes):
    return {round(bar.get_y() + bar.get_height() / 2): bar for bar in axes.patches}


def test_bars_have_the_lengths_of_the_statistics_in_their_order(pathways):
    axes = pl.pathway_bars(pathways)
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["falls", "expected but still", "rises", "leads"]
    assert [bars(axes)[row].get_width() for row in range(4)] == pytest.approx([-0.75, 0.01, 0.5, 1.5])


def test_bars_show_what_is_expected_by_hatching_not_colour_alone(pathways):
    axes = pl.pathway_bars(pathways)
    assert [bool(bars(axes)[row].get_hatch()) for row in range(4)] == [False, True, False, True]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"expected by the question", "not expected"}


def test_bars_carry_their_scores(pathways):
    assert [text.get_text() for text in pl.pathway_bars(pathways).texts] == [
        "score 2.5",
        "not scored",
        "score 4.0",
        "score 10.0",
    ]


def test_bars_keep_the_expected_when_there_is_room_for_few(pathways):
    axes = pl.pathway_bars(pathways, n_top=3)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["falls", "expected but still", "leads"]


def test_bars_alt_text_states_the_numbers(pathways):
    assert pl.pathway_bars(pathways).get_label() == (
        "Bars of 4 signed pathway statistics; highest: leads +1.50; lowest: falls -0.75; "
        "expected by the question: leads +1.50, expected but still +0.01."
    )


def test_bars_of_an_empty_table_say_so(pathways):
    axes = pl.pathway_bars(pathways.head(0))
    assert axes.get_label() == "No pathway could be tested."
    axes.figure.canvas.draw()


def test_bars_survive_long_names_and_formulas_and_leave_the_table_alone(pathways):
    strange = pathways.assign(pathway=["$x_{", "word " * 60, "y" * 300, "$", "z"])
    before = strange.copy(deep=True)
    axes = pl.pathway_bars(strange)
    axes.figure.canvas.draw()
    pd.testing.assert_frame_equal(strange, before)
    assert max(len(line) for tick in axes.get_yticklabels() for line in tick.get_text().split("\n")) <= 38
