"""The one splitter of every benchmark: a measured pair becomes a truth, and an atlas that cannot see it.

In: a pair and its atlas. Out: a :class:`Split`. The control cells of the pair are halved within each donor: one half
belongs to the truth, the other one may be query or control cells. Shared control cells would make a prediction of no
change correlate with the truth at about .24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.backtest.wall import WalledAtlas
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.knowledge.vocabulary import LABEL
from haystack_kernel.retrieval import build_view
from haystack_kernel.retrieval.cells.matched_control import match_own_type
from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells, split_cells
from haystack_kernel.retrieval.same_treatment import names_treatment
from haystack_kernel.retrieval.view import CANONICAL, HAS_DONOR, TYPE_KEY, canonical_name, cell_set
from haystack_kernel.schema import HiddenPair, RetrievalSettings, RunConfig

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import CellSet, MeasuredPair


@dataclass(frozen=True, eq=False)
class Split:
    """A pair with its truth on one side and everything that may predict it on the other.

    Attributes
    ----------
    pair
        What is hidden.
    atlas
        The atlas in front of the wall.
    treated, control
        Cells of the truth, as :meth:`Atlas.select` gives them; no control cell of the truth is in front of the wall.
    query_set
        Control cells in front of the wall that the engines transform.
    hide
        The hidden pair for the configuration of a run; None where donors or a whole treatment are held out.
    """

    pair: MeasuredPair
    atlas: WalledAtlas
    treated: pd.DataFrame
    control: pd.DataFrame
    query_set: CellSet
    hide: HiddenPair | None


def split_pair(pair: MeasuredPair, *, atlas: Atlas, knowledge: Knowledge, n_truth: int = 300, seed: int = 0) -> Split:
    """Put the cells of a measured pair behind a wall.

    Parameters
    ----------
    pair
        The pair, with what is held out.
    atlas
        The whole atlas.
    knowledge
        Tables, with the names that only the atlas has; see :func:`haystack_kernel.knowledge.with_vocabulary`.
    n_truth
        Largest number of cells in each arm of the truth.
    seed
        Decides which control cells are the truth's; the same for all treatments of a cell type.

    Returns
    -------
    The split. Hidden are: with the cell type held out, the treatment under every spelling in the type, its relatives
    and every label that leaves open what the cells are; with donors held out, the treatment in all of their cells;
    with the treatment held out, the treatment in all cells.

    Raises
    ------
    NoCandidateError
        The atlas no longer holds the pair, or no control cells that fit it.

    Examples
    --------
    >>> split = split_pair(pair, atlas=atlas, knowledge=knowledge)  # doctest: +SKIP
    >>> len(split.treated), len(split.control), split.query_set.n_cells  # doctest: +SKIP
    (285, 143, 143)
    """
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=RunConfig())
    rows = _truth_rows(pair, view)
    match = match_own_type(rows, view=view) if len(rows) else None
    if match is None or match.control is None:
        why = match.reason if match else "no such cells"
        msg = f"{pair.words} cannot be back-tested: {why}; list the pairs of the atlas again"
        raise NoCandidateError(msg, pair=pair.words)
    treated = atlas.select(cell_set(match.prompt, view=view))
    controls = atlas.select(match.control)
    # in the order of the ids, and the same cells for every treatment of the type, so that responses can be compared
    first, second = split_cells(controls, rng=make_rng(seed, role=f"backtest/{pair.dataset}/{pair.cell_type}"))
    hide = None
    if pair.held == "cell_type":
        type_id = pair.cell_type_id if pair.cell_type_id in knowledge.cell_types else f"{LABEL}{pair.cell_type}"
        hide = HiddenPair(cell_type_id=type_id, perturbation=_canonical(rows))
    wall = WalledAtlas(atlas, hidden=_hidden_rows(pair, rows, view=view, hide=hide), kept=second)
    sampled = {
        name: sample_cells(cells, n=n_truth, rng=make_rng(seed, role=f"backtest/truth/{name}"))
        for name, cells in (("treated", treated), ("control", second))
    }
    query_set = match.control.model_copy(update={"n_cells": len(first)})
    return Split(pair, wall, sampled["treated"], sampled["control"], query_set, hide)


def _truth_rows(pair: MeasuredPair, view: AtlasView) -> pd.DataFrame:
    """Conditions of the pair itself: one dataset, type and treatment, and the donors that are held out."""
    treated = view.treated
    here = (treated[keys.ATLAS] == pair.atlas) & (treated[keys.DATASET] == pair.dataset)
    same = here & (treated[keys.PERTURBATION] == pair.perturbation)
    rows = treated[same & (treated[TYPE_KEY] == (pair.cell_type_id or pair.cell_type))]
    return rows[rows[keys.DONOR].isin(pair.donors)] if pair.donors else rows


def _canonical(rows: pd.DataFrame) -> str:
    return str(rows[CANONICAL].iloc[0])


def _hidden_rows(pair: MeasuredPair, rows: pd.DataFrame, *, view: AtlasView, hide: HiddenPair | None) -> pd.DataFrame:
    """Conditions of the whole atlas that may hold treated cells of the answer."""
    table = view.treated
    if hide is not None:
        from haystack_kernel.retrieval.hidden import hidden_by

        return table[hidden_by(table, pairs=(hide,), knowledge=view.knowledge) != ""]
    names = {pair.perturbation, _canonical(rows)}
    stored = {*table[keys.PERTURBATION], *table[CANONICAL]}
    same = {one for one in stored if any(names_treatment(one, name, knowledge=view.knowledge) for name in names)}
    of_treatment = table[table[keys.PERTURBATION].isin(same) | table[CANONICAL].isin(same)]
    if pair.held == "perturbation":
        return of_treatment
    return of_treatment[of_treatment[keys.DONOR].isin(pair.donors) | ~of_treatment[HAS_DONOR]]


def canonical_of(pair: MeasuredPair, *, knowledge: Knowledge) -> str:
    """Known name of the pair's treatment; the atlas's own where no table has it."""
    return canonical_name(pair.perturbation, knowledge=knowledge)
