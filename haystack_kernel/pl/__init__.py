"""Figures: each draws the values that it is given and returns the Axes; nothing is computed, filtered or saved here."""

from haystack_kernel.pl.cells import umap
from haystack_kernel.pl.genes import volcano
from haystack_kernel.pl.matrix import dot_plot, heat_map
from haystack_kernel.pl.pathways import pathway_bars
from haystack_kernel.pl.roles import roles

__all__ = ["dot_plot", "heat_map", "pathway_bars", "roles", "umap", "volcano"]
