"""The matrix of a campaign: what lies where, what marks and colours say, that nothing is left out in silence."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PatchCollection

from haystack_kernel import pl
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.pl.figure import svg

NAN = float("nan")
pytestmark = pytest.mark.slow  # each draws a figure


def row(number, perturbation, cell_type, *, size=NAN, q=NAN, kind="unsupported", status="predicted", donor=""):
    return {
        "number": number,
        "perturbation": perturbation,
        "cell_type": cell_type,
        "donor": donor,
        "status": status,
        "bin": kind,
        "q": q,
        "size": size,
        "expected_r": size and 2 * size - 0.5,
    }


@pytest.fixture
def ranked():
    """Three treatments in two types: one grounded, one open, one refused, one that is not told, one not asked."""
    return pd.DataFrame(
        [
            row(4, "ruxolitinib", "T cell", size=0.4, q=0.001, kind="grounded"),
            row(1, "IFN-beta", "B cell", size=0.2, q=0.05, kind="open"),
            row(3, "ruxolitinib", "B cell", size=0.1, kind="open"),
            row(2, "IFN-beta", "T cell", status="refused"),
            row(5, "$x_{", "B cell", q=0.9),
        ]
    )


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_treatments_stand_in_the_order_given_and_types_as_they_were_asked(ranked):
    assert texts(pl.heat_map(ranked)) == ["ruxolitinib", "IFN-beta", "$x_{", "B cell", "T cell"]


def test_fields_have_the_colour_of_their_value_and_marks_say_the_bin(ranked):
    axes = pl.heat_map(ranked)
    (fields,) = (one for one in axes.collections if isinstance(one, PatchCollection))
    np.testing.assert_array_equal(fields.get_array(), [0.1, 0.4, 0.2])
    assert fields.norm.vmin == 0
    grounded, opened, absent, waiting = (one for one in axes.collections if not isinstance(one, PatchCollection))
    centres = sorted(path.vertices[:4].mean(axis=0).tolist() for path in fields.get_paths())
    marked = sorted([*grounded.get_offsets().tolist(), *opened.get_offsets().tolist()])
    np.testing.assert_allclose(marked, centres)
    assert len(grounded.get_offsets()) == 1
    assert len(grounded.get_facecolors()) == 1
    assert len(opened.get_facecolors()) == 0  # hollow: shape, not colour, tells them apart
    assert grounded.get_offsets()[0][0] > opened.get_offsets()[0][0]  # T cell is right of B cell
    assert len(absent.get_offsets()) == 1
    assert len(waiting.get_offsets()) == 0


def test_a_screen_is_drawn_as_its_ranked_table(ranked):
    assert pl.heat_map(SimpleNamespace(ranked=lambda: ranked)).get_label() == pl.heat_map(ranked).get_label()


def test_dots_grow_with_how_sure_a_row_is_and_what_was_not_tested_is_square(ranked):
    axes = pl.dot_plot(ranked, value="size")
    tested, untested, *_ = axes.collections
    np.testing.assert_array_equal(tested.get_array(), [0.4, 0.2])
    sizes = tested.get_sizes()
    assert sizes[0] > sizes[1] > 12
    assert tested.get_linewidths()[0] > tested.get_linewidths()[1]  # the rim of a grounded row
    assert untested.get_array().tolist() == [0.1]
    assert untested.get_paths()[0].vertices.shape != tested.get_paths()[0].vertices.shape


def test_signed_values_are_centred_at_zero(ranked):
    norm = pl.dot_plot(ranked, value="expected_r").collections[0].norm
    assert (norm.vmin, norm.vmax) == (-1, 1)  # a correlation has a scale of its own
    norm = pl.dot_plot(ranked.assign(toward=[0.1, -0.3, 0.2, NAN, NAN]), value="toward").collections[0].norm
    assert (norm.vmin, norm.vmax) == (-0.3, 0.3)


def test_the_alternative_text_states_counts_the_largest_and_the_first_grounded(ranked):
    assert pl.heat_map(ranked).get_label() == (
        "Heat map of 3 treatments by 2 cell types: 1 grounded, 2 open, 1 unsupported, 1 not predicted. Colour: size of "
        "the expected response (root mean square). Largest: ruxolitinib in T cell 0.4; IFN-beta in B cell 0.2; "
        "ruxolitinib in B cell 0.1. First of the bin grounded: ruxolitinib in T cell."
    )


def test_donors_are_columns_of_their_own_and_a_cell_is_never_drawn_over(ranked):
    by_donor = ranked.assign(donor=["", "d1", "d2", "", ""])
    assert texts(pl.heat_map(by_donor))[3:] == ["B cell, d1", "T cell", "B cell, d2", "B cell"]
    with pytest.raises(InvalidInputError, match="IFN-beta in B cell stands twice"):
        pl.heat_map(pd.concat([ranked, ranked.iloc[[1]]]))


def test_rows_that_were_not_understood_may_repeat_and_hide_no_prediction(ranked):
    more = [row(6, "", "B cell", status="refused"), row(7, "", "B cell", status="refused")]
    more.append(row(8, "IFN-beta", "B cell", status="refused"))
    axes = pl.heat_map(pd.concat([ranked, pd.DataFrame(more)]))
    assert texts(axes)[:4] == ["ruxolitinib", "IFN-beta", "$x_{", "?"]
    assert ": 1 grounded, 2 open, 1 unsupported, 2 not predicted." in axes.get_label()


def test_a_table_that_was_not_ranked_and_an_unknown_value_are_named(ranked):
    with pytest.raises(MissingKeyError, match=r"no column 'bin'; rank it first \(screen\.ranked\(\)\)"):
        pl.heat_map(ranked.drop(columns="bin"))
    with pytest.raises(InvalidInputError, match="'colour'; possible: size, toward"):
        pl.dot_plot(ranked, value="colour")


def test_147_rows_fit_a_page_in_three_blocks_and_follow_the_theme():
    rows = [
        row(2 * n + place, f"a drug with a long name, number {n}", kind, size=n / 147, q=1.0, kind="open")
        for n in range(147)
        for place, kind in enumerate(("B cell", "CD14-positive monocyte"))
    ]
    axes = pl.heat_map(pd.DataFrame(rows))
    width, height = axes.figure.get_size_inches()
    assert width < 8.5
    assert height < 11.7
    assert texts(axes).count("B cell") == 3
    names = [text for text in axes.texts if text.get_text().startswith("a drug")]
    assert len(names) == 147
    assert {text.get_fontsize() for text in names} == {8}
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in names[:49]]  # of the first block
    assert all(one.y0 >= two.y1 - 1 for one, two in itertools.pairwise(boxes))  # none over another
    drawn = svg(axes.figure)
    assert "currentColor" in drawn
    assert "#000000" not in drawn  # every letter and tick has the ink of the theme, those of the colour bar too
    few = pl.heat_map(pd.DataFrame(rows), n_top=20)
    assert few.get_xlabel() == "the first 20 of 147 treatments"
    assert few.get_label().startswith("Heat map of the first 20 of 147 treatments")


def test_an_empty_matrix_says_so(ranked):
    assert pl.heat_map(ranked.head(0)).get_label() == "A matrix of treatments by cell types without a question."
    assert pl.dot_plot(ranked.head(0)).get_label() == "A matrix of treatments by cell types without a question."


def test_nothing_known_is_drawn_without_a_colour(ranked):
    axes = pl.dot_plot(ranked.assign(size=NAN))
    assert "none is known" in axes.get_label()
    axes.figure.canvas.draw()
