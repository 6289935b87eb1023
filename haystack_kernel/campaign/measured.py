"""Responses that an atlas has measured, as effects with their errors: what predictions are laid beside.

In: an atlas, knowledge tables, optionally a cell type. Out: an AnnData of effects, one row per measured response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.nulls.donors import HALF_CELLS
from haystack_kernel.grounding.uncertainty.prior import posterior
from haystack_kernel.grounding.uncertainty.prompt import CONTROL, POOLED, summarise_prompt
from haystack_kernel.grounding.uncertainty.transfer import LEAST, learn_transfer
from haystack_kernel.retrieval.cells.matched_control import match_own_type
from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells
from haystack_kernel.retrieval.view import (
    CANONICAL,
    HAS_DONOR,
    TYPE_KEY,
    cell_set,
    cells_of,
    large_groups,
    type_label,
)
from haystack_kernel.retrieval.view import N_CELLS as N_CELLS_OF

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import anndata as ad
    from numpy.typing import NDArray

    from haystack_kernel.ports import Atlas
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import CellSet

N_CELLS = 300  # of each arm: enough for the effect, however large the data set
MIN_DETECTION = 0.02  # in either arm; the effects of other genes are noise
LEVEL = "level"  # var: mean log1p(CP10k) of the control cells, by which random states are matched
SOURCE, MEASURED, PREDICTED = "source", "measured", "predicted"  # column that says which is which
LEFT_OUT = "left_out"  # uns: why a treated group of the atlas is no row, one sentence each
DONOR_MATCHED = "donor_matched"


def measure_effects(
    atlas: Atlas,
    *,
    view: AtlasView,
    cell_types: Collection[str] = (),
    perturbations: Collection[str] = (),
    progress: Callable[[str, float], None] | None = None,
) -> ad.AnnData:
    """Measure every response that an atlas holds: treated cells against control cells of the same donors.

    Parameters
    ----------
    atlas
        Cells of one or several atlases; at most 300 cells of each arm are read.
    view
        Its conditions without the hidden pairs, of :func:`haystack_kernel.retrieval.build_view`.
    cell_types
        CL ids, or labels of types without one; empty: all.
    perturbations
        Canonical names; empty: all.
    progress
        Called with a message and the fraction done.

    Returns
    -------
    AnnData
        One row per data set, treatment and cell type that has control cells. ``X`` holds the expected true effect of
        the population of cells (natural log1p-CP10k, treated over control; NaN where a gene was not detected in 2 % of
        either arm), layer ``effect_sd`` its standard deviation: the error of the measurement, and how far the effect
        was seen to differ between donors; layer ``delta`` is the plain difference of the two arms. ``var["level"]`` is
        the mean level in control cells. ``obs`` has
        perturbation, cell type, data set, numbers of cells and donors, and whether control donors are the same.
        ``uns["left_out"]`` says why the other treated groups are no rows.

    Raises
    ------
    InvalidInputError
        No response of this kind is measured.

    Examples
    --------
    >>> measure_effects(atlas, view=view, cell_types=["CL:0000236"]).n_obs  # doctest: +SKIP
    12
    """
    rows = view.treated
    if cell_types:
        rows = rows[rows[TYPE_KEY].isin(list(cell_types))]
    if perturbations:
        rows = rows[rows[CANONICAL].isin(list(perturbations)) | rows[keys.PERTURBATION].isin(list(perturbations))]
    groups = list(large_groups(rows, view=view))
    controls: dict[str, ad.AnnData] = {}
    found: list[_Response] = []
    left_out: list[str] = []
    for number, group in enumerate(groups, start=1):
        response = _measure(group, view=view, atlas=atlas, controls=controls)
        if isinstance(response, str):
            left_out.append(response)
        else:
            found.append(response)
        if progress:
            progress(f"{number} of {len(groups)} measured responses were read", number / len(groups))
    return _as_anndata(found, left_out=left_out)


class _Response:
    """One measured response: what it is of, and its values by gene."""

    def __init__(self, facts: dict[str, object], values: dict[str, NDArray[np.float64]], genes: list[str]) -> None:
        self.facts = facts
        self.values = {name: pd.Series(one, pd.Index(genes)) for name, one in values.items()}


def _measure(group: pd.DataFrame, *, view: AtlasView, atlas: Atlas, controls: dict[str, ad.AnnData]) -> _Response | str:
    """Effects of one group of conditions, or the reason why there are none, as a sentence."""
    name, label = str(group[CANONICAL].iloc[0]), type_label(group)
    what = f"{name} in {cells_of(label)} ({group[keys.DATASET].iloc[0]})"
    match = match_own_type(group, view=view)
    if match.control is None:
        return f"{what}: {match.reason}"
    prompt = cell_set(match.prompt, by_tissue=match.by_tissue, view=view)
    seed = view.config.seed
    treated = fetch_cells(prompt, atlas=atlas, seed=seed)
    key = match.control.key
    if key not in controls:
        controls[key] = fetch_cells(match.control, atlas=atlas, seed=seed)
    control = controls[key]
    genes = [gene for gene in _detected(treated, control) if gene in control.var_names]
    if not genes or min(treated.n_obs, control.n_obs) < 2:
        return f"{what}: fewer than two cells, or no gene that 2 % of them show"
    studied = summarise_prompt(treated, control, genes=genes, within=keys.CELL_TYPE)
    base = studied.arm(CONTROL, studied.everything)
    own = studied.respond(POOLED, studied.everything, base=base.mean)
    transfer = learn_transfer(studied, engine=POOLED, base=base.mean, has_type=True, has_donor=True, asked=own)
    donors = match.prompt[match.prompt[HAS_DONOR]].groupby(keys.DONOR)[N_CELLS_OF].sum().to_numpy(float)
    c2 = transfer.c2 / max(float((donors / (donors + HALF_CELLS)).sum()), 1.0)
    there = posterior(own.effect, own.variance).no_lower_than(-base.mean).carried_over(c2, least=LEAST)
    mean, variance = there.moments()
    facts: dict[str, object] = {
        "perturbation": name,
        "cell_type": label,
        "cell_type_id": str(group[keys.CELL_TYPE_ID].iloc[0]),
        "cell_type_key": str(group[TYPE_KEY].iloc[0]),
        "type": str(group[keys.PERTURBATION_TYPE].iloc[0]),
        keys.DATASET: prompt.dataset,
        "n_treated": treated.n_obs,
        "n_control": control.n_obs,
        "n_donors": int(treated.obs[keys.DONOR].nunique()),
        DONOR_MATCHED: match.donor_matched,
        "transfer_error": float(np.sqrt(c2)),
        SOURCE: MEASURED,
    }
    values = {keys.EFFECT: mean, keys.EFFECT_SD: np.sqrt(variance), keys.DELTA: own.effect, LEVEL: base.mean}
    return _Response(facts, values, genes)


def fetch_cells(cells: CellSet, *, atlas: Atlas, seed: int) -> ad.AnnData:
    """At most 300 cells of a cell set, raw counts."""
    rng = make_rng(seed, role=f"campaign/measured/{cells.key}")
    return atlas.fetch(sample_cells(atlas.select(cells), n=N_CELLS, rng=rng))


def _detected(treated: ad.AnnData, control: ad.AnnData) -> list[str]:
    """Genes that at least 2 % of the cells of either arm show."""
    shares = [pd.Series(np.asarray((arm.X > 0).mean(axis=0)).ravel(), arm.var_names) for arm in (treated, control)]
    both = pd.concat(shares, axis=1, join="inner").max(axis=1)
    return [str(gene) for gene in both.index[both >= MIN_DETECTION]]


def _as_anndata(found: list[_Response], *, left_out: list[str]) -> ad.AnnData:
    import anndata

    if not found:
        why = f" ({'; '.join(left_out[:3])})" if left_out else ""
        msg = (
            "the atlas holds no measured response of this kind: treated cells with control cells of the same type and "
            f"data set{why}; name another cell type, or search the predicted effects alone"
        )
        raise InvalidInputError(msg, left_out=left_out)
    names = (keys.EFFECT, keys.EFFECT_SD, keys.DELTA, LEVEL)
    effect, sd, delta, level = (pd.DataFrame([one.values[name] for one in found]) for name in names)
    index = pd.Index([f"m{number:04d}" for number in range(1, len(found) + 1)])
    made = anndata.AnnData(
        X=_floats(effect),
        obs=pd.DataFrame([one.facts for one in found], index=index),
        var=pd.DataFrame({LEVEL: level.mean(axis=0).to_numpy(float)}, index=pd.Index(effect.columns.astype(str))),
    )
    made.layers[keys.EFFECT_SD] = _floats(sd)
    made.layers[keys.DELTA] = _floats(delta)
    made.uns[LEFT_OUT] = left_out
    return made


def _floats(table: pd.DataFrame) -> NDArray[np.float64]:
    return table.to_numpy(float)
