"""The steps inside a round that do work: cells out of the atlas, job, checked predictions, score, decision.

In: the run record and the ports. Out: the round, further filled; files under ``rounds/<n>/``.
"""

from haystack_kernel.rounds.cells import EDIT, assemble, read_cells, search
from haystack_kernel.rounds.decision import decide, read_feedback
from haystack_kernel.rounds.job import collect, estimate_round, keep_bills, keep_good_job, submit
from haystack_kernel.rounds.planning import keep_planner_bills, planner_view
from haystack_kernel.rounds.record import query_of
from haystack_kernel.rounds.score import embed, ground, prediction_facts

__all__ = [
    "EDIT",
    "assemble",
    "collect",
    "decide",
    "embed",
    "estimate_round",
    "ground",
    "keep_bills",
    "keep_good_job",
    "keep_planner_bills",
    "planner_view",
    "prediction_facts",
    "query_of",
    "read_cells",
    "read_feedback",
    "search",
    "submit",
]
