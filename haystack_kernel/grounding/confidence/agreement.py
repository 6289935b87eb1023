"""How the simple engines' predictions compare with the run's own, on the same query cells.

In: baseline predictions, the run's DE table. Out: one ``EngineAgreement`` per engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.grounding.components.perturbational import compute_components
from haystack_kernel.grounding.components.score import composite
from haystack_kernel.grounding.de.table import compute_de
from haystack_kernel.schema import EngineAgreement

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.grounding.nulls.draws import Signal
    from haystack_kernel.grounding.records import Basis, GroundingCells

NAN = float("nan")


def compare_engines(
    cells: GroundingCells,
    *,
    de: pd.DataFrame,
    also_detected: NDArray[np.float64],
    signal: Signal,
    basis: Basis,
) -> tuple[EngineAgreement, ...]:
    """Judge every baseline the way the run's engine was judged.

    Parameters
    ----------
    cells
        Baselines are compared with the query cells.
    de
        The run's own table.
    also_detected
        Detection in the other arms, see :func:`compute_de`.
    signal
        p_signal of the components: it depends on the prompt alone, so all engines share it.
    basis
        Query, knowledge, settings and context.

    Returns
    -------
    Pearson correlation of the mean log-shifts over the run's tested genes, number of genes called, composite with as
    many draws as the run's own.
    """
    return tuple(
        _compare(name, cells.baselines[name], cells=cells, de=de, also=also_detected, judge=(signal, basis))
        for name in sorted(cells.baselines)
    )


def _compare(
    engine: str,
    predicted: ad.AnnData,
    *,
    cells: GroundingCells,
    de: pd.DataFrame,
    also: NDArray[np.float64],
    judge: tuple[Signal, Basis],
) -> EngineAgreement:
    signal, basis = judge
    padded = padded_genes(predicted)
    own = compute_de(
        predicted.X,
        cells.query.X,
        genes=list(predicted.var_names),
        padded=padded,
        settings=basis.settings,
        also_detected=also,
    )
    tested = de[keys.IS_TESTED].to_numpy(bool)
    pearson = correlate(de[keys.DELTA].to_numpy(float)[tested], own[keys.DELTA].to_numpy(float)[tested])
    components = compute_components(own, predicted=predicted, signal=signal, basis=basis)
    judged = composite(components, donor_matched=basis.context.donor_matched)
    note = "compared with the query cells" if not np.isnan(pearson) else "a constant shift has no correlation"
    return EngineAgreement(
        engine=engine, pearson=pearson, n_de=int(own[keys.IS_DE].sum()), composite=judged.value, note=note
    )


def correlate(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Pearson correlation; NaN below three values or where one side is constant."""
    if one.size < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return NAN
    return float(np.corrcoef(one, two)[0, 1])


def padded_genes(predicted: ad.AnnData) -> NDArray[np.bool_]:
    """Genes that a prediction could not change; none where it does not say."""
    if keys.PADDED in predicted.var:
        return predicted.var[keys.PADDED].to_numpy(bool)
    return np.zeros(predicted.n_vars, dtype=bool)
