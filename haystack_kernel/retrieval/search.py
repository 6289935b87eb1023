"""Search: every strategy of the task in order, until enough candidates are found; then the ranking.

In: a query and an atlas. Out: ranked candidates, or an error that says what the atlases hold instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from haystack_kernel.errors import NoCandidateError
from haystack_kernel.retrieval.rank import rank_candidates
from haystack_kernel.retrieval.refusal import explain_nothing_found
from haystack_kernel.retrieval.rules import check_pins, read_rules
from haystack_kernel.retrieval.strategies.direct import direct
from haystack_kernel.retrieval.strategies.donor_context import donor_context
from haystack_kernel.retrieval.strategies.mechanistic import mechanistic
from haystack_kernel.retrieval.strategies.ontology import ontology
from haystack_kernel.retrieval.strategies.semantic import semantic
from haystack_kernel.retrieval.strategies.tissue_atlas import tissue_atlas
from haystack_kernel.retrieval.strategies.treated import asks_perturbation
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
HYBRID_ORDER: tuple[Strategy, ...] = (  # both sides, turn by turn
    "direct",
    "donor_context",
    "mechanistic",
    "tissue_atlas",
    "semantic",
    "ontology",
)
_RELATED = ("shared_target", "text_only")


def strategy_order(task_type: TaskType) -> tuple[Strategy, ...]:
    """Order in which strategies are asked; a set that several find belongs to the first."""
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
        Limits and weights: ``max_candidates`` found, ``n_top`` kept, sets below ``min_cells`` never proposed.
    config
        Hidden pairs, pins and bans (candidate keys, or criteria such as ``dataset=kang``).
    cache
        Local folder in which vectors of descriptions are kept; None computes them anew.

    Returns
    -------
    At most ``n_top`` candidates (pinned ones always), best first. Unique by ``key`` and by ``prompt.key``.

    Raises
    ------
    NoCandidateError
        Nothing fits; the message names what was asked, the nearest the atlases hold, and whether hiding or banning
        took the rest away.
    InvalidInputError
        A pin or ban names nothing; a hidden pair names an unknown cell type.
    """
    view = build_view(atlas, knowledge=knowledge, settings=settings, config=config, cache=cache)
    rules = read_rules(view)
    found = _gather(query, view, rules=rules)
    check_pins(rules, used=found.pins.values(), known=sorted(found.keys))
    if not found.candidates:
        msg = explain_nothing_found(query, view, n_banned=found.n_banned)
        raise NoCandidateError(msg, n_hidden=len(view.hidden), n_banned=found.n_banned)
    order = {pin.text: place for place, pin in enumerate(rules.pins)}
    by_pin = sorted(found.candidates.values(), key=lambda one: order.get(found.pins.get(one.key, ""), len(order)))
    return rank_candidates(by_pin, settings=settings)


@dataclass
class _Found:
    candidates: dict[str, Candidate] = field(default_factory=dict)  # by key
    selections: set[str] = field(default_factory=set)
    pins: dict[str, str] = field(default_factory=dict)  # key -> text of its pin
    keys: set[str] = field(default_factory=set)  # of everything proposed and not banned
    n_banned: int = 0

    def add(self, one: Candidate, *, pin: Rule | None) -> None:
        """Keep a candidate unless another one selects the same cells."""
        if one.prompt.key in self.selections:
            return
        self.selections.add(one.prompt.key)
        self.candidates[one.key] = one
        if pin is not None:
            self.pins[one.key] = pin.text

    def confirm(self, proposal: Proposal) -> None:
        """A related perturbation that a second strategy finds counts as much as the more confident of the two says."""
        one, evidence = self.candidates.get(proposal.key), proposal.evidence
        if one is None or one.evidence_distance not in _RELATED or evidence.relevance <= one.relevance:
            return
        update = {"relevance": round(evidence.relevance, 6), "reason": f"{one.reason}; also {evidence.words}"}
        self.candidates[one.key] = one.model_copy(update=update)


def _gather(query: StructuredQuery, view: AtlasView, *, rules: Rules) -> _Found:
    """Candidates in the order of the strategies, the first of equals kept; pinned ones survive the limit."""
    found = _Found()
    if asks_perturbation(query) and query.perturbation is None:
        return found
    limit = view.settings.max_candidates
    for strategy in strategy_order(query.task_type):
        for proposal in STRATEGIES[strategy](query, view):
            if len(found.candidates) >= limit and not rules.pins:
                return found
            allowed = rules.allow(proposal, min_cells=view.settings.min_cells)
            if allowed is None:
                found.n_banned += 1
                continue
            pin = rules.pin_of(allowed)
            is_new = allowed.key not in found.keys
            found.keys.add(allowed.key)
            if not is_new:
                found.confirm(allowed)
            elif pin is not None or len(found.candidates) < limit:
                found.add(allowed.build(view, is_pinned=pin is not None), pin=pin)
    return found
