"""What a figure brings into a notebook."""

import io

from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from traitlets.config import Config

from haystack_kernel.pl.figure import svg
from haystack_kernel.pl.style import _spare_a_picture, finish, new_axes


def test_a_notebook_shows_the_picture_that_a_figure_brings_and_draws_no_other():
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        drawn = []
        shell.display_formatter.formatters["image/png"].for_type(Figure, drawn.append)  # as matplotlib's inline backend
        _spare_a_picture()
        axes = finish(new_axes(width=2, height=1), alt="empty axes", show=False)
        shown, told = shell.display_formatter.format(axes.figure)
        assert drawn == []
        assert shown["image/png"].startswith("iVBORw0KGgo")
        assert told["image/png"] == {"alt": "empty axes"}
    finally:
        InteractiveShell.clear_instance()


def test_a_figure_laid_out_without_being_drawn_is_the_one_that_matplotlib_lays_out():
    def made():
        axes = new_axes(width=3, height=2)
        axes.scatter(range(700), range(700), rasterized=True, label="points")
        axes.set(xlabel="a label", ylabel="a label of\ntwo lines", yticks=[0, 700], yticklabels=["low", "very high"])
        axes.annotate("named", (350, 350), xytext=(0.9, 0.1), textcoords="axes fraction", arrowprops={})
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
        return finish(axes, alt="points", show=False).figure

    whole = made()
    whole.savefig(io.BytesIO(), format="svg", dpi=110)
    whole.set_layout_engine("none")  # which keeps the places that matplotlib found
    ours = made()
    assert svg(ours) == svg(whole)
    assert not ours.is_only_laid_out
    narrow = made()
    narrow.set_layout_engine("none")
    assert svg(narrow) != svg(whole)
