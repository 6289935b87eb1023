import itertools

import numpy as np
import pandas as pd
import pytest

from haystack_kernel import pl


@pytest.fixture
def de():
    """Twenty genes rise and twenty fall, ever less; five do not move; one was not tested."""
    size = np.linspace(5, 1, 20)
    log2fc = np.concatenate([size, -size, np.zeros(5), [9.0]])
    names = [f"UP{n}" for n in range(20)] + [f"DOWN{n}" for n in range(20)] + [f"FLAT{n}" for n in range(5)] + ["NONE"]
    padj = np.concatenate([np.full(40, 1e-8), np.full(5, 0.5), [np.nan]])
    return pd.DataFrame(
        {
            "gene": names,
            "log2fc": log2fc,
            "delta": log2fc / 3,
            "padj": padj,
            "is_de": [True] * 40 + [False] * 6,
        }
    )


def marks(axes):
    return [np.asarray(part.get_offsets()) for part in axes.collections]


def test_volcano_draws_each_tested_gene_where_its_values_say(de):
    calm, rises, falls = marks(pl.volcano(de))
    assert np.allclose(rises, np.column_stack([de["log2fc"][:20], np.full(20, 8.0)]))
    assert np.allclose(falls, np.column_stack([de["log2fc"][20:40], np.full(20, 8.0)]))
    assert np.allclose(calm, np.column_stack([np.zeros(5), -np.log10(np.full(5, 0.5))]))


def test_volcano_tells_up_from_down_by_shape_too(de):
    shapes = {part.get_paths()[0].vertices.tobytes() for part in pl.volcano(de).collections}
    assert len(shapes) == 3


def test_volcano_names_the_largest_changes_of_both_sides(de):
    names = {text.get_text() for text in pl.volcano(de, n_labels=16).texts}
    assert names == {f"UP{n}" for n in range(8)} | {f"DOWN{n}" for n in range(8)}


def test_volcano_gives_unused_names_to_the_other_side(de):
    only_up = de.assign(is_de=de["gene"].str.startswith("UP") | (de["gene"] == "DOWN3"))
    names = {text.get_text() for text in pl.volcano(only_up, n_labels=6).texts}
    assert names == {"UP0", "UP1", "UP2", "UP3", "UP4", "DOWN3"}


def test_volcano_alt_text_states_the_numbers(de):
    alt = pl.volcano(de, n_labels=2).get_label()
    assert alt == "Volcano plot of 45 tested genes: 20 rise and 20 fall. Largest effects: up UP0; down DOWN0."


def test_volcano_draws_p_of_zero_at_the_floor(de):
    axes = pl.volcano(de.assign(padj=de["padj"].where(de["gene"] != "UP0", 0.0)))
    assert marks(axes)[1][0, 1] == pytest.approx(300)


def test_volcano_without_calls_or_tests_still_draws(de):
    for change in ({"is_de": False}, {"padj": np.nan}):
        axes = pl.volcano(de.assign(**change))
        assert "none" in axes.get_label()
        axes.figure.canvas.draw()


def test_volcano_survives_names_that_look_like_formulas_and_are_long(de):
    axes = pl.volcano(de.assign(gene=r"$\frac{" + "x" * 400))
    axes.figure.canvas.draw()
    assert all(len(text.get_text()) <= 14 for text in axes.texts)


def test_volcano_leaves_the_table_alone_and_draws_on_given_axes(de):
    from matplotlib import pyplot as plt

    before = de.copy(deep=True)
    given = plt.subplots()[1]
    assert pl.volcano(de, ax=given) is given
    pd.testing.assert_frame_equal(de, before)


def test_volcano_labels_keep_their_distance(de):
    axes = pl.volcano(de)
    axes.figure.canvas.draw()
    renderer = axes.figure.canvas.get_renderer()
    for side in ("left", "right"):
        texts = [text for text in axes.texts if text.get_horizontalalignment() == side]
        boxes = sorted((text._get_layout(renderer)[0].height, text.get_position()[1]) for text in texts)
        heights = sorted(place for _, place in boxes)
        gap = min(after - before for before, after in itertools.pairwise(heights)) * axes.get_window_extent().height
        assert gap >= max(height for height, _ in boxes)
