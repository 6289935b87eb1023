"""Campaigns: what a screen asks, and how.

In: plain values. Out: ScreenQuestion, ScreenPlan.
"""

from __future__ import annotations

from pydantic import Field

from haystack_kernel.schema.base import Engine, EvidenceDistance, ExecutorName, Frozen
from haystack_kernel.schema.run import RunConfig


class ScreenQuestion(Frozen):
    """One question of a screen: a treatment in cells of one type, of one donor where one is named."""

    perturbation: str = Field(description="known name of the treatment; as it was given where it is not known")
    cell_type: str = Field(description="known name of the cell type; as it was given where it is not known")
    cell_type_id: str = Field(default="", description="CL id; empty where the atlas has a label only")
    donor: str = Field(default="", description="as an atlas names it; empty: any")
    question: str = Field(description="in words, as it can be asked of a run")
    refusal: str = Field(default="", description="why it is not predicted; empty where it is")
    evidence: EvidenceDistance | None = Field(
        default=None, description="how near the nearest cells are that it is predicted from"
    )
    measured: bool = Field(default=False, description="the atlas has this treatment in this cell type")
    engine: Engine | None = Field(default=None, description="what predicts it; None where it is refused")


class ScreenPlan(Frozen):
    """What a screen does; an equal plan is the same screen, so that a repeated call goes on with it."""

    questions: tuple[ScreenQuestion, ...] = Field(description="none is dropped: what is refused says why")
    not_understood: tuple[str, ...] = Field(default=(), description="what was given and taken into no question")
    config: RunConfig = Field(description="the options of every question, as of a run of one round")
    digests: dict[str, str] = Field(description="of atlases, tables of knowledge and given files")
    baselines: bool = Field(default=False, description="also predict with the simple engines, to compare with")
    resamples: int = Field(default=0, ge=0, description="predictions from resampled prompts, of engines not linear")
    grounding: str = Field(default="", description="digest of the settings of the score")
    version: int = Field(default=1, description="of the method; another one is another screen")

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that predict at least one question, in the order of the questions."""
        return tuple(dict.fromkeys(one.engine for one in self.questions if one.engine is not None))

    @property
    def model(self) -> str | None:
        """Weights, where the model is asked for."""
        return self.config.model

    @property
    def genelist(self) -> str | None:
        """Gene list of the weights."""
        return self.config.genelist

    @property
    def diffusion_steps(self) -> int:
        """Steps of each prediction by the model."""
        return self.config.diffusion_steps

    @property
    def executor(self) -> ExecutorName:
        """Where the predictions are made."""
        return self.config.executor
