import math

from haystack_kernel.report.html import MISSING, Html, bar, definitions, escape, folded, items, number, paragraph, table

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
    assert '<th scope="col">mixed</th>' in made
    assert made.count('<th scope="row"') == 2
    assert f'<td class="number" data-value="nan">{MISSING}</td>' in made
    assert "<caption><span>All</span></caption>" in made


def test_table_lets_only_long_texts_break():
    made = table(["a", "b", "c"], [["short", "x" * 30, "y" * 200]], caption="c")
    assert f'<td class="long">{"x" * 30}' in made
    assert f'<td class="longer">{"y" * 200}' in made
    assert '<th scope="row">short' in made


def test_definitions_leave_out_what_is_empty():
    assert definitions({"a": "", "b": None, "c": 0}) == '<dl class="facts"><dt>c</dt><dd>0</dd></dl>'


def test_html_reads_as_text_in_a_terminal():
    made = Html(table(["a", "b"], [["x & y", 1]], caption="Cells"))
    assert repr(made) == "Cells\na b\nx & y 1"
    assert made._repr_html_().startswith('<div class="haystack"><style>')
