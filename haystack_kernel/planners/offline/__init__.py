"""The planner without a language model: text to query, candidates to choice, result to words.

In: a question and the knowledge tables. Out: a ``StructuredQuery``, and later a ``Choice`` and an ``Interpretation``.
"""

from __future__ import annotations

from haystack_kernel.planners.check import check_answerable, check_question
from haystack_kernel.planners.offline.explain import explain
from haystack_kernel.planners.offline.parse import parse_question
from haystack_kernel.planners.offline.planner import OfflinePlanner

__all__ = ["OfflinePlanner", "check_answerable", "check_question", "explain", "parse_question"]
