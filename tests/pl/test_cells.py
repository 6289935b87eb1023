import numpy as np
import pandas as pd
import pytest

from haystack_kernel import pl


@pytest.fixture
def embedding():
    roles = ["query"] * 3 + ["control"] * 4 + ["prompt"] * 5 + ["predicted"] * 3
    places = np.arange(30.0).reshape(15, 2)
    return pd.DataFrame({"cell_id": range(15), "role": roles, "umap1": places[:, 0], "umap2": places[:, 1]})


def test_map_draws_each_cell_in_its_place_and_role(embedding):
    axes = pl.umap(embedding)
    drawn = {part.get_label(): np.asarray(part.get_offsets()) for part in axes.collections}
    assert set(drawn) == {"query (3)", "control (4)", "prompt (5)", "predicted (3)"}
    for label, offsets in drawn.items():
        expected = embedding.loc[embedding["role"] == label.split()[0], ["umap1", "umap2"]]
        assert np.array_equal(offsets, expected.to_numpy())


def test_map_tells_roles_by_shape_and_names_query_and_prediction(embedding):
    axes = pl.umap(embedding)
    assert len({part.get_paths()[0].vertices.tobytes() for part in axes.collections}) == 4
    assert {text.get_text(): text.xy for text in axes.texts} == {"query": (2, 3), "predicted": (26, 27)}


def test_map_alt_text_states_the_numbers(embedding):
    alt = pl.umap(embedding).get_label()
    assert alt == "Map of 4 control, 5 prompt, 3 query, 3 predicted cells in two dimensions (UMAP 1, UMAP 2)."


def test_map_of_principal_components_says_so(embedding):
    alt = pl.umap(embedding.rename(columns={"umap1": "pc1", "umap2": "pc2"})).get_label()
    assert alt.endswith("in two dimensions (PC 1, PC 2).")


def test_map_without_control_or_cells_still_draws(embedding):
    assert "control" not in pl.umap(embedding[embedding["role"] != "control"]).get_label()
    axes = pl.umap(embedding.head(0))
    assert "no cells" in axes.get_label()
    axes.figure.canvas.draw()


def test_map_leaves_the_table_alone_and_draws_on_given_axes(embedding):
    from matplotlib import pyplot as plt

    before = embedding.copy(deep=True)
    given = plt.subplots()[1]
    assert pl.umap(embedding, ax=given) is given
    pd.testing.assert_frame_equal(embedding, before)
