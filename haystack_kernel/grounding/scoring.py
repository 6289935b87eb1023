"""Score one prediction: differential expression, both control readings, components, pathways, confidence.

In: cells by role, query, knowledge, settings, context. Out: ``Grounded``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.errors import ContractError
from haystack_kernel.grounding.components.compute import compute_components
from haystack_kernel.grounding.components.expected import expected_sets
from haystack_kernel.grounding.components.pathways import compute_pathways, pathway_sets
from haystack_kernel.grounding.components.score import composite
from haystack_kernel.grounding.confidence.agreement import compare_engines
from haystack_kernel.grounding.confidence.aspects import assess_confidence
from haystack_kernel.grounding.confidence.outlook import find_outlook
from haystack_kernel.grounding.de.resample import without_donors
from haystack_kernel.grounding.de.table import (
    FLIPS,
    N_CONTROL,
    N_TREATED,
    compute_de,
    demand_stability,
    padded_genes,
)
from haystack_kernel.grounding.nulls.self_contained import self_contained_null
from haystack_kernel.grounding.records import Basis, Grounded, GroundingCells, GroundingContext
from haystack_kernel.grounding.signatures.reference import build_reference
from haystack_kernel.grounding.uncertainty.calls import study_prompt

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    from numpy.typing import NDArray
    from scipy import sparse

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.literature.reading import Reading
    from haystack_kernel.schema import GroundingSettings, StructuredQuery

_STRATA = (keys.DONOR, keys.CELL_TYPE)
# Of a state of cells the prompt compares cell types within a donor, or donors within a cell type.
_OBSERVATIONAL_STRATA = {"cell_type_imputation": (keys.DONOR,), "donor_expression_prediction": (keys.CELL_TYPE,)}


def score_prediction(
    cells: GroundingCells,
    *,
    query: StructuredQuery,
    knowledge: Knowledge,
    settings: GroundingSettings,
    context: GroundingContext,
    reference: ad.AnnData | None = None,
    literature: Reading | None = None,
) -> Grounded:
    """Score one prediction against its control and against known biology.

    Parameters
    ----------
    cells
        Raw counts by role.
    query
        Names what is expected: pathways and response genes with their direction.
    knowledge
        Pathway gene sets, the gene network, and the responses of all known perturbations.
    settings
        Thresholds, number of draws, weights.
    context
        Random seed, predictions scored so far, donor match, effective control strategy.
    reference
        For a question about a state of cells: cells as :func:`haystack_kernel.retrieval.fetch_reference` marks them.
    literature
        What papers say about the asked perturbation; None: no source was asked.

    Returns
    -------
    Grounded
        Effects (natural log1p-CP10k and log2 fold changes, treated over control), components and composite (1 to 10;
        NaN with a reason where not computed) and confidence. ``synthetic_control`` compares ``treated`` with
        ``control_pred`` (with the query cells, and a note, where there is none); ``query_as_control`` compares it with
        the query cells.

    Raises
    ------
    ContractError
        Predictions and query cells do not share cells and genes.
    InvalidInputError
        An arm has no cells, or holds values that are no counts.

    References
    ----------
    Goeman and Buehlmann, Bioinformatics 23:980 (2007), for the two nulls of every component.

    Examples
    --------
    >>> context = GroundingContext(seed=0)
    >>> grounded = score_prediction(  # doctest: +SKIP
    ...     cells, query=query, knowledge=knowledge, settings=settings, context=context
    ... )
    >>> grounded.composite.value  # doctest: +SKIP
    8.5
    """
    _check_same_genes(cells)
    profiles = None
    if reference is not None:
        asked = query.cell_type_name or query.cell_type_text or "the cells asked for"
        shown = cells.prompt.obs_names
        profiles = build_reference(
            reference, asked=asked, prompt_ids=shown, n_draws=settings.n_draws, seed=context.seed
        )
    basis = Basis(query, knowledge, settings, context, reference=profiles, literature=literature)
    # Largest detection of each predicted gene in the query cells and in either arm of the prompt.
    genes = cells.treated.var_names
    also_detected = np.zeros(len(genes))
    for adata in (cells.query, cells.prompt, cells.prompt_control):
        if adata is not None and adata.n_obs > 0:
            share = np.asarray((adata.X > 0).mean(axis=0)).ravel()
            where = adata.var_names.get_indexer(genes)
            also_detected = np.maximum(also_detected, np.where(where >= 0, share[where], 0.0))
    strata = _OBSERVATIONAL_STRATA.get(query.task_type, _STRATA) if basis.is_observational else _STRATA
    studied = study_prompt(
        cells,
        engine=context.engine,
        detection=also_detected,
        min_detection=settings.min_detection,
        within=keys.CELL_TYPE if keys.CELL_TYPE in strata else keys.DONOR,
    )
    de, other, notes = _both_readings(cells, also_detected=also_detected, basis=basis)
    n_tested, tested = int(de[keys.IS_TESTED].sum()), set(de.loc[de[keys.IS_TESTED], keys.GENE])
    self_contained = self_contained_null(
        cells.prompt,
        cells.prompt_control,
        sets=expected_sets(basis) | pathway_sets(de, basis=basis),
        tested=tested,
        n_draws=settings.n_draws,
        seed=context.seed,
        within=strata,
    )
    components = compute_components(de, self_contained=self_contained, basis=basis)
    pathways = compute_pathways(de, self_contained=self_contained, basis=basis)
    agreement = compare_engines(cells, de=de, also_detected=also_detected, self_contained=self_contained, basis=basis)
    overall = composite(
        components,
        donor_matched=context.donor_matched,
        n_tested=n_tested,
        replication=self_contained.replication,
    )
    confidence = assess_confidence(
        cells, de=de, other=other, components=components, overall=overall, agreement=agreement, basis=basis
    )
    outlook = find_outlook(
        cells,
        de=de,
        studied=studied,
        self_contained=self_contained,
        components=components,
        agreement=agreement,
        basis=basis,
    )
    notes.append(
        f"p values rest on {de.attrs[N_TREATED]} predicted and {de.attrs[N_CONTROL]} control cells; "
        "generated cells are not replicates"
    )
    return Grounded(
        de=de,
        pathways=pathways,
        components=components,
        composite=overall,
        agreement=agreement,
        confidence=confidence.model_copy(update=outlook),
        n_tested=n_tested,
        notes=tuple(notes),
    )


def _both_readings(
    cells: GroundingCells, *, also_detected: NDArray[np.float64], basis: Basis
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """DE against the control of the strategy in force, DE against the other control (or None), and notes.

    The first table marks the genes whose call the other reading does not share: a call that depends on the control is
    likely an artefact of it.
    """
    notes = []
    first, second = cells.control_pred, cells.query
    if basis.context.control_strategy == "query_as_control":
        first, second = cells.query, cells.control_pred
    if first is None:
        first, second = cells.query, None
        notes.append("no prediction from control cells is available: compared with the query cells instead")
    fewer_donors = without_donors(cells, engine=basis.context.engine, seed=basis.context.seed)
    de = _compare(cells, first, fewer_donors=fewer_donors, also_detected=also_detected, basis=basis)
    de[FLIPS] = False
    if second is None:
        notes.append("only one control reading is available: genes whose call flips between readings are unknown")
        return de, None, notes
    other = _compare(cells, second, fewer_donors=fewer_donors, also_detected=also_detected, basis=basis)
    calls = [np.sign(table[keys.LOG2FC].to_numpy(float)) * table[keys.IS_DE].to_numpy(bool) for table in (de, other)]
    de[FLIPS] = calls[0] != calls[1]
    n_called = int((de[keys.IS_DE] | other[keys.IS_DE]).sum())
    notes.append(f"{int(de[FLIPS].sum())} of {n_called} genes called in either control reading flip between the two")
    return de, other, notes


def _compare(
    cells: GroundingCells,
    control: ad.AnnData,
    *,
    fewer_donors: list[sparse.csr_matrix],
    also_detected: NDArray[np.float64],
    basis: Basis,
) -> pd.DataFrame:
    """DE of the treated prediction against one control, with the calls that every resample confirms."""
    treated = cells.treated
    de = compute_de(
        treated.X,
        control.X,
        genes=list(treated.var_names),
        padded=padded_genes(treated),
        settings=basis.settings,
        also_detected=also_detected,
        expected=(treated.var.get(keys.EXPECTED_LOG), control.var.get(keys.EXPECTED_LOG)),
    )
    resamples = []
    for treated_again, control_again in cells.repeats:
        # query cells are measured and stay the same under another seed; a predicted control changes with it
        other = control if control is cells.query or control_again is None else control_again
        resamples.append((treated_again.X, other.X))
    resamples += [(counts, control.X) for counts in fewer_donors]
    return demand_stability(de, resamples=resamples, settings=basis.settings)


def _check_same_genes(cells: GroundingCells) -> None:
    """Raise ContractError unless all predictions and the query cells have the same genes in the same order."""
    arms = {"query": cells.query, "control_pred": cells.control_pred} | cells.baselines
    for number, (treated, control) in enumerate(cells.repeats, start=1):
        arms |= {f"treated of seed {number}": treated, f"control of seed {number}": control}
    for name, adata in arms.items():
        if adata is not None and not adata.var_names.equals(cells.treated.var_names):
            msg = (
                f"{name} has {adata.n_vars} genes, the treated prediction {cells.treated.n_vars}, or in another order; "
                "predictions keep the genes of their query cells: run the inference again"
            )
            raise ContractError(msg, part=name)
