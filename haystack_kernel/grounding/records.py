"""What grounding takes and gives, as frozen records.

In: nothing. Out: ``GroundingCells``, ``GroundingContext``, ``Grounded``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from haystack_kernel.grounding.nulls.draws import Signal
    from haystack_kernel.grounding.signatures.reference import ReferenceProfiles
    from haystack_kernel.grounding.signatures.sets import Background
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.literature.reading import Reading
    from haystack_kernel.schema import (
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
    """Raw counts by role. ``treated``, ``control_pred``, ``query`` and each baseline share cells and genes.

    ``control_pred`` is the prediction made with the control cells as prompt (synthetic control), None where there is
    none; ``prompt_control`` the prompt's matched control cells; ``baselines`` maps engine name -> prediction;
    ``repeats`` are the treated and control predictions of further seeds; ``measured`` maps a label to treated and
    control cells of a response that is not part of the prompt.
    ``treated.var["padded"]`` marks genes that the prediction could not change; absent, no gene is padded.
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
    """How the prediction came about.

    ``n_scored`` counts the predictions of the run scored so far, this one included (best-of-many correction);
    ``control_strategy`` is the effective one, ``control_note`` says why it is not the one asked for; ``evidence`` holds
    the distinct evidence distances of the prompt's candidates.
    """

    seed: int
    n_scored: int = 1
    donor_matched: bool = True
    control_strategy: ControlStrategy = "synthetic_control"
    control_note: str = ""
    engine: str = ""
    evidence: tuple[EvidenceDistance, ...] = ()
    frac_genes_found: float = float("nan")


@dataclass(frozen=True, eq=False)
class Basis:
    """Everything a judgement rests on besides the cells.

    ``reference`` says what types, donors and tissues look like: None for questions about a perturbation, and where
    the atlases hold no such cells. ``literature`` None: no source was asked.
    """

    query: StructuredQuery
    knowledge: Knowledge
    settings: GroundingSettings
    context: GroundingContext
    reference: ReferenceProfiles | None = None
    literature: Reading | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """One prediction as its components see it.

    ``de`` from :func:`compute_de`, ``predicted`` the cells it is about, ``background`` the tested genes with their
    effects, ``signal`` p_signal of :func:`expected_sets`, which depends on the prompt alone.
    """

    de: pd.DataFrame
    predicted: ad.AnnData
    background: Background
    signal: Signal
    basis: Basis


@dataclass(frozen=True, eq=False)
class Grounded:
    """The judgement of one prediction.

    ``de`` has one row per gene (column ``flips``: called in one control reading and not, or the other way round, in
    the other), ``pathways`` one row per pathway, ``notes`` one sentence for people each.
    """

    de: pd.DataFrame
    pathways: pd.DataFrame
    components: tuple[Component, ...]
    composite: Composite
    agreement: tuple[EngineAgreement, ...]
    confidence: Confidence
    n_tested: int
    notes: tuple[str, ...] = ()
