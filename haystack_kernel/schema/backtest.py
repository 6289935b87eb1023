"""Back-tests: a measured pair that is hidden and predicted, and what many of them say about later predictions.

In: plain values. Out: MeasuredPair, BacktestPlan, Stratum, CalibrationPair, Calibration, BackTested.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Literal

from pydantic import Field

from haystack_kernel.schema.base import NAN, AtlasName, EvidenceDistance, ExecutorName, Frozen, Real

Held = Literal["donor", "cell_type", "perturbation"]
HELD_WORDS: dict[Held, str] = {  # what is hidden, and so what is left to predict from
    "donor": "the treatment in some donors, predicted from other donors",
    "cell_type": "the treatment in one cell type, predicted from other cell types",
    "perturbation": "the treatment altogether, predicted from other treatments",
}
MIN_PERTURBATIONS = 10  # with fewer a calibration says nothing about a treatment that is not among them


class MeasuredPair(Frozen):
    """Cells of one type under one treatment in one dataset, with what is hidden to predict them."""

    atlas: AtlasName
    dataset: str
    cell_type_id: str = Field(description="CL id; empty where the atlas has a label only")
    cell_type: str = Field(description="label of the cells")
    perturbation: str = Field(description="as the atlas names it")
    held: Held
    donors: tuple[str, ...] = Field(default=(), description="donors that are hidden; empty: all")
    n_treated: int = Field(default=0, ge=0, description="treated cells that are hidden as the truth")
    n_control: int = Field(default=0, ge=0, description="their control cells, half of which are the truth's")

    @property
    def words(self) -> str:
        """Such as ``IFN-beta in B cell (kang), donor held out``."""
        return f"{self.perturbation} in {self.cell_type} ({self.dataset}), {self.held.replace('_', ' ')} held out"


class BacktestPlan(Frozen):
    """What a back-test does; an equal plan is the same back-test, so that a repeated call goes on with it."""

    atlas: AtlasName
    digest: str = Field(description="of the atlas's index")
    pairs: tuple[MeasuredPair, ...]
    engines: tuple[str, ...]
    decoy: bool = Field(default=False, description="also predict from prompts of other treatments, as a control")
    model: str | None = None
    genelist: str | None = None
    diffusion_steps: int = 5
    executor: ExecutorName = "local"
    n_prompt: int = 2000
    n_query: int = 256
    n_truth: int = 300
    seed: int = 0
    version: int = Field(default=1, description="of the method; another one is another back-test")


class Stratum(Frozen):
    """Accuracy of one engine over the back-tested pairs of one evidence distance."""

    evidence: EvidenceDistance
    n_pairs: int = Field(ge=0)
    n_perturbations: int = Field(ge=0)
    method: Literal["none", "t", "conformal"] = Field(description="of the interval; none: fewer than two pairs")
    intercept: Real = Field(default=NAN, description="atanh of the expected correlation, at the average features")
    low: Real = Field(default=NAN, description="lower end of the 80 % interval, minus the intercept, as atanh")
    high: Real = Field(default=NAN, description="upper end, minus the intercept")
    n_covered: int = Field(
        default=0,
        description="pairs inside the interval that was made without their treatment; of one treatment alone, "
        "without pairs of the same donors or cell type",
    )
    n_checked: int = Field(default=0, description="pairs for which such an interval could be made")
    n_sealed: int = Field(default=0, description="of the pairs, sealed predictions that were measured later")
    n_sealed_inside: int = Field(default=0, description="of these, inside the interval that was sealed with them")
    n_sealed_checked: int = Field(default=0, description="of these, sealed with an interval")


class CalibrationPair(Frozen):
    """One pair that a calibration is fitted to: hidden by a back-test, or sealed and measured later."""

    evidence: EvidenceDistance
    perturbation: str = Field(description="known name of the treatment, case-folded")
    part: str = Field(description="the donors or the cell type, which tell pairs of one treatment apart")
    r: Real
    features: tuple[Real, ...]
    outcome: str = Field(default="", description="id of the outcome of a sealed prediction; empty: back-tested")
    inside: bool | None = Field(default=None, description="r lies in the interval sealed with it; None: there was none")


class Calibration(Frozen):
    """What the back-test of an atlas says of one engine; reports of later runs quote it."""

    atlas: AtlasName
    digest: str = Field(description="of the atlas that was tested; another atlas makes the calibration stale")
    engine: str
    model: str = Field(default="", description="sha256 of the weights; empty for an engine without")
    backtest: str = Field(description="id of the back-test; empty: of sealed predictions alone")
    made_at: datetime
    n_pairs: int
    n_perturbations: int
    features: tuple[str, ...] = Field(default=(), description="what the expected correlation also depends on")
    centre: tuple[float, ...] = Field(default=(), description="mean of each feature")
    slope: tuple[float, ...] = Field(default=(), description="change of atanh(r) per unit of each feature")
    least: tuple[float, ...] = Field(default=(), description="smallest value of each feature that was tested")
    most: tuple[float, ...] = Field(default=(), description="largest value")
    strata: tuple[Stratum, ...] = ()
    pairs: tuple[CalibrationPair, ...] = Field(
        default=(), description="what it was fitted to; empty: a version before these were kept made it"
    )

    @property
    def n_sealed(self) -> int:
        """Of its pairs, sealed predictions that were measured later."""
        return sum(one.n_sealed for one in self.strata)


class EngineFigure(Frozen):
    """How near one engine came in a back-test, over the pairs of one evidence distance."""

    engine: str
    n_pairs: int = Field(ge=0)
    z: Real = Field(description="mean of atanh(r)")
    error: Real = Field(description="its standard error")
    backtest: str = Field(description="id of the back-test; of the same one the pairs are the same")
    lead: Real = Field(default=NAN, description="mean of atanh(r) above that of the default, on the pairs of both")
    lead_error: Real = Field(default=NAN, description="standard error of the lead, over treatments")
    needed: Real = Field(
        default=NAN, description="standard errors that the lead must exceed, more where few treatments"
    )
    is_of_all: bool = Field(
        default=False, description="over pairs of all evidence distances, since too few have this one"
    )

    @property
    def words(self) -> str:
        """Such as ``weighted .48 (51 pairs)``."""
        return f"{self.engine} {math.tanh(self.z):.2f} ({self.n_pairs} pairs)"


class EnginePick(Frozen):
    """The engine that ``auto`` was resolved to, and why."""

    engine: str
    default: str = Field(description="what is taken where no back-test decides")
    reason: str
    atlas: str = ""
    evidence: EvidenceDistance | None = None
    figures: tuple[EngineFigure, ...] = ()

    @property
    def words(self) -> str:
        """One sentence for readers."""
        what = "the default" if self.engine == self.default else f"in place of the default {self.default}"
        return f"engine auto took {self.engine}, {what}: {self.reason}"


class BackTested(Frozen):
    """Correlation to be expected of one prediction, by the back-tests of its atlas and engine."""

    atlas: AtlasName
    engine: str
    evidence: EvidenceDistance
    n_pairs: int = 0
    n_perturbations: int = 0
    r: Real = NAN
    low: Real = NAN
    high: Real = NAN
    method: Literal["none", "t", "conformal"] = "none"
    is_calibrated: bool = False
    n_covered: int = 0
    n_checked: int = 0
    n_sealed: int = Field(default=0, description="of the pairs, sealed predictions that were measured later")
    n_sealed_inside: int = 0
    n_sealed_checked: int = 0
    outside: tuple[str, ...] = Field(default=(), description="features beyond what was tested")
    reason: str = Field(default="", description="why there is no figure; never empty when NaN")

    @property
    def is_known(self) -> bool:
        """Whether there is a figure."""
        return not math.isnan(self.r)
