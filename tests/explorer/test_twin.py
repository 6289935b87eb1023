"""The static picture: it shows what is chosen, describes itself, and no name in it becomes markup."""

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from haystack_kernel.explorer import Explorer
from haystack_kernel.explorer.state import ExplorerState
from haystack_kernel.explorer.svg import Drawing, density, limits
from haystack_kernel.explorer.twin import static_html

NASTY = "</text><script>alert(1)</script><img src=x onerror=alert(2)>\u202egene"


def pictures(html):
    """Alternative text and root element of every drawing; a drawing that is no XML fails."""
    found = re.findall(r'<img alt="([^"]*)"[^>]* src="data:image/svg\+xml;base64,([^"]+)">', html)
    return [(alt, ET.fromstring(base64.b64decode(data))) for alt, data in found]


def test_pictures_and_tables_show_what_is_chosen(state):
    state.choose_gene("STAT1")
    state.choose_pathway("type I interferon response")
    state.choose_side("baseline mean")
    state.select_group("query")
    html = static_html(state)
    assert "24 cells selected" in html
    assert state.agreement().words in html
    alts = [alt for alt, _ in pictures(html)]
    assert [text.split()[0] for text in alts] == ["Map", "Map", "Volcano", "Violins", "Predicted"]
    assert "STAT1" in alts[1]
    assert "of pathway type I interferon response marked" in alts[2]
    assert f"query {state.groups()['cell_type_name'].iloc[-2]}" in alts[3]
    assert html.count("<table") == 4
    assert len(html) < 300_000


def test_names_of_cells_and_genes_are_never_markup(data):
    table = data.de.assign(gene=[NASTY, *data.de["gene"].iloc[1:]])
    table.loc[0, ["is_tested", "is_de", "delta"]] = [True, True, 99.0]
    pathways = data.pathways.assign(pathway=[f"{NASTY}{i}" for i in range(len(data.pathways))])
    parts = [replace(arm, table=arm.table.assign(cell_type_name=NASTY)) for arm in data.arms.parts]
    arms = replace(data.arms, parts=tuple(parts))
    html = static_html(ExplorerState(replace(data, de=table, pathways=pathways, notes=(NASTY,), arms=arms)))
    assert "<script" not in html
    assert "onerror=alert(2)>" not in html
    for _, root in pictures(html):
        assert {element.tag.split("}")[1] for element in root.iter()} <= {"svg", "style", "path", "text"}


def test_an_explorer_without_widgets_is_its_static_picture(state):
    explorer = Explorer(state)
    explorer.select_group("predicted")
    assert repr(explorer) == f"Explorer({state.data.record.run_id!r}, gene {state.gene!r}, 24 cells selected)"
    assert "24 cells selected" in explorer._repr_html_()
    assert len(explorer.selected_cells()) == 24
    explorer.select(None)
    assert len(explorer.cells()) == len(state.data.arms)
    assert set(explorer.sides) == set(state.data.sides)


def test_a_drawing_holds_its_points_inside_its_margins():
    drawing = Drawing(width=100, height=50, x=(0, 10), y=(0, 1), margin=(10, 5, 10, 5))
    across, down = drawing.at([0, 10], [0, 1])
    assert (across.tolist(), down.tolist()) == ([10, 90], [45, 5])
    same = Drawing(width=100, height=50, x=(3, 3), y=(0, 1))
    assert same.at([3], [0])[0] == pytest.approx((44 + 90) / 2)
    assert limits([float("nan")]) == (0, 1)


def test_density_is_highest_where_the_values_are():
    places, wide = density([2.0, 2.1, 1.9, 2.0, 6.0], top=6.0)
    assert wide.max() == 1
    assert places[wide.argmax()] == pytest.approx(2.0, abs=0.4)
    assert density([0.0], top=0.0)[1].max() == 1
