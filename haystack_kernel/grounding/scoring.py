"""Score one prediction: differential expression, both control readings, components, pathways, confidence.

In: cells by role, query, knowledge, settings, context. Out: ``Grounded``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import ContractError
from haystack_kernel.grounding.components.compute import compute_components
from haystack_kernel.grounding.components.expected import expected_sets
from haystack_kernel.grounding.components.pathways import compute_pathways, pathway_sets
from haystack_kernel.grounding.components.score import composite
from haystack_kernel.grounding.confidence.accuracy import expect_accuracy
from haystack_kernel.grounding.confidence.agreement import compare_engines
from haystack_kernel.grounding.confidence.aspects import assess_confidence
from haystack_kernel.grounding.confidence.outlook import find_outlook
from haystack_kernel.grounding.de.profiles import log_normalise, mean_profile
from haystack_kernel.grounding.de.table import (
    FLIPS,
    N_CONTROL,
    N_TREATED,
    compute_de,
    padded_genes,
)
from haystack_kernel.grounding.nulls.people import people_null
from haystack_kernel.grounding.nulls.response import ResponseTest, response_null
from haystack_kernel.grounding.nulls.self_contained import self_contained_null
from haystack_kernel.grounding.records import Basis, Grounded, GroundingCells, GroundingContext
from haystack_kernel.grounding.signatures.reference import build_reference
from haystack_kernel.grounding.uncertainty.calls import call_genes, query_profile, study_prompt
from haystack_kernel.grounding.uncertainty.prompt import LINEAR
from haystack_kernel.schema import Confidence
from inference.effects import measure_effect, summarise_arm

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad
    from numpy.typing import NDArray

    from haystack_kernel.grounding.de.background import SignedSet
    from haystack_kernel.grounding.nulls.self_contained import SelfContained
    from haystack_kernel.grounding.uncertainty.calls import Uncertain
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
        group = f"patients with {query.disease_name}" if query.compared_disease else ""
        profiles = build_reference(
            reference, asked=asked, prompt_ids=shown, n_draws=settings.n_draws, seed=context.seed, group=group
        )
    basis = Basis(query, knowledge, settings, context, reference=profiles, literature=literature)
    studied, also_detected, strata = _study(cells, basis=basis)
    de, other, notes = _both_readings(cells, studied=studied, also_detected=also_detected, basis=basis)
    n_tested = int(de[keys.IS_TESTED].sum())
    sets = expected_sets(basis) | pathway_sets(de, basis=basis)
    self_contained = _test_sets(cells, de, sets=sets, strata=strata, basis=basis)
    if basis.query.compared_disease:
        people = ResponseTest(reason=studied) if isinstance(studied, str) else people_null(studied.prompt)
        self_contained = replace(self_contained, people=people)
    components = compute_components(de, self_contained=self_contained, basis=basis)
    pathways = compute_pathways(de, self_contained=self_contained, basis=basis)
    agreement = compare_engines(
        cells, de=de, studied=studied, also_detected=also_detected, self_contained=self_contained, basis=basis
    )
    overall = composite(
        components,
        donor_matched=context.donor_matched,
        n_tested=n_tested,
        replication=self_contained.replication,
    )
    confidence = assess_confidence(
        cells,
        readings=(de, other),
        studied=studied,
        components=components,
        overall=overall,
        agreement=agreement,
        basis=basis,
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
        response=_test_response(studied, basis=basis),
    )


def score_briefly(
    cells: GroundingCells,
    *,
    query: StructuredQuery,
    knowledge: Knowledge,
    settings: GroundingSettings,
    context: GroundingContext,
) -> Grounded:
    """Score one of many predictions of responses: effects, calls, components and composite alone.

    They are those of :func:`score_prediction`, which needs more than twice the time for what is read of one prediction
    and not of hundreds: pathways, agreement of engines, the aspects of the confidence, leads and twins.

    Parameters
    ----------
    cells, query, knowledge, settings, context
        As of :func:`score_prediction`.

    Returns
    -------
    Grounded
        Without ``pathways``, ``agreement`` and column ``flips``; ``confidence`` holds the expected accuracy alone.

    Examples
    --------
    >>> score_briefly(cells, query=query, knowledge=knowledge, settings=settings, context=context)  # doctest: +SKIP
    """
    _check_same_genes(cells)
    basis = Basis(query, knowledge, settings, context)
    studied, also_detected, strata = _study(cells, basis=basis)
    control, _, notes = _first_control(cells, basis=basis)
    de = _compare(cells, control, studied=studied, also_detected=also_detected, basis=basis)
    n_tested = int(de[keys.IS_TESTED].sum())
    self_contained = _test_sets(cells, de, sets=expected_sets(basis), strata=strata, basis=basis)
    components = compute_components(de, self_contained=self_contained, basis=basis)
    overall = composite(
        components,
        donor_matched=context.donor_matched,
        n_tested=n_tested,
        replication=self_contained.replication,
    )
    expected = None
    if context.engine != "none":
        expected = expect_accuracy(studied, query=cells.query, engine=context.engine, similarity=float("nan"))
    if isinstance(studied, str):
        notes.append(f"no gene can be called: {studied}")
    return Grounded(
        de=de,
        pathways=pd.DataFrame(),
        components=components,
        composite=overall,
        agreement=(),
        confidence=Confidence(expected=expected),
        n_tested=n_tested,
        notes=tuple(notes),
        response=_test_response(studied, basis=basis),
    )


def _study(cells: GroundingCells, *, basis: Basis) -> tuple[Uncertain | str, NDArray[np.float64], tuple[str, ...]]:
    """What the prompt's cells say of its effects; the largest detection of each gene; what makes the strata."""
    # Largest detection of each predicted gene in the query cells and in either arm of the prompt.
    genes = cells.treated.var_names
    also_detected = query_profile(cells.query)[1]
    for adata in (cells.prompt, cells.prompt_control):
        if adata is not None and adata.n_obs > 0:
            share = np.asarray((adata.X > 0).mean(axis=0)).ravel()
            where = adata.var_names.get_indexer(genes)
            also_detected = np.maximum(also_detected, np.where(where >= 0, share[where], 0.0))
    strata = _OBSERVATIONAL_STRATA.get(basis.query.task_type, _STRATA) if basis.is_observational else _STRATA
    studied = study_prompt(
        cells,
        engine=basis.context.engine,
        detection=also_detected,
        min_detection=basis.settings.min_detection,
        within=keys.CELL_TYPE if keys.CELL_TYPE in strata else keys.DONOR,
        shows_donor=keys.DONOR not in strata,
        of_people=basis.query.compared_disease is not None,
    )
    return studied, also_detected, strata


