"""Search: asks the strategies of a task in order until there are enough candidates, then ranks them.

In: a query and an atlas. Out: ranked candidates, or an error that says what the atlases hold instead.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from haystack_kernel.errors import NoCandidateError
from haystack_kernel.retrieval.names import check_names
from haystack_kernel.retrieval.rank import rank_candidates
from haystack_kernel.retrieval.refusal import explain_nothing_found
from haystack_kernel.retrieval.rules import check_pins, read_rules
from haystack_kernel.retrieval.strategies.direct import direct
from haystack_kernel.retrieval.strategies.donor_context import donor_context
from haystack_kernel.retrieval.strategies.mechanistic import mechanistic
from haystack_kernel.retrieval.strategies.ontology import ontology
from haystack_kernel.retrieval.strategies.semantic import semantic
from haystack_kernel.retrieval.strategies.tissue_atlas import tissue_atlas
from haystack_kernel.retrieval.view import build_view
from haystack_kernel.schema import OBSERVATIONAL, PERTURBATIONAL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.retrieval.rules import Rule, Rules
    from haystack_kernel.retrieval.strategies.proposal import Proposal, Propose
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import Candidate, RetrievalSettings, RunConfig, Strategy, StructuredQuery, TaskType

STRATEGIES: Mapping[Strategy, Propose] = {
    "direct": direct,
    "mechanistic": mechanistic,
    "semantic": semantic,
    "ontology": ontology,
    "donor_context": donor_context,
    "tissue_atlas": tissue_atlas,
}
PERTURBATIONAL_ORDER: tuple[Strategy, ...] = ("direct", "mechanistic", "semantic", "ontology")
OBSERVATIONAL_ORDER: tuple[Strategy, ...] = ("donor_context", "tissue_atlas", "ontology", "semantic")
HYBRID_ORDER: tuple[Strategy, ...] = (  # a cross-dataset question: perturbational and observational alternate
    "direct",
    "donor_context",
    "mechanistic",
    "tissue_atlas",
    "semantic",
    "ontology",
)
_OTHER_PERTURBATION = ("shared_target", "text_only")  # evidence distances


def strategy_order(task_type: TaskType) -> tuple[Strategy, ...]:
    """Order in which the strategies are asked; a cell set that several find belongs to the first of them."""
    if task_type in PERTURBATIONAL:
        return PERTURBATIONAL_ORDER
    return OBSERVATIONAL_ORDER if task_type in OBSERVATIONAL else HYBRID_ORDER


def search_candidates(
    query: StructuredQuery,
    *,
    atlas: Atlas,
    knowledge: Knowledge,
    settings: RetrievalSettings,
    config: RunConfig,
    cache: Path | None = None,
) -> tuple[Candidate, ...]:
    """Find cells that show what the question asks for, each with its matched control and a written reason.

    Parameters
    ----------
    query
        The parsed question.
    atlas
        Cells of one or several atlases; only their conditions are read.
    knowledge
        Tables with the cell ontology, the names of perturbations, their targets and pathways.
    settings
        Limits and weights: at most ``max_candidates`` are found and ``n_top`` kept; sets with fewer cells than
        ``min_cells`` are never proposed.
    config
        Hidden pairs, pins and bans (candidate keys, or criteria such as ``dataset=kang``).
    cache
        Local folder in which vectors of descriptions are kept; None computes them each time.

    Returns
    -------
    At most ``n_top`` candidates (pinned ones always), best first. Unique by ``key`` and by ``prompt.key``.

    Raises
    ------
    NoCandidateError
        Nothing fits. The message says what was asked for, what is nearest in the atlases, and whether hidden pairs or
        bans excluded the rest. Also where the query names a dataset, donor, tissue or disease that is not there.
    InvalidInputError
        A pin or ban matches nothing, or a hidden pair has an unknown cell type.

    Examples
    --------
    >>> candidates = search_candidates(
    ...     query, atlas=atlas, knowledge=load_knowledge(), settings=RetrievalSettings(), config=RunConfig()
    ... )  # doctest: +SKIP
    >>> candidates[0].reason  # doctest: +SKIP
    '120 classical monocytes of dataset kang treated with IFN-beta from 8 donors: ...'
    """
    return search_view(query, build_view(atlas, knowledge=knowledge, settings=settings, config=config, cache=cache))


def search_view(query: StructuredQuery, view: AtlasView) -> tuple[Candidate, ...]:
    """Search as :func:`search_candidates` does, in a view that serves several queries.

    Parameters
    ----------
    query
        The parsed question.
    view
        From :func:`build_view`.

    Returns
    -------
    Ranked candidates.
    """
    check_names(query, view)
    rules = read_rules(view)
    found = _gather(query, view, rules=rules)
    check_pins(rules, used=found.pins.values(), known=sorted(found.keys))
    if not found.candidates:
        msg = explain_nothing_found(query, view, n_banned=found.n_banned)
        raise NoCandidateError(msg, n_hidden=len(view.hidden), n_banned=found.n_banned)
    order = {pin.text: place for place, pin in enumerate(rules.pins)}
    by_pin = sorted(found.candidates.values(), key=lambda one: order.get(found.pins.get(one.key, ""), len(order)))
    return rank_candidates(by_pin, settings=view.settings)


@dataclass
class _Found:
    candidates: dict[str, Candidate] = field(default_factory=dict)  # by key
    selections: set[str] = field(default_factory=set)
    pins: dict[str, str] = field(default_factory=dict)  # key -> text of its pin
    keys: set[str] = field(default_factory=set)  # of everything proposed and not banned
    n_banned: int = 0

    def add(self, one: Candidate, *, pin: Rule | None) -> None:
        """Keep a candidate, unless another one already selects the same cells."""
        if one.prompt.key in self.selections:
            return
        self.selections.add(one.prompt.key)
        self.candidates[one.key] = one
        if pin is not None:
            self.pins[one.key] = pin.text

    def confirm(self, proposal: Proposal) -> None:
        """Raise the relevance of another perturbation where a second strategy also finds it and rates it higher."""
        one, evidence = self.candidates.get(proposal.key), proposal.evidence
        if one is None or one.evidence_distance not in _OTHER_PERTURBATION or evidence.relevance <= one.relevance:
            return
        update = {"relevance": round(evidence.relevance, 6), "reason": f"{one.reason}; also {evidence.words}"}
        self.candidates[one.key] = one.model_copy(update=update)


def _gather(query: StructuredQuery, view: AtlasView, *, rules: Rules) -> _Found:
    """Collect candidates in the order of the strategies; pinned ones are kept beyond the limit."""
    found = _Found()
    strategies = (STRATEGIES[name] for name in strategy_order(query.task_type))
    for proposal in itertools.chain.from_iterable(strategy(query, view) for strategy in strategies):
        is_full = len(found.candidates) >= view.settings.max_candidates
        if is_full and not rules.pins:
            break
        allowed = rules.allow(proposal, min_cells=view.settings.min_cells)
        if allowed is None:
            found.n_banned += 1
            continue
        if allowed.key in found.keys:
            found.confirm(allowed)
            continue
        found.keys.add(allowed.key)
        pin = rules.pin_of(allowed)
        if pin is not None or not is_full:  # looking up the control is the costly part
            found.add(allowed.build(view, is_pinned=pin is not None), pin=pin)
    return found
