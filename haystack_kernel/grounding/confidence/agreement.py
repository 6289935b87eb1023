"""How the simple engines' predictions compare with the run's own, on the same query cells.

In: baseline predictions, the run's DE table. Out: one ``EngineAgreement`` per engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.components.compute import compute_components
from haystack_kernel.grounding.components.score import composite
from haystack_kernel.grounding.de.profiles import correlate
from haystack_kernel.grounding.de.table import compute_de, padded_genes
from haystack_kernel.grounding.uncertainty.calls import call_genes
from haystack_kernel.schema import EngineAgreement

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.grounding.nulls.self_contained import SelfContained
    from haystack_kernel.grounding.records import Basis, GroundingCells
    from haystack_kernel.grounding.uncertainty.calls import Uncertain


def compare_engines(
    cells: GroundingCells,
    *,
    de: pd.DataFrame,
    studied: Uncertain | str,
    also_detected: NDArray[np.float64],
    self_contained: SelfContained,
    basis: Basis,
) -> tuple[EngineAgreement, ...]:
    """Score every baseline in the way the run's engine was scored.

    Parameters
    ----------
    cells
        Cells by role. Baselines are compared with the query cells, because they predict no control.
    de
        The run's own table.
    studied
        What the prompt taught, by which the baselines' genes are called too.
    also_detected
        Detection in the other arms, see :func:`compute_de`.
    self_contained
        Self-contained null of the components. It depends on the prompt alone, so all engines share it.
    basis
        Query, knowledge, settings and context.

    Returns
    -------
    By engine name: Pearson correlation of the mean log-shifts over the run's tested genes (NaN for a constant shift),
    number of genes called, and the composite with as many draws as the run's own.
    """
    tested = de[keys.IS_TESTED].to_numpy(bool)
    delta = de[keys.DELTA].to_numpy(float)[tested]
    found = []
    for engine, predicted in sorted(cells.baselines.items()):
        table = compute_de(
            predicted.X,
            cells.query.X,
            genes=list(predicted.var_names),
            padded=padded_genes(predicted),
            settings=basis.settings,
            also_detected=also_detected,
        )
        table = call_genes(table, studied=studied, engine=engine, max_lfsr=basis.settings.max_lfsr)
        pearson = correlate(delta, table[keys.DELTA].to_numpy(float)[tested])
        components = compute_components(table, self_contained=self_contained, basis=basis)
        overall = composite(
            components,
            donor_matched=basis.context.donor_matched,
            n_tested=int(table[keys.IS_TESTED].sum()),
            replication=self_contained.replication,
        )
        found.append(
            EngineAgreement(
                engine=engine,
                pearson=pearson,
                n_de=int(table[keys.IS_DE].sum()),
                composite=overall.value,
                note="a constant shift has no correlation" if np.isnan(pearson) else "compared with the query cells",
            )
        )
    return tuple(found)
