"""Figures. Each draws the values it is given and returns the Axes; nothing is computed, filtered by p or saved here."""

from haystack_kernel.pl.cells import roles, umap
from haystack_kernel.pl.genes import pathway_bars, volcano

__all__ = ["pathway_bars", "roles", "umap", "volcano"]
