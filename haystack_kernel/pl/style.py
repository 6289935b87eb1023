"""Colours, marks and sizes of all figures, colour-blind safe and readable in grey.

In: a role or a sign. Out: a colour (Okabe-Ito) and a marker; colour is never the only difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILION, GREEN, YELLOW, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#8C8C8C", "#000000"

ROLE_COLOURS = {keys.PROMPT: VERMILION, keys.CONTROL: BLUE, keys.QUERY: GREY, keys.PREDICTED: GREEN}
ROLE_MARKERS = {keys.PROMPT: "^", keys.CONTROL: "s", keys.QUERY: "o", keys.PREDICTED: "D"}


def new_axes(*, width: float, height: float) -> Axes:
    """One pair of axes on a figure of its own, in inches, without the top and right spines."""
    from matplotlib import pyplot as plt

    axes: Axes = plt.subplots(figsize=(width, height), layout="constrained")[1]
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def finish(axes: Axes, *, alt: str, show: bool) -> Axes:
    """Store the alternative text with the figure, for readers who cannot see it, and show it if asked."""
    axes.figure.set_label(alt)
    axes.set_label(alt)
    if show:
        from matplotlib import pyplot as plt

        plt.show()
    return axes