def _test_sets(
    cells: GroundingCells,
    de: pd.DataFrame,
    *,
    sets: Mapping[str, SignedSet],
    strata: tuple[str, ...],
    basis: Basis,
) -> SelfContained:
    return self_contained_null(
        cells.prompt,
        cells.prompt_control,
        sets=sets,
        tested=set(de.loc[de[keys.IS_TESTED], keys.GENE]),
        n_draws=basis.settings.n_draws,
        seed=basis.context.seed,
        within=strata,
    )


def _first_control(cells: GroundingCells, *, basis: Basis) -> tuple[ad.AnnData, ad.AnnData | None, list[str]]:
    """The control of the strategy in force, the other one where there is one, and notes."""
    first, second = cells.control_pred, cells.query
    if basis.context.control_strategy == "query_as_control":
        first, second = cells.query, cells.control_pred
    if first is None:
        return (
            cells.query,
            None,
            ["no prediction from control cells is available: compared with the query cells instead"],
        )
    return first, second, []


def _test_response(studied: Uncertain | str, *, basis: Basis) -> ResponseTest:
    if basis.is_observational:  # its two sides are kinds of cells, which always differ
        return ResponseTest(reason="the question is about a state of cells, and not about a treatment")
    return ResponseTest(reason=studied) if isinstance(studied, str) else response_null(studied.prompt)


def _both_readings(
    cells: GroundingCells, *, studied: Uncertain | str, also_detected: NDArray[np.float64], basis: Basis
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """DE against the control of the strategy in force, DE against the other control (or None), and notes.

    The first table marks the genes whose call the other reading does not share: a call that depends on the control is
    likely an artefact of it.
    """
    first, second, notes = _first_control(cells, basis=basis)
    if isinstance(studied, str):
        notes.append(f"no gene can be called: {studied}")
    de = _compare(cells, first, studied=studied, also_detected=also_detected, basis=basis)
    de[FLIPS] = False
    if second is None:
        notes.append("only one control reading is available: genes whose call flips between readings are unknown")
        return de, None, notes
    other = _compare(cells, second, studied=studied, also_detected=also_detected, basis=basis)
    calls = [
        np.sign(table[keys.EFFECT].fillna(0.0).to_numpy(float)) * table[keys.IS_DE].to_numpy(bool)
        for table in (de, other)
    ]
    de[FLIPS] = calls[0] != calls[1]
    n_called = int((de[keys.IS_DE] | other[keys.IS_DE]).sum())
    notes.append(f"{int(de[FLIPS].sum())} of {n_called} genes called in either control reading flip between the two")
    return de, other, notes


def _compare(
    cells: GroundingCells,
    control: ad.AnnData,
    *,
    studied: Uncertain | str,
    also_detected: NDArray[np.float64],
    basis: Basis,
) -> pd.DataFrame:
    """DE of the treated prediction against one control, with its uncertainty and the calls."""
    treated, engine = cells.treated, basis.context.engine
    expected = treated.var.get(keys.EXPECTED_LOG), control.var.get(keys.EXPECTED_LOG)
    de = compute_de(
        treated.X,
        control.X,
        genes=list(treated.var_names),
        padded=padded_genes(treated),
        settings=basis.settings,
        also_detected=also_detected,
        expected=expected,
    )
    resampled, drawn = [], None
    if engine not in LINEAR:
        for treated_again, control_again in cells.repeats:
            # query cells are measured and stay the same; a predicted control changes with its prompt
            other = control if control is cells.query or control_again is None else control_again
            resampled.append(mean_profile(treated_again) - mean_profile(other))
        if expected[0] is None:  # the mean over drawn counts has the error of drawing them
            drawn = measure_effect(*(summarise_arm(log_normalise(arm.X)) for arm in (treated, control))).se ** 2
    return call_genes(
        de, studied=studied, engine=engine, max_lfsr=basis.settings.max_lfsr, resampled=resampled, drawn=drawn
    )


def _check_same_genes(cells: GroundingCells) -> None:
    """Raise ContractError unless all predictions and the query cells have the same genes in the same order."""
    arms = {"query": cells.query, "control_pred": cells.control_pred} | cells.baselines
    for number, (treated, control) in enumerate(cells.repeats, start=1):
        arms |= {f"treated of resample {number}": treated, f"control of resample {number}": control}
    for name, adata in arms.items():
        if adata is not None and not adata.var_names.equals(cells.treated.var_names):
            msg = (
                f"{name} has {adata.n_vars} genes, the treated prediction {cells.treated.n_vars}, or in another order; "
                "predictions keep the genes of their query cells: run the inference again"
            )
            raise ContractError(msg, part=name)
