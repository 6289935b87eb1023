"""Colours, marks and sizes of all figures, colour-blind safe and readable in grey.

In: a role or a sign. Out: a colour (Okabe-Ito) and a marker; colour is never the only difference.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.texts import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

BLUE, VERMILION, GREEN, YELLOW, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#8C8C8C"
SKY_BLUE = "#56B4E9"  # instead of blue on dark pages
INK, PAPER = "#010203", "#fdfefc"  # practically black and white; figure.py lets them follow the reader's theme
SMALL = 8  # points; nothing is written smaller

ROLE_COLOURS = {keys.PROMPT: VERMILION, keys.CONTROL: BLUE, keys.QUERY: "#6B6B6B", keys.PREDICTED: GREEN}
ROLE_MARKERS = {keys.PROMPT: "^", keys.CONTROL: "s", keys.QUERY: "o", keys.PREDICTED: "D"}


def new_axes(*, width: float, height: float) -> Axes:
    """Make axes on a new figure (size in inches), without the top and right spines."""
    from matplotlib import pyplot as plt

    from haystack_kernel.pl.figure import DescribedFigure

    figure = plt.figure(figsize=(width, height), layout="constrained", FigureClass=DescribedFigure)
    axes: Axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def in_ink(axes: Axes) -> None:
    """Give what matplotlib draws in black the ink of the theme: spines, ticks and every text without another colour."""
    from matplotlib.text import Text

    for spine in axes.spines.values():
        spine.set_edgecolor(INK)
    axes.tick_params(color=INK, labelcolor=INK)
    legend = axes.get_legend()
    for text in [*axes.findobj(Text), *(legend.get_texts() if legend else ())]:
        if text.get_color() == "black":
            text.set_color(INK)


def finish(axes: Axes, *, alt: str, show: bool) -> Axes:
    """Store the alternative text with the figure, for readers who cannot see it, and show it if asked.

    Black texts, spines and ticks take the ink of the theme.
    """
    in_ink(axes)
    alt = visible(alt)
    axes.figure.set_label(alt)
    axes.set_label(alt)
    _spare_a_draw(axes)
    if show:
        from matplotlib import pyplot as plt

        plt.show()
    return axes


def _spare_a_draw(axes: Axes) -> None:
    """Keep pyplot from drawing a figure after its notebook cell, just before the notebook draws it for showing."""
    import matplotlib as mpl

    from haystack_kernel.pl.figure import DescribedFigure

    figure = axes.get_figure(root=True)
    if isinstance(figure, DescribedFigure) and "inline" in mpl.get_backend().lower():
        figure.stale = False
        _spare_a_picture()


def _spare_a_picture() -> None:
    """Keep IPython from drawing a PNG of its own, which would replace the one that the figure brings."""
    from IPython.core.getipython import get_ipython

    from haystack_kernel.pl.figure import DescribedFigure

    shell = get_ipython()
    if shell is not None and shell.display_formatter is not None:
        shell.display_formatter.formatters["image/png"].for_type(DescribedFigure, lambda _figure: None)


def say_nothing_to_draw(axes: Axes, reason: str) -> None:
    """Write ``reason`` where the marks would be."""
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", fontsize=SMALL + 1)


def cut(word: str, *, width: int) -> str:
    """Shorten ``word`` to ``width`` characters, the last of which is then an ellipsis."""
    word = visible(word)
    return word if len(word) <= width else f"{word[: width - 1]}\N{HORIZONTAL ELLIPSIS}"


def fold(text: str, *, width: int, lines: int) -> str:
    """Break ``text`` into at most ``lines`` of ``width`` characters; what does not fit ends in an ellipsis."""
    ellipsis = " \N{HORIZONTAL ELLIPSIS}"
    words = " ".join(cut(word, width=width) for word in text.split())
    folded = textwrap.wrap(words, width, max_lines=lines, placeholder=ellipsis, break_on_hyphens=False)
    return "\n".join(folded)


def fold_list(names: Sequence[str], *, width: int, lines: int) -> str:
    """Join as many whole names as fit into ``lines``, and say how many are left out."""
    names = [" ".join(cut(word, width=width) for word in name.split()) for name in names]
    for n_shown in range(len(names), 0, -1):
        left_out = f"; {len(names) - n_shown} more" if n_shown < len(names) else ""
        folded = textwrap.wrap("; ".join(names[:n_shown]) + left_out, width, break_on_hyphens=False)
        if len(folded) <= lines:
            return "\n".join(folded)
    left_out = f"; {len(names) - 1} more" if len(names) > 1 else ""
    return fold(names[0], width=width, lines=lines) + left_out if names else ""
