"""The score of a prediction, its components, and confidence in it.

In: plain values. Out: components, composite, agreement, confidence, feedback.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, field_validator

from haystack_kernel.schema.base import NAN, BaselineVerdict, FeedbackAction, FeedbackKind, Frozen, Real

FULL_MARKS = 9.95  # an upper bound that would be shown as 10.0
_EARLIER_KIND = {"rival_leads": "competing_signature_leads"}  # names that records of earlier versions hold
_EARLIER_DETAIL = {
    "rivals": "competing",
    "rival": "strongest_competing",
    "n_rivals": "n_competing",
    "ridge_rival": "ridge_competing",
    "ridge_rival_value": "ridge_competing_value",
    "n_seed_sets": "n_start_sets",
}


class Component(Frozen):
    """One component of the score; if ``score`` is NaN it was not computed, and ``reason`` says why."""

    name: str
    weight: float = Field(
        ge=0, le=1, description="share in the composite before the shares of missing components are redistributed"
    )
    score: Real = Field(description="clip(1 - 3 log10(p / 0.5), 1, 10); NaN: not computed")
    reason: str = Field(default="", description="why NaN, or what limits the reading; never empty when NaN")
    statistic: Real = Field(default=NAN, description="mean of s_g z_g over the set; sign = direction")
    p_signal: Real = Field(default=NAN, description="p value of the self-contained null; NaN: not computed")
    p_donors: Real = Field(default=NAN, description="p value of the same over donors; NaN: fewer than three")
    p_specificity: Real = Field(default=NAN, description="p value of the competitive null; NaN: not computed")
    n_genes: int = 0
    detail: dict[str, Any] = Field(default_factory=dict)

    @field_validator("detail", mode="before")
    @classmethod
    def _translate_detail(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {_EARLIER_DETAIL.get(name, name): item for name, item in value.items()}


class Composite(Frozen):
    """The score of a prediction; if ``value`` is NaN it was not scored, and ``reason`` says why."""

    value: Real
    weight_computed: float = Field(description="summed weight of the components that could be computed")
    cap: float = Field(default=10.0, description="upper bound that applied")
    replication: Real = Field(
        default=NAN,
        description="donors that the response was measured in, one of n cells as n / (n + 20); NaN: no matter",
    )
    reason: str = ""

    @property
    def is_scored(self) -> bool:
        """Whether there is a score."""
        return not math.isnan(self.value)

    @property
    def shown(self) -> str:
        """``7.3 of 10``, or ``7.3 of at most 8.5`` where what was measured allows no more.

        Nothing is rounded to whole numbers: 8.5 of at most 8.5 would become 9, which no evidence could have reached.
        """
        most = "10" if self.cap >= FULL_MARKS else f"at most {self.cap:.1f}"
        return f"{self.value:.1f} of {most}"


class EngineAgreement(Frozen):
    """Comparison of one engine's prediction with that of the run's engine, for the same query cells."""

    engine: str
    pearson: Real = Field(description="correlation of mean log-shifts over tested genes; NaN for a constant shift")
    n_de: int
    composite: Real
    note: str = ""


class Aspect(Frozen):
    """One aspect of confidence in a prediction; if ``value`` is NaN it is unavailable, and ``reason`` says why."""

    name: str
    value: Real = Field(description="in the unit that ``words`` state")
    words: str = Field(default="", description="one sentence that is shown to users")
    reason: str = Field(default="", description="why NaN; never empty when NaN")


class ExpectedAccuracy(Frozen):
    """The accuracy that a prediction can be expected to have, learned by hiding parts of its prompt.

    It is the Pearson correlation of the predicted with the true change of mean log1p(CP10k) over the tested genes.
    """

    value: Real = Field(default=NAN, description="against a measurement without noise; NaN: nothing is expected")
    low: Real = Field(default=NAN, description="lower end of the 80 % interval")
    high: Real = NAN
    measured: Real = Field(default=NAN, description="what a measurement of ``n_cells`` cells an arm would show")
    n_cells: int = 0
    left_out: str = Field(default="", description="what was hidden in turn; empty: nothing could be")
    n_left_out: int = 0
    words: str = Field(default="", description="what it rests on, a clause")
    narrower: str = Field(default="", description="what to measure next so that the interval narrows most, a clause")
    reason: str = Field(default="", description="why NaN; never empty when NaN")

    @property
    def shown(self) -> str:
        """``0.88 (80 % interval 0.76 to 0.94)``; empty where nothing is expected."""
        if math.isnan(self.value):
            return ""
        return f"{self.value:.2f} (80 % interval {self.low:.2f} to {self.high:.2f})"


class Without(Frozen):
    """The composite without one donor or data set of the prompt; the prediction is not repeated."""

    kind: str = Field(description="donor or data set")
    name: str
    composite: Real


class Confidence(Frozen):
    """How reliable a prediction is; the score says how far it agrees with known biology."""

    aspects: tuple[Aspect, ...] = ()
    verdict: BaselineVerdict = Field(
        default="not_compared", description="how the engine compares with the simple baselines"
    )
    verdict_words: str = ""
    expected: ExpectedAccuracy | None = Field(default=None, description="None: not a question about a response")
    without: tuple[Without, ...] = Field(default=(), description="lowest composite first")
    twins: tuple[str, ...] = Field(
        default=(), description="perturbations that the prompt cannot tell from the one asked for, most similar first"
    )


class Feedback(Frozen):
    """A finding about a round that the next round acts on."""

    kind: FeedbackKind
    sentence: str = Field(description="the finding in words")
    action: FeedbackAction = Field(description="what the planner does in response")
    about: str = Field(default="", description="the misleading cell type, if there is one")

    @field_validator("kind", mode="before")
    @classmethod
    def _translate_kind(cls, value: object) -> object:
        return _EARLIER_KIND.get(value, value) if isinstance(value, str) else value


class Truth(Frozen):
    """The prediction of the best round held against one measured response that was hidden from the search.

    NaN where it could not be computed; ``reason`` says why.
    """

    label: str
    pair: str = Field(description="the hidden pair, 'CELL TYPE : PERTURBATION'")
    sides: tuple[str, str] = Field(default=("treated", "control"), description="whose cells are compared with whose")
    n_treated: int = 0
    n_control: int = Field(default=0, description="control cells; none of them is a query cell")
    n_genes: int = Field(default=0, description="tested genes that were measured")
    pearson: Real = Field(default=NAN, description="of predicted and measured mean log-shifts over these genes")
    n_clear: int = Field(default=0, description="genes measured beyond three standard errors")
    same_direction: Real = Field(default=NAN, description="share of them whose direction is predicted")
    top_overlap: Real = Field(default=NAN, description="share of the 50 largest measured rises foreseen")
    reason: str = ""

    @property
    def words(self) -> str:
        """The comparison in one sentence."""
        first, second = self.sides
        cells = f"{self.label} ({self.n_treated:,} {first}, {self.n_control:,} {second} cells)"
        if self.reason:
            return f"{cells}: not compared, {self.reason}"
        return (
            f"{cells}: correlation {self.pearson:.2f} over {self.n_genes:,} genes; of {self.n_clear:,} genes measured "
            f"beyond three standard errors {self.same_direction:.0%} change as predicted; {self.top_overlap:.0%} of "
            "the 50 largest rises are among the 50 largest predicted ones"
        )
