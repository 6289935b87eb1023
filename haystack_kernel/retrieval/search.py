"""Search: every strategy of the task in order, until enough candidates are found; then the ranking.

In: a query and an atlas. Out: ranked candidates, or an error that says what the atlases hold instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.errors import NoCandidateError
from haystack_kernel.retrieval.direct import direct
from haystack_kernel.retrieval.ontology import ontology
from haystack_kernel.retrieval.rank import rank_candidates
from haystack_kernel.retrieval.refusal import explain_nothing_found
from haystack_kernel.retrieval.treated import asks_perturbation
from haystack_kernel.retrieval.view import build_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import Candidate, RunConfig, Strategy, StructuredQuery
    from haystack_kernel.settings import RetrievalSettings

# order in which strategies are asked; one that has no entry in _STRATEGIES is passed over
PERTURBATIONAL_ORDER: tuple[Strategy, ...] = ("direct", "mechanistic", "semantic", "ontology")
OBSERVATIONAL_ORDER: tuple[Strategy, ...] = ("direct", "donor_context", "tissue_atlas", "ontology", "semantic")
_STRATEGIES: dict[Strategy, Callable[[StructuredQuery, AtlasView], list[Candidate]]] = {
    "direct": direct,
    "ontology": ontology,
}


def search_candidates(
    query: StructuredQuery, *, atlas: Atlas, knowledge: Knowledge, settings: RetrievalSettings, config: RunConfig
) -> tuple[Candidate, ...]:
    """Find cells that show what the question asks for, each with its matched control and a written reason.

    Parameters
    ----------
    query
        The parsed question.
    atlas
        Cells of one or several atlases; only their conditions are read.
    knowledge
        Tables with the cell ontology and the names of perturbations.
    settings
        Limits and weights: ``max_candidates`` found, ``n_top`` kept, sets below ``min_cells`` never proposed.
    config
        Hidden pairs, pinned and banned candidate keys.

    Returns
    -------
    At most ``n_top`` candidates (pinned ones always), best first. Unique by ``key`` and by ``prompt.key``.

    Raises
    ------
    NoCandidateError
        Nothing fits; the message names what was asked, the nearest the atlases hold, and whether hiding or banning
        took the rest away.
    InvalidInputError
        A pin names no candidate; a hidden pair names an unknown cell type.
    """
    view = build_view(atlas, knowledge=knowledge, settings=settings, config=config)
    found = _gather(query, view)
    ranked = rank_candidates(found, settings=settings, config=config)
    if not ranked:
        msg = explain_nothing_found(query, view, n_banned=len(found))
        raise NoCandidateError(msg, n_hidden=len(view.hidden), n_banned=len(found))
    return ranked


def _gather(query: StructuredQuery, view: AtlasView) -> list[Candidate]:
    """Candidates in the order of the strategies, the first of equals kept; pinned ones survive the limit."""
    if asks_perturbation(query) and query.perturbation is None:
        return []
    order = PERTURBATIONAL_ORDER if asks_perturbation(query) else OBSERVATIONAL_ORDER
    found: dict[str, Candidate] = {}
    limit = view.settings.max_candidates
    for strategy in order:
        if len(found) >= limit and not view.config.pin:
            break
        for one in _STRATEGIES[strategy](query, view) if strategy in _STRATEGIES else ():
            found.setdefault(one.prompt.key, one)
    pinned = set(view.config.pin)
    return [one for place, one in enumerate(found.values()) if place < limit or one.key in pinned]
