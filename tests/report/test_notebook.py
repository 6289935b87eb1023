import nbformat

from haystack_kernel.report import notebook as view
from haystack_kernel.report.notebook import notebook_fragment

new_output = nbformat.v4.new_output


def test_code_is_folded_under_its_first_line_and_markdown_sinks_below_the_page(make_notebook):
    made = notebook_fragment(make_notebook(markdown="# Title\n\n## Part\n\nSome *words*"))
    assert "<h3" in made
    assert "<h4" in made
    assert "<h1" not in made
    assert "<em>words</em>" in made
    assert "<details><summary>code: default parameters</summary>" in made
    assert "<details><summary>code: first() …</summary><pre>first()\nsecond()</pre></details>" in made
    assert "In [" not in made


def test_scripts_in_markdown_code_and_outputs_are_gone_or_escaped(make_notebook):
    nasty = "<script>alert(1)</script>"
    outputs = [
        new_output("display_data", data={"text/html": f"<b>bold</b>{nasty}"}),
        new_output("display_data", data={"text/plain": nasty}),
        new_output("stream", text=nasty),
        new_output("error", ename="E", evalue=nasty, traceback=[f"\x1b[31m{nasty}\x1b[0m"]),
        new_output("display_data", data={"application/javascript": "alert(1)", "text/plain": "said"}),
        new_output("display_data", data={"text/markdown": f"[x](javascript:alert(1)) {nasty}"}),
    ]
    made = notebook_fragment(
        make_notebook(*outputs, markdown=f"{nasty}\n\n[x](javascript:alert(1)) <img src=x onerror=alert(1)>")
    )
    assert "<script" not in made
    assert 'href="javascript' not in made
    assert made.count(">x</a>") == 2
    assert "onerror" not in made
    assert "<b>bold</b>" in made
    assert made.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert "\x1b" not in made
    assert ">said</pre>" in made


def test_figures_take_their_alternative_text_from_the_output_or_the_heading_above(make_notebook, picture):
    made = notebook_fragment(make_notebook(picture('two "groups"'), picture()))
    assert 'alt="two &quot;groups&quot;"' in made
    assert 'alt="Figure of the notebook, under the heading &#x27;Title&#x27;"' in made


def test_pictures_win_over_text_and_html_over_plain(make_notebook, picture):
    both = new_output("execute_result", data={"text/html": "<i>rich</i>", "text/plain": "poor"})
    made = notebook_fragment(make_notebook(both))
    assert "<i>rich</i>" in made
    assert "poor" not in made


def test_figures_of_ours_follow_the_theme_of_the_page(make_notebook, picture):
    import base64

    drawn = base64.b64encode(b"<svg/>").decode()
    image = f'<img alt="a plot" src="data:image/svg+xml;base64,{drawn}">'
    output = picture("a plot")
    output.data["text/html"] = f'<div class="haystack-figure">{image}</div>'
    page = notebook_fragment(make_notebook(output))
    assert drawn in page
    assert "image/png" not in page


def test_widgets_show_their_static_form(make_notebook):
    mime = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/html": "<p>still</p>"}
    made = notebook_fragment(make_notebook(new_output("display_data", data=mime)))
    assert "<p>still</p>" in made
    assert "model_id" not in made


def test_long_texts_are_cut_and_huge_outputs_left_out(make_notebook):
    long = new_output("stream", text="x" * (view.MAX_TEXT + 7))
    made = notebook_fragment(make_notebook(long))
    assert "7 more characters are in the notebook" in made
    huge = new_output("display_data", data={"image/png": "A" * (view.MAX_BYTES + 1)})
    made = notebook_fragment(make_notebook(huge, new_output("stream", text="after")))
    assert len(made) < 10_000
    assert "was omitted" in made
    assert ">after</pre>" in made


def test_rendering_leaves_the_notebook_as_it_was(make_notebook, picture):
    notebook = make_notebook(picture())
    before = nbformat.writes(notebook)
    notebook_fragment(notebook)
    assert nbformat.writes(notebook) == before
