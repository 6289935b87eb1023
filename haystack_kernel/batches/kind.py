"""A kind of campaign: what its plan is, and which steps it does to each of its items before and after the prediction.

In: plain values and functions of the package that has the kind. Out: a :class:`Kind`, which pool and worker follow.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import ExecutorName


class Plan(Protocol):
    """What every plan says: which engines predict, with which model, and where."""

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the engines."""

    @property
    def model(self) -> str | None:
        """Weights, where the model is among the engines."""

    @property
    def genelist(self) -> str | None:
        """Gene list of the weights."""

    @property
    def diffusion_steps(self) -> int:
        """Steps of each prediction by the model."""

    @property
    def executor(self) -> ExecutorName:
        """Where the predictions are made."""

    def model_dump_json(self) -> str:
        """The whole plan; an equal text is the same campaign."""


P = TypeVar("P", bound=Plan)


@dataclass(frozen=True)
class Step(Generic[P]):
    """One step, done to every item.

    Attributes
    ----------
    name
        What the process is told; also the phase of its progress events.
    leaves
        Name of the file in the item's folder that says that the step is done.
    words
        What progress events say.
    open
        Given plan, ports and folder, open what the items need, once a process; returns what does one item.
    """

    name: str
    leaves: str
    words: str
    open: Callable[[P, Ports, CampaignFolder], Callable[[int], object]]


@dataclass(frozen=True)
class Kind(Generic[P]):
    """What a campaign of this kind does.

    Attributes
    ----------
    name
        First word of the ids of its campaigns.
    item
        What one of its items is called.
    place
        Where processes of the pool find this kind: ``module:NAME``.
    modules
        What such a process imports before it is asked for anything.
    plan
        Class of its plans.
    folder_of
        Number of an item -> its folder.
    steps
        By their names.
    """

    name: str
    item: str
    place: str
    modules: tuple[str, ...]
    plan: type[P]
    folder_of: Callable[[int], str]
    steps: Mapping[str, Step[P]]

    def id_of(self, plan: P) -> str:
        """Id of a campaign, which follows from what it does: the same plan goes on where it stopped."""
        return f"{self.name}-{hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:12]}"
