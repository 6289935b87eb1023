"""How accurate a prediction should be, what it hangs on, and what it cannot be told from.

In: the scored round and what its prompt's cells say. Out: the fields of ``Confidence`` that the front page shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.grounding.confidence.accuracy import expect_accuracy
from haystack_kernel.grounding.confidence.twins import find_twins
from haystack_kernel.grounding.confidence.without import scores_without
from haystack_kernel.grounding.de.background import effect_background
from haystack_kernel.schema import ExpectedAccuracy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from haystack_kernel.grounding.nulls.self_contained import SelfContained
    from haystack_kernel.grounding.records import Basis, GroundingCells
    from haystack_kernel.grounding.uncertainty.calls import Uncertain
    from haystack_kernel.schema import Component, EngineAgreement

_STAND_IN = "weighted"  # the engine that is left out in place of one that is not linear


def find_outlook(
    cells: GroundingCells,
    *,
    de: pd.DataFrame,
    studied: Uncertain | str,
    self_contained: SelfContained,
    components: Sequence[Component],
    agreement: Sequence[EngineAgreement],
    basis: Basis,
) -> dict[str, Any]:
    """Fields ``expected``, ``without`` and ``twins`` of ``Confidence``; a state of cells has no twins.

    Parameters
    ----------
    cells
        Raw counts by role.
    de
        The run's own table.
    studied
        What the prompt's cells say of its effects, or why nothing.
    self_contained
        The null of the components.
    components, agreement
        The scored components and baselines.
    basis
        Query, knowledge, settings and context.
    """
    engine = basis.context.engine
    if engine == "none":
        expected = ExpectedAccuracy(reason="engine none predicts no response")
    else:
        similarity = {item.engine: item.pearson for item in agreement}.get(_STAND_IN, float("nan"))
        expected = expect_accuracy(studied, query=cells.query, engine=engine, similarity=similarity)
    n_tested = int(de[keys.IS_TESTED].sum())
    background = effect_background(de, perturbations=basis.knowledge.perturbations)
    return {
        "expected": expected,
        "without": scores_without(
            components, self_contained=self_contained, studied=studied, basis=basis, n_tested=n_tested
        ),
        "twins": find_twins(background, basis=basis),
    }
