"""Axes as figures of a page: a PNG inside the HTML, its alternative text and a line on how to read it.

In: Axes. Out: HTML.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from haystack_kernel.report.html import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 130


def figure(axes: Axes, *, caption: str) -> str:
    """Draw the figure of ``axes``, close it and return it as ``<figure>``; the label of the axes is the alternative."""
    from matplotlib import pyplot as plt

    drawing = axes.get_figure(root=True)
    if drawing is None:
        return ""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    plt.close(drawing)
    data = base64.b64encode(buffer.getvalue()).decode()
    width = round(drawing.get_figwidth() * 96)
    image = f'<img alt="{escape(axes.get_label())}" width="{width}" src="data:image/png;base64,{data}">'
    scroll = f'<div class="scroll" role="region" tabindex="0" aria-label="Figure">{image}</div>'
    return f"<figure>{scroll}<figcaption>{escape(caption)}</figcaption></figure>"
