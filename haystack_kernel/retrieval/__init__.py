"""Finds cells: those that show the effect asked for, their controls, and those to be transformed.

In: a structured query and an atlas. Out: ranked candidates, the query cell set, and the cells of a round by role.

:mod:`~haystack_kernel.retrieval.search` asks the :mod:`~haystack_kernel.retrieval.strategies` of a task in order,
:mod:`~haystack_kernel.retrieval.rank` orders what they find, and :mod:`~haystack_kernel.retrieval.cells` fetches it.
"""

from __future__ import annotations

from haystack_kernel.retrieval.cells.assemble import CellsByRole, assemble_cells
from haystack_kernel.retrieval.cells.measured import (
    fetch_hidden,
    fetch_measured,
    fetch_response,
    hidden_label,
    hide_patients,
)
from haystack_kernel.retrieval.cells.own_cells import read_own_cells
from haystack_kernel.retrieval.cells.own_prompt import OwnAtlas, open_cells, read_own_prompt
from haystack_kernel.retrieval.cells.query_cells import (
    choose_query_cells,
    describe_query_cells,
    query_cells_in,
    query_differences,
)
from haystack_kernel.retrieval.cells.reference import fetch_reference
from haystack_kernel.retrieval.cells.response import Response, held_types, read_truth, split_response
from haystack_kernel.retrieval.cells.treatments import fetch_treatments
from haystack_kernel.retrieval.names import check_hidden, check_names
from haystack_kernel.retrieval.query_check import QueryCheck, check_cells
from haystack_kernel.retrieval.rules import check_rules
from haystack_kernel.retrieval.search import search_candidates, search_view
from haystack_kernel.retrieval.similarity.vectors import prepare_vectors, vector_folder
from haystack_kernel.retrieval.view import AtlasView, build_view, cells_of, find_hidden

__all__ = [
    "AtlasView",
    "CellsByRole",
    "OwnAtlas",
    "QueryCheck",
    "Response",
    "assemble_cells",
    "build_view",
    "cells_of",
    "check_cells",
    "check_hidden",
    "check_names",
    "check_rules",
    "choose_query_cells",
    "describe_query_cells",
    "fetch_hidden",
    "fetch_measured",
    "fetch_response",
    "hidden_label",
    "fetch_reference",
    "fetch_treatments",
    "find_hidden",
    "held_types",
    "hide_patients",
    "open_cells",
    "prepare_vectors",
    "query_cells_in",
    "query_differences",
    "read_own_cells",
    "read_own_prompt",
    "read_truth",
    "search_candidates",
    "search_view",
    "split_response",
    "vector_folder",
]
