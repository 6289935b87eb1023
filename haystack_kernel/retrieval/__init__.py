"""Finding the cells: which show the effect asked for, which are their controls, and which are transformed.

In: a structured query and an atlas. Out: ranked candidates, the query cell set, and the cells of a round by role.
"""

from __future__ import annotations

from haystack_kernel.retrieval.assemble import CellsByRole, assemble_cells
from haystack_kernel.retrieval.own_cells import read_query_h5ad
from haystack_kernel.retrieval.query_cells import choose_query_cells, describe_query_cells
from haystack_kernel.retrieval.query_check import QueryCheck, check_query_h5ad
from haystack_kernel.retrieval.reference import fetch_reference
from haystack_kernel.retrieval.search import search_candidates

__all__ = [
    "CellsByRole",
    "QueryCheck",
    "assemble_cells",
    "check_query_h5ad",
    "choose_query_cells",
    "describe_query_cells",
    "fetch_reference",
    "read_query_h5ad",
    "search_candidates",
]
