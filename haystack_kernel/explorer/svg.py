"""Small drawings as SVG that follow the theme of the page: maps, volcanoes, violins.

In: arrays. Out: ``<img>`` with the drawing inside and its description as alternative text. Text and lines take the
colour of the theme, which an SVG inside ``<img>`` reads from the page's colour scheme.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.report.html import Html, escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Values = NDArray[np.float64]

_STYLE = (
    "svg{color:#1a1a1a;font:11px system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#ececec}}"
    "text{fill:currentColor}.ink{stroke:currentColor}.faint{opacity:.45}"
)
_CAPS = {"o": "round", "s": "square"}  # marks that are the caps of lines without length, which takes few letters
_SHAPES = {  # other marks of half width 1 around a point, as relative path commands
    "^": "m0-1.2l1.1 2.1h-2.2z",
    "v": "m0 1.2l1.1-2.1h-2.2z",
    "D": "m0-1.3l1.2 1.3l-1.2 1.3l-1.2-1.3z",
}


class Drawing:
    """A rectangle with data coordinates inside a margin.

    Parameters
    ----------
    width, height
        Size in pixels.
    x, y
        Lowest and highest value of both axes.
    margin
        Left, top, right, bottom.
    """

    def __init__(
        self,
        *,
        width: int,
        height: int,
        x: tuple[float, float],
        y: tuple[float, float],
        margin: tuple[int, int, int, int] = (44, 10, 10, 34),
    ) -> None:
        self.width, self.height = width, height
        self._x, self._y = _wide(x), _wide(y)
        self._left, self._top, right, bottom = margin
        self._right, self._bottom = width - right, height - bottom
        self._parts: list[str] = []

    def at(self, x: ArrayLike, y: ArrayLike) -> tuple[Values, Values]:
        """Return data coordinates as pixels."""
        shares = [
            (np.asarray(one, dtype=float) - low) / (high - low) for one, (low, high) in ((x, self._x), (y, self._y))
        ]
        across = self._left + shares[0] * (self._right - self._left)
        return across, self._bottom - shares[1] * (self._bottom - self._top)

    def marks(
        self, x: ArrayLike, y: ArrayLike, *, colour: str, shape: str = "o", size: float = 2.4, opacity: float = 0.8
    ) -> None:
        """Draw one mark per point, all of one colour and shape, as one path."""
        across, down = self.at(x, y)
        if not across.size:
            return
        if shape in _CAPS:
            # a square of no length is not drawn by every program that shows a PDF
            points = "".join(
                f"M{one:.1f} {two:.1f}h{'.1' if shape == 's' else '0'}" for one, two in zip(across, down, strict=True)
            )
            width = 2 * size if shape == "o" else 1.8 * size
            look = f'fill="none" stroke="{colour}" stroke-width="{width:.1f}" stroke-linecap="{_CAPS[shape]}"'
            self._parts.append(f'<path d="{points}" {look} opacity="{opacity}"/>')
            return
        # one unit of the shape is `size` pixels: the path is scaled, and points are given in its units
        points = "".join(
            f"M{one:.1f} {two:.1f}{_SHAPES[shape]}" for one, two in zip(across / size, down / size, strict=True)
        )
        self._parts.append(f'<path transform="scale({size})" d="{points}" fill="{colour}" opacity="{opacity}"/>')

    def shape(self, x: ArrayLike, y: ArrayLike, *, colour: str, opacity: float = 0.7) -> None:
        """Draw a filled outline."""
        across, down = self.at(x, y)
        path = "L".join(f"{one:.1f} {two:.1f}" for one, two in zip(across, down, strict=True))
        self._parts.append(f'<path d="M{path}Z" fill="{colour}" opacity="{opacity}"/>')

    def line(self, start: tuple[float, float], end: tuple[float, float], *, faint: bool = False) -> None:
        """Draw a line in the colour of the text."""
        (x1, x2), (y1, y2) = self.at([start[0], end[0]], [start[1], end[1]])
        kind = "ink faint" if faint else "ink"
        self._parts.append(f'<path class="{kind}" fill="none" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')

    def text(
        self, where: tuple[float, float], text: str, *, anchor: str = "middle", dx: float = 0, dy: float = 0
    ) -> None:
        """Write text at data coordinates, moved to the right by ``dx`` and down by ``dy`` pixels."""
        across, down = self.at([where[0]], [where[1]])
        self._write(across[0] + dx, down[0] + dy, text, anchor=anchor)

    def frame(self, *, x: str, y: str) -> None:
        """Draw both axes with their names and a few ticks; an axis without a name has no ticks."""
        corners = [(self._x[0], self._y[0]), (self._x[1], self._y[0]), (self._x[0], self._y[1])]
        self.line(corners[0], corners[1], faint=True)
        self.line(corners[0], corners[2], faint=True)
        self._write((self._left + self._right) / 2, self.height - 4, x)
        middle = (self._top + self._bottom) / 2
        for value in _ticks(self._x):
            self.text((value, self._y[0]), f"{value:g}", dy=14)
        if not y:
            return
        self._parts.append(
            f'<text transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
        )
        for value in _ticks(self._y):
            across, down = self.at([self._x[0]], [value])
            self._write(across[0] - 4, down[0] + 4, f"{value:g}", anchor="end")

    def picture(self, *, alt: str) -> Html:
        """Return the drawing as an image with a description."""
        body = "".join(self._parts)
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{_STYLE}</style>{body}</svg>'
        data = base64.b64encode(svg.encode()).decode()
        return Html(f'<img alt="{escape(alt)}" width="{self.width}" src="data:image/svg+xml;base64,{data}">')

    def _write(self, across: float, down: float, text: str, *, anchor: str = "middle") -> None:
        self._parts.append(f'<text x="{across:.1f}" y="{down:.1f}" text-anchor="{anchor}">{escape(text)}</text>')


def density(values: ArrayLike, *, top: float, n: int = 40) -> tuple[Values, Values]:
    """Smooth the distribution of values for a violin.

    Parameters
    ----------
    values
        At least one value between 0 and ``top``.
    top
        Largest value of the axis.
    n
        Number of points.

    Returns
    -------
    Places along the axis, and densities scaled to a largest one of 1.
    """
    places = np.linspace(0.0, max(top, 1e-9), n)
    given = np.asarray(values, dtype=float)
    width = max(0.9 * float(given.std()) * given.size**-0.2, float(places[-1]) / 40)
    counts, _ = np.histogram(given, bins=n, range=(0.0, float(places[-1])))
    kernel = np.exp(-0.5 * ((places[:, None] - places[None, :]) / width) ** 2)
    found = kernel @ counts
    return places, found / found.max()


def limits(*values: ArrayLike, pad: float = 0.04) -> tuple[float, float]:
    """Lowest and highest finite value of all arrays with a little room; (0, 1) where there is none."""
    every = np.concatenate([np.asarray(one, dtype=float).ravel() for one in values]) if values else np.zeros(0)
    every = every[np.isfinite(every)]
    if not every.size:
        return 0.0, 1.0
    room = pad * (float(np.ptp(every)) or 1.0)
    return float(every.min()) - room, float(every.max()) + room


def _wide(pair: tuple[float, float]) -> tuple[float, float]:
    return pair if pair[1] > pair[0] else (pair[0] - 0.5, pair[0] + 0.5)


def _ticks(pair: tuple[float, float]) -> Sequence[float]:
    """About four round values inside a range."""
    step = 10 ** np.floor(np.log10((pair[1] - pair[0]) / 2))
    while (pair[1] - pair[0]) / step > 5:
        step *= 2.5 if f"{step:e}"[0] == "2" else 2
    first = np.ceil(pair[0] / step) * step
    return [float(round(value, 10)) + 0.0 for value in np.arange(first, pair[1] + step * 1e-9, step)]
