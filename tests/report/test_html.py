import math

from haystack_kernel.report.html import (
    MISSING,
    STYLE,
    Html,
    bar,
    definitions,
    escape,
    folded,
    items,
    number,
    paragraph,
    table,
)
from haystack_kernel.texts import visible

NASTY = """<img src=x onerror="alert('1')">&"""
HARMLESS = "&lt;img src=x onerror=&quot;alert(&#x27;1&#x27;)&quot;&gt;&amp;"


def test_every_form_escapes_markup(subtests):
    for made in [
        escape(NASTY),
        paragraph(NASTY),
        paragraph("x", kind=NASTY),
        definitions({"name": NASTY}),
        definitions({NASTY: "x"}),
        items([NASTY]),
        table(["a"], [[NASTY]], caption="c"),
        table([NASTY], [["a"]], caption="c"),
        table(["a"], [["b"]], caption=NASTY),
        folded(NASTY, "x"),
        folded("x", NASTY),
    ]:
        with subtests.test(made=made):
            assert NASTY not in made
            assert HARMLESS in made


def test_number_is_short_and_nan_is_a_dash(subtests):
    for value, digits, shown in [
        (math.nan, 2, MISSING),
        (0.0, 2, "0.00"),
        (1234.5, 1, "1,234.5"),
        (0.0001, 3, "1e-4"),
        (2.04e-27, 3, "2e-27"),
        (2.14e-27, 3, "2.1e-27"),
        (-0.5, 2, "-0.50"),
    ]:
        with subtests.test(value=value):
            assert number(value, digits=digits) == shown


def test_bar_runs_from_chance_to_ten(subtests):
    for score, width in [(1.0, "0%"), (5.5, "50%"), (10.0, "100%"), (0.0, "0%"), (99.0, "100%")]:
        with subtests.test(score=score):
            assert f'style="width:{width}"' in bar(score)
            assert f" {score:.1f}</span>" in bar(score)


def test_bar_of_nan_says_so_in_words():
    assert "not computed" in bar(math.nan)


def test_table_aligns_numbers_and_names_rows_and_columns():
    made = table(["name", "n", "mixed"], [["a", 1, "x"], ["b", math.nan, 2]], caption="All", kind="sortable")
    assert made.count('<th scope="col"') == 3
    assert '<th scope="col" class="number">n</th>' in made
    assert '<th scope="col" style="text-align:left">mixed</th>' in made  # holds where a front end strips our style
    assert made.count('<th scope="row"') == 2
    assert f'<td class="number" data-value="nan">{MISSING}</td>' in made
    assert "<caption><span>All</span></caption>" in made


def test_table_lets_only_long_texts_break():
    made = table(["a", "b", "c"], [["short", "x" * 30, "y" * 200]], caption="c")
    assert f' class="long">{"x" * 30}' in made
    assert f' class="longer">{"y" * 200}' in made
    assert '<th scope="row" style="text-align:left">short' in made


def test_definitions_leave_out_what_is_empty():
    assert repr(Html(definitions({"a": "", "b": None, "c": 0}))) == "c: 0"


def test_html_reads_as_text_in_a_terminal():
    made = Html(table(["a", "b"], [["x & y", 1], ["細胞", 1000]], caption="Cells") + folded("why", "because"))
    assert repr(made).splitlines() == ["Cells", "a          b", "x & y      1", "細胞   1,000", "why", "because"]


def test_in_a_notebook_style_outweighs_the_front_end_and_the_script_comes_with_sortable_tables():
    made = Html(table(["a"], [["x"]], caption="c", kind="sortable"))
    shown = made._repr_html_()
    assert ".haystack.haystack.haystack td" in shown
    assert "<script>" in shown
    assert "<script>" not in Html(paragraph("x"))._repr_html_()
    assert ":where" not in STYLE  # pages have no foreign rules to undo


def test_what_could_mislead_a_reader_is_made_visible(subtests):
    for given, shown in [
        ("B\u202ellec", "B⟨U+202E⟩llec"),
        ("\x1b[2J\x07", "⟨U+001B⟩[2J⟨U+0007⟩"),
        ("خلية B\ttab\n", "خلية B\ttab\n"),
    ]:
        with subtests.test(given=given):
            assert visible(given) == escape(given) == shown


def test_amounts_are_right_aligned_like_numbers():
    made = table(["what", "cost"], [["low", "0.08 USD"]], caption="c", amounts=("cost",))
    assert '<td class="number">0.08 USD</td>' in made
    assert '<th scope="col" class="number">cost</th>' in made
