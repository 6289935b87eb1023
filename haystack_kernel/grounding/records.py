"""What grounding takes and returns, as frozen records.

In: nothing. Out: ``GroundingCells`` and ``GroundingContext`` (taken), ``Grounded`` (returned), ``Basis`` and
``Evidence`` (passed between the sub-packages).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from haystack_kernel.grounding.nulls.response import ResponseTest
from haystack_kernel.schema import OBSERVATIONAL

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from haystack_kernel.grounding.de.background import Background
    from haystack_kernel.grounding.nulls.self_contained import SelfContained
    from haystack_kernel.grounding.signatures.reference import ReferenceProfiles
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.literature.reading import Reading
    from haystack_kernel.schema import (
        Calibration,
        Component,
        Composite,
        Confidence,
        ControlStrategy,
        EngineAgreement,
        EvidenceDistance,
        GroundingSettings,
        StructuredQuery,
    )


@dataclass(frozen=True, eq=False)
class GroundingCells:
    """Cells by role, as raw counts.

    Attributes
    ----------
    treated
        Prediction for the query cells. ``var["padded"]`` marks genes that the prediction could not change; without
        that column no gene is padded. All predictions and ``query`` share their genes, in the same order.
    control_pred
        Prediction made with the control cells as prompt (synthetic control); None where there is none.
    query
        The cells that the prediction starts from.
    prompt, prompt_control
        The prompt's treated cells and its matched control cells.
    baselines
        Engine name -> treated prediction of a simple engine.
    repeats
        Treated and control predictions from resampled prompts, of an engine with a model.
    measured
        Label -> treated and control cells of a measured response that is not part of the prompt.

    Examples
    --------
    >>> cells = GroundingCells(treated, control_pred, query, prompt, prompt_control)  # doctest: +SKIP
    """

    treated: ad.AnnData
    control_pred: ad.AnnData | None
    query: ad.AnnData
    prompt: ad.AnnData
    prompt_control: ad.AnnData | None = None
    baselines: dict[str, ad.AnnData] = field(default_factory=dict)
    repeats: tuple[tuple[ad.AnnData, ad.AnnData | None], ...] = ()
    measured: dict[str, tuple[ad.AnnData, ad.AnnData]] = field(default_factory=dict)


@dataclass(frozen=True)
class GroundingContext:
    """How the prediction was made.

    Attributes
    ----------
    seed
        Random seed of everything drawn.
    n_scored
        Number of predictions of the run scored so far, this one included; p values are corrected for the best of them.
    donor_matched
        Whether the prompt's control cells come from the same donors.
    control_strategy
        The effective control strategy; ``control_note`` says why it is not the one asked for.
    engine
        Engine of the prediction.
    evidence
        Distinct evidence distances of the prompt's candidates.
    frac_genes_found
        Share of the genes that the engine could change, 0 to 1; NaN: not known.
    calibration
        What the back-test of the prompt's atlas says of the engine; None where none was made.
    citation, data_sets
        What the engine's weights are to be cited with (empty: it has none), and the data sets of the prompt.

    Examples
    --------
    >>> GroundingContext(seed=0, engine="shift").control_strategy
    'synthetic_control'
    """

    seed: int
    n_scored: int = 1
    donor_matched: bool = True
    control_strategy: ControlStrategy = "synthetic_control"
    control_note: str = ""
    engine: str = ""
    evidence: tuple[EvidenceDistance, ...] = ()
    frac_genes_found: float = float("nan")
    calibration: Calibration | None = None
    citation: str = ""
    data_sets: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Basis:
    """Everything that a score rests on besides the cells.

    Attributes
    ----------
    query, knowledge, settings, context
        What was asked, what is known, the thresholds, and how the prediction was made.
    reference
        What cell types, donors and tissues look like; None for questions about a perturbation, and where the atlases
        hold no such cells.
    literature
        What papers say about the asked perturbation; None where no source was asked.
    """

    query: StructuredQuery
    knowledge: Knowledge
    settings: GroundingSettings
    context: GroundingContext
    reference: ReferenceProfiles | None = None
    literature: Reading | None = None

    @property
    def is_observational(self) -> bool:
        """Whether the question is about a state of cells and not about a perturbation."""
        query = self.query
        return query.task_type in OBSERVATIONAL or (query.perturbation is None and not query.expected_targets)


@dataclass(frozen=True, eq=False)
class Evidence:
    """One prediction as its components see it.

    Attributes
    ----------
    de
        From :func:`compute_de`.
    background
        The tested genes of ``de`` with their standardised effects.
    self_contained
        Self-contained null of :func:`expected_sets`. It depends on the prompt alone, so all engines share it.
    basis
        What the score rests on.
    """

    de: pd.DataFrame
    background: Background
    self_contained: SelfContained
    basis: Basis


@dataclass(frozen=True, eq=False)
class Grounded:
    """The score of one prediction with everything that it rests on.

    Attributes
    ----------
    de
        One row per gene, see :func:`compute_de` and :func:`call_genes`; column ``flips``: the call differs between
        the two control readings.
    pathways
        One row per pathway, see :func:`compute_pathways`.
    components, composite
        The components and their weighted mean, 1 to 10; NaN with a reason where one could not be computed.
    agreement
        One row per simple engine.
    confidence
        How far to trust the prediction.
    n_tested
        Number of tested genes.
    notes
        One sentence each, for people.
    response
        Whether the prompt shows any response, see :func:`response_null`.

    Examples
    --------
    >>> {component.name: component.score for component in grounded.components}  # doctest: +SKIP
    """

    de: pd.DataFrame
    pathways: pd.DataFrame
    components: tuple[Component, ...]
    composite: Composite
    agreement: tuple[EngineAgreement, ...]
    confidence: Confidence
    n_tested: int
    notes: tuple[str, ...] = ()
    response: ResponseTest = field(default_factory=ResponseTest)
