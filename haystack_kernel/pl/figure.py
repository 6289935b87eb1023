"""A figure that knows its alternative text, and shows itself in the colours of the reader's theme.

In: matplotlib. Out: :class:`DescribedFigure`. In a notebook it is an SVG in an image element, whose ink is dark on
light pages and light on dark ones and whose ground is transparent, beside a PNG on white for front ends without HTML.
The alternative text also goes into the metadata, under ``image/png`` and ``alt``, where nbconvert and the report look.
"""

from __future__ import annotations

import base64
import html
import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from haystack_kernel.pl.style import BLUE, INK, PAPER, SKY_BLUE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.backend_bases import RendererBase

_DPI = 110  # of the parts that are drawn as points: maps and volcanoes
_THEME = (
    f"<style>svg{{color:#1a1a1a;--paper:#fff;--blue:{BLUE}}}"
    f"@media(prefers-color-scheme:dark){{svg{{color:#ececec;--paper:#16181a;--blue:{SKY_BLUE}}}}}</style>"
)
_OPENING = re.compile(r"<svg\b[^>]*>")


class DescribedFigure(Figure):
    """A figure whose label is a description of it in words."""

    is_only_laid_out = False  # whether a draw that has to lay the figure out does nothing else

    def draw(self, renderer: RendererBase) -> None:
        """Draw the figure, as matplotlib asks for it."""
        engine = self.get_layout_engine()
        if self.is_only_laid_out and isinstance(engine, ConstrainedLayoutEngine):
            engine.execute(self)
        else:
            super().draw(renderer)

    def _repr_mimebundle_(
        self,
        include: object = None,
        exclude: object = None,
    ) -> tuple[dict[str, str], dict[str, Any]]:
        alt = str(self.get_label())
        if not alt:
            return {}, {}
        shown = f'<div class="haystack-figure">{image(self)}</div>'
        # made here, because IPython would lay the figure out once more for its own
        return {"text/plain": alt, "text/html": shown, "image/png": _png(self)}, {"image/png": {"alt": alt}}


def _png(figure: Figure) -> str:
    """The figure as it was laid out last, in base64."""
    layout, buffer = figure.get_layout_engine(), io.BytesIO()
    figure.set_layout_engine("none")
    try:
        figure.savefig(buffer, format="png", dpi="figure", pil_kwargs={"compress_level": 1})
    finally:
        figure.set_layout_engine(layout)
    return base64.b64encode(buffer.getvalue()).decode()


def image(figure: Figure) -> str:
    """Return the figure as an ``<img>`` of an SVG that follows the page's theme; its label is the alternative text."""
    data = base64.b64encode(svg(figure).encode()).decode()
    width = round(figure.get_figwidth() * 96)
    alt = html.escape(str(figure.get_label()), quote=True)
    style = "max-width:100%;height:auto"
    return f'<img alt="{alt}" width="{width}" style="{style}" src="data:image/svg+xml;base64,{data}">'


def svg(figure: Figure) -> str:
    """Return the figure as SVG with a transparent ground; what is drawn in ink or paper takes the theme's colours."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # The same file each time, and the same letters on every machine.
    with mpl.rc_context({"svg.hashsalt": "haystack", "svg.fonttype": "path"}), _laid_out_once(figure):
        figure.savefig(buffer, format="svg", dpi=_DPI, transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    text = text.replace(BLUE.lower(), "var(--blue)")  # too dark on a dark page
    return _OPENING.sub(lambda found: found.group() + _THEME, text, count=1)


@contextmanager
def _laid_out_once(figure: Figure) -> Iterator[None]:
    """Have matplotlib only place the parts of a figure where it would draw them on nothing, too, before it saves."""
    if isinstance(figure, DescribedFigure):
        figure.is_only_laid_out = True
    try:
        yield
    finally:
        if isinstance(figure, DescribedFigure):
            figure.is_only_laid_out = False
