"""A figure that knows its alternative text and takes it into notebooks.

In: matplotlib. Out: :class:`DescribedFigure`; its outputs in a notebook carry the text in their metadata, under
``image/png`` and ``alt``, where nbconvert and the report look for it.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure


class DescribedFigure(Figure):
    """A figure whose label is a description of it in words."""

    def _repr_mimebundle_(
        self,
        include: object = None,
        exclude: object = None,
    ) -> tuple[dict[str, str], dict[str, Any]]:
        alt = str(self.get_label())
        return ({"text/plain": alt}, {"image/png": {"alt": alt}}) if alt else ({}, {})
