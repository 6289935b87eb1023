"""One prediction is judged: differential expression, both control readings, components, pathways, agreement.

In: cells by role, query, knowledge, settings, context. Out: ``Grounded``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.errors import ContractError
from haystack_kernel.grounding.components.pathways import compute_pathways, pathway_sets
from haystack_kernel.grounding.components.perturbational import compute_components, expected_sets, is_observational
from haystack_kernel.grounding.components.score import composite
from haystack_kernel.grounding.confidence.agreement import compare_engines, padded_genes
from haystack_kernel.grounding.confidence.aspects import judge_confidence
from haystack_kernel.grounding.de.resample import without_donors
from haystack_kernel.grounding.de.table import FLIPS, N_CONTROL, N_TREATED, compute_de, demand_stability
from haystack_kernel.grounding.nulls.draws import p_signal
from haystack_kernel.grounding.records import Basis, Grounded, GroundingCells, GroundingContext
from haystack_kernel.grounding.signatures.reference import build_reference

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    from numpy.typing import NDArray
    from scipy import sparse

    from haystack_kernel.grounding.signatures.reference import ReferenceProfiles
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.literature.reading import Reading
    from haystack_kernel.schema import GroundingSettings, StructuredQuery

_BOTH = (keys.DONOR, keys.CELL_TYPE)
_STRATA = {"cell_type_imputation": (keys.DONOR,), "donor_expression_prediction": (keys.CELL_TYPE,)}


def ground(
    cells: GroundingCells,
    *,
    query: StructuredQuery,
    knowledge: Knowledge,
    settings: GroundingSettings,
    context: GroundingContext,
    reference: ad.AnnData | None = None,
    literature: Reading | None = None,
) -> Grounded:
    """Judge one prediction against its control and against known biology.

    Parameters
    ----------
    cells
        Raw counts by role.
    query
        Names what is expected: pathways and response genes with their direction.
    knowledge
        Pathway gene sets and the responses of competing perturbations.
    settings
        Thresholds, number of draws, weights.
    context
        Seed, predictions scored so far, donor match, effective control strategy.
    reference
        Of an observational question, cells as :func:`haystack_kernel.retrieval.fetch_reference` marks them.
    literature
        What papers on the asked perturbation say; None: no source was asked.

    Returns
    -------
    ``synthetic_control`` compares ``treated`` with ``control_pred`` (with the query cells, and a note, where there is
    none), ``query_as_control`` with the query cells.

    Raises
    ------
    ContractError
        Predictions and query cells do not share cells and genes.
    """
    _check_aligned(cells)
    profiles = _profiles(reference, cells=cells, query=query, n_draws=settings.n_draws, seed=context.seed)
    basis = Basis(query, knowledge, settings, context, reference=profiles, literature=literature)
    also = _detected_elsewhere(cells)
    de, other, notes = _both_readings(cells, also=also, basis=basis)
    tested = de.loc[de[keys.IS_TESTED], keys.GENE].tolist()
    signal = p_signal(
        cells.prompt,
        cells.prompt_control,
        sets=expected_sets(basis) | pathway_sets(de, basis=basis),
        tested=set(tested),
        n_draws=settings.n_draws,
        seed=context.seed,
        within=_STRATA.get(query.task_type, _BOTH) if is_observational(basis) else _BOTH,
    )
    components = compute_components(de, predicted=cells.treated, signal=signal, basis=basis)
    notes.append(
        f"p values rest on {de.attrs[N_TREATED]} predicted and {de.attrs[N_CONTROL]} control cells; "
        "generated cells are not replicates"
    )
    agreement = compare_engines(cells, de=de, also_detected=also, signal=signal, basis=basis)
    return Grounded(
        de=de,
        pathways=compute_pathways(de, signal=signal, basis=basis),
        components=components,
        composite=composite(components, donor_matched=context.donor_matched),
        agreement=agreement,
        confidence=judge_confidence(cells, de=de, other=other, components=components, agreement=agreement, basis=basis),
        n_tested=len(tested),
        notes=tuple(notes),
    )


def _profiles(
    reference: ad.AnnData | None, *, cells: GroundingCells, query: StructuredQuery, n_draws: int, seed: int
) -> ReferenceProfiles | None:
    """Profiles of the reference; its cells that are prompt cells as well are left out where enough others remain."""
    if reference is None:
        return None
    asked = query.cell_type_name or query.cell_type_text or "the cells asked for"
    return build_reference(reference, asked=asked, prompt_ids=cells.prompt.obs_names, n_draws=n_draws, seed=seed)


def _both_readings(
    cells: GroundingCells, *, also: NDArray[np.float64], basis: Basis
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """DE of the reading in force, with the genes whose call the other reading does not share, and of the other."""
    notes = []
    first, other = cells.control_pred, cells.query
    if basis.context.control_strategy == "query_as_control":
        first, other = cells.query, cells.control_pred
    if first is None:
        first, other = cells.query, None
        notes.append("no prediction from control cells at hand: compared with the query cells instead")
    fewer = without_donors(cells, engine=basis.context.engine, seed=basis.context.seed)
    de = _compare(cells, first, fewer=fewer, also=also, basis=basis)
    de[FLIPS] = False
    if other is None:
        notes.append("only one control reading at hand: genes whose call flips between readings are unknown")
        return de, None, notes
    second = _compare(cells, other, fewer=fewer, also=also, basis=basis)
    signs = [np.sign(table[keys.LOG2FC].to_numpy(float)) * table[keys.IS_DE].to_numpy(bool) for table in (de, second)]
    de[FLIPS] = signs[0] != signs[1]
    n_called = int((de[keys.IS_DE] | second[keys.IS_DE]).sum())
    notes.append(f"{int(de[FLIPS].sum())} of {n_called} genes called in either control reading flip between the two")
    return de, second, notes


def _compare(
    cells: GroundingCells,
    control: ad.AnnData,
    *,
    fewer: list[sparse.csr_matrix],
    also: NDArray[np.float64],
    basis: Basis,
) -> pd.DataFrame:
    treated = cells.treated
    is_query = control is cells.query
    de = compute_de(
        treated.X,
        control.X,
        genes=list(treated.var_names),
        padded=padded_genes(treated),
        settings=basis.settings,
        also_detected=also,
        expected=(treated.var.get(keys.EXPECTED_LOG), control.var.get(keys.EXPECTED_LOG)),
    )
    resamples = [
        *((again.X, control.X if is_query or own is None else own.X) for again, own in cells.repeats),
        *((counts, control.X) for counts in fewer),
    ]
    return demand_stability(de, resamples=resamples, settings=basis.settings)


def _detected_elsewhere(cells: GroundingCells) -> NDArray[np.float64]:
    """Largest detection of each predicted gene in the query cells and in either arm of the prompt."""
    genes = cells.treated.var_names
    largest = np.zeros(len(genes))
    for adata in (cells.query, cells.prompt, cells.prompt_control):
        if adata is None or adata.n_obs == 0:
            continue
        share = np.asarray((adata.X > 0).mean(axis=0)).ravel()
        where = adata.var_names.get_indexer(genes)
        largest = np.maximum(largest, np.where(where >= 0, share[where], 0.0))
    return largest


def _check_aligned(cells: GroundingCells) -> None:
    arms = {"query": cells.query, "control_pred": cells.control_pred} | cells.baselines
    for number, repeat in enumerate(cells.repeats, start=1):
        arms |= {f"{role} of seed {number}": adata for role, adata in zip(("treated", "control"), repeat, strict=True)}
    for name, adata in arms.items():
        if adata is not None and not adata.var_names.equals(cells.treated.var_names):
            msg = (
                f"{name} has {adata.n_vars} genes, the treated prediction {cells.treated.n_vars}, or in another order; "
                "predictions keep the genes of their query cells: run the inference again"
            )
            raise ContractError(msg, part=name)
