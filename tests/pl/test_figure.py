"""What a figure brings into a notebook."""

from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from traitlets.config import Config

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
