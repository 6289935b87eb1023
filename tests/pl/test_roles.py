import pytest

from haystack_kernel import pl
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import Candidate, CellSet, Choice, Round


def candidate(name, *, perturbation="IFN-beta", donor_matched=True):
    prompt = CellSet(atlas="kang", dataset="kang", is_control=False, perturbation=perturbation, label=name)
    return Candidate(
        key=name,
        strategy="direct",
        prompt=prompt,
        control=None,
        control_reason="",
        donor_matched=donor_matched,
        relevance=1,
        evidence_distance="same_pair",
        reason="",
    )


@pytest.fixture
def make_run(record):
    def make(*names, perturbation="IFN-beta", donor_matched=True, **changes):
        chosen = Round(
            number=1,
            choice=Choice(candidate_keys=names, reason="because"),
            candidates=tuple(candidate(n, perturbation=perturbation, donor_matched=donor_matched) for n in names),
            query_cells="86 CD16 monocytes of 4 donors from kang",
            n_prompt=1234,
            n_control=606,
            n_query=86,
        )
        return record.model_copy(update={"rounds": (chosen.model_copy(update=changes),), "best_round": 1})

    return make


def texts(axes):
    return [" ".join(text.get_text().split()) for text in axes.texts if text.get_text()]


def test_roles_name_each_player_with_its_cells(make_run):
    shown = texts(pl.roles(make_run("B cell", "T cell")))
    assert "B cell; T cell treated with IFN-beta 1,234 cells of kang" in shown
    assert "the same cell types, unperturbed 606 cells of the same donors" in shown
    assert "CD16 monocytes to be transformed 86 cells" in shown
    assert "CD16 monocytes as if treated with IFN-beta 86 generated cells" in shown
    assert "engine weighted" in shown
    assert [text for text in shown if text.isupper()] == ["PROMPT", "CONTROL", "QUERY", "PREDICTED"]


def test_roles_take_the_name_of_the_query_set(make_run):
    cells = CellSet(atlas="kang", dataset="kang", is_control=True, label="plasma cell")
    assert "Query: plasma cell" in pl.roles(make_run("B cell").model_copy(update={"query_set": cells})).get_label()


def test_roles_say_when_control_is_missing_or_not_matched(make_run):
    assert "Control: none: no matched control." in pl.roles(make_run("B cell", n_control=0)).get_label()
    assert "606 cells donors not matched" in pl.roles(make_run("B cell", donor_matched=False)).get_label()


def test_roles_say_what_the_prediction_is_compared_with(make_run):
    synthetic = pl.roles(make_run("B cell")).get_label()
    assert synthetic.endswith("Compared with: a second prediction that takes the control cells as prompt.")
    other = pl.roles(make_run("B cell", control_strategy="query_as_control")).get_label()
    assert other.endswith("Compared with: the query cells as they were measured.")


def test_roles_of_an_unperturbed_prompt_name_no_treatment(make_run):
    alt = pl.roles(make_run("B cell", perturbation=None)).get_label()
    assert "Prompt: B cell, as they are" in alt
    assert "as the prompt suggests" in alt


def test_roles_with_many_long_names_stay_inside_their_boxes(make_run):
    names = [f"CD{n}-positive, alpha-beta regulatory memory T cell of $type_{{{n}" for n in range(12)]
    axes = pl.roles(make_run(*names, perturbation="a treatment with a very long name indeed " * 3))
    axes.figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in axes.patches[:4]]
    bodies = [text for text in axes.texts if "cells" in text.get_text() and "\n" in text.get_text()]
    inside = [text for text in bodies if not text.get_text().startswith("Compared")]
    assert len(inside) == 4
    for box, text in zip(boxes, inside, strict=True):
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0
        assert extent.x1 <= box.x1
        assert box.y0 <= extent.y0
        assert extent.y1 <= box.y1
    assert any("more" in text for text in texts(axes))


def test_roles_before_any_round_say_what_to_do(record):
    with pytest.raises(InvalidInputError, match="no round yet"):
        pl.roles(record)


def test_a_figure_takes_its_description_into_notebooks(make_run):
    axes = pl.roles(make_run("B cell"))
    data, metadata = axes.figure._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == data["text/plain"] == axes.get_label()
    assert axes.get_label().startswith("Roles of the cells. Prompt: B cell, treated with IFN-beta, 1,234 cells")


def test_a_figure_follows_the_theme_and_any_name_leaves_it_whole(make_run):
    import base64
    import re
    import xml.etree.ElementTree as ET

    for name in ("B\x1b[2J cell", "<script>x</script> & 'B'", "B\N{RIGHT-TO-LEFT OVERRIDE}llec", "$\\mathbf{x}$"):
        axes = pl.roles(make_run(name))
        shown = axes.figure._repr_mimebundle_()[0]["text/html"]
        data = base64.b64decode(re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', shown)[1])
        ET.fromstring(data)
        assert "currentColor" in data.decode()
        assert "prefers-color-scheme" in data.decode()
        assert not {"#000000", "#010203", "#ffffff"} & set(re.findall(r"#[0-9a-f]{6}", data.decode()))
        assert "\x1b" not in axes.get_label()
