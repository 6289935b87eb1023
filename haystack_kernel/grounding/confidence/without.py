"""What the score would be without one donor or data set of the prompt.

In: the scored components and the cell scores behind them. Out: one ``Without`` per donor and data set, lowest first.

Only the tests of the prompt are repeated: the prediction itself, and its comparison with other genes, stay.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.components.score import best_of_many, composite, score_from_p
from haystack_kernel.grounding.nulls.people import people_null, people_without
from haystack_kernel.grounding.nulls.self_contained import permute_within
from haystack_kernel.schema import Without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.grounding.nulls.response import ResponseTest
    from haystack_kernel.grounding.nulls.self_contained import CellScores, SelfContained
    from haystack_kernel.grounding.records import Basis
    from haystack_kernel.grounding.uncertainty.calls import Uncertain
    from haystack_kernel.schema import Component

N_DRAWS = 999  # a component then reaches 9.1 at most, which is enough to see whether an answer flips
MAX_PARTS = 12  # of the largest donors, and of the largest data sets


def scores_without(
    components: Sequence[Component],
    *,
    self_contained: SelfContained,
    studied: Uncertain | str,
    basis: Basis,
    n_tested: int,
) -> tuple[Without, ...]:
    """Score the round again without each donor and each data set.

    Parameters
    ----------
    components
        The scored components.
    self_contained
        Their self-contained null with the scores of the cells.
    studied
        What the prompt's cells say of its effects, by which patients are compared with healthy donors.
    basis
        Query, settings and context.
    n_tested
        Number of tested genes.

    Returns
    -------
    Lowest composite first; empty where the prompt has one donor and one data set. A donor or data set without which no
    treated or no control cell is left is not listed.
    """
    if self_contained.cells is None:
        return ()
    cells = self_contained.cells.of_sets({item.name for item in components})
    if not cells.names:  # no component could be computed from the prompt's cells
        return ()
    found = []
    for kind, labels in (("donor", cells.donors), ("data set", cells.datasets)):
        names, sizes = np.unique(labels, return_counts=True)
        if len(names) < 2:
            continue
        for name in names[np.argsort(-sizes, kind="stable")][:MAX_PARTS]:
            rest = cells.subset(labels != name)
            if rest.is_treated.all() or not rest.is_treated.any():
                continue
            people = None
            if self_contained.people is not None and not isinstance(studied, str) and kind == "donor":
                people = people_null(people_without(studied.prompt, str(name)))
            value = _score_again(components, rest, people=people, basis=basis, n_tested=n_tested)
            found.append(Without(kind=kind, name=str(name), composite=value))
    return tuple(sorted(found, key=lambda one: (np.nan_to_num(one.composite, nan=0.0), one.kind, one.name)))


def _score_again(
    components: Sequence[Component],
    cells: CellScores,
    *,
    people: ResponseTest | None,
    basis: Basis,
    n_tested: int,
) -> float:
    """Composite with the p values of the prompt taken from fewer cells."""
    is_treated, strata, seed = cells.is_treated, cells.strata, basis.context.seed
    over_cells = permute_within(cells.scores, is_treated=is_treated, strata=strata, n_draws=N_DRAWS, seed=seed)
    effects = cells.over_donors()
    over_donors = effects.tails()
    again = []
    for item in components:
        score = item.score
        if item.name in cells.names:
            at = cells.names.index(item.name)
            p_donors = over_donors[at].up if people is None else people.p
            p = float(np.nanmax([over_cells[at].up, p_donors, item.p_specificity]))
            score = score_from_p(best_of_many(p, n_scored=basis.context.n_scored))
            if basis.is_observational:  # further tests, which no prompt cell enters, may have kept it lower
                score = min(score, item.score)
            if people is not None and people.reason:
                score = math.nan
        again.append(item.model_copy(update={"score": score}))
    if basis.query.task_type == "donor_expression_prediction":  # which has the type already, see score_coherence
        donor = next((item.score for item in again if item.name == keys.DONOR_EFFECT), math.nan)
        again = [
            item.model_copy(update={"score": float(np.minimum(item.score, donor))})
            if item.name == keys.CELL_TYPE_COHERENCE
            else item
            for item in again
        ]
    matched = basis.context.donor_matched
    return composite(again, donor_matched=matched, n_tested=n_tested, replication=effects.replication).value
