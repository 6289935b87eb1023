"""Axes as figures of a page: an SVG inside the HTML, its alternative text and a line on how to read it.

In: Axes. Out: HTML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.report.html import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def figure(axes: Axes, *, caption: str) -> str:
    """Draw the figure of ``axes``, close it and return it as ``<figure>``; the label of the axes is the alternative."""
    from matplotlib import pyplot as plt

    from haystack_kernel.pl.figure import image

    drawing = axes.get_figure(root=True)
    if drawing is None:
        return ""
    made = image(drawing)
    plt.close(drawing)
    scroll = f'<div class="scroll" role="group" tabindex="0" aria-label="Figure">{made}</div>'
    return f"<figure>{scroll}<figcaption>{escape(caption)}</figcaption></figure>"
