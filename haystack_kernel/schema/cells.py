"""Cells of an atlas: selected by criteria, proposed as a prompt, chosen for a round.

In: plain values. Out: cell sets, candidates, choices.
"""

from __future__ import annotations

from pydantic import Field

from haystack_kernel.schema.base import AtlasName, EvidenceDistance, Frozen, Strategy


class CellSet(Frozen):
    """Cells of one dataset selected by criteria; empty tuple or None means "any".

    ``perturbation`` None with ``is_control`` True selects the control condition.
    """

    atlas: AtlasName
    dataset: str
    is_control: bool
    perturbation: str | None = None
    cell_type_ids: tuple[str, ...] = ()
    cell_type_names: tuple[str, ...] = Field(default=(), description="used if the cells have no CL id")
    donor_ids: tuple[str, ...] = ()
    tissue_ids: tuple[str, ...] = ()
    disease_ids: tuple[str, ...] = ()
    control_kinds: tuple[str, ...] = Field(default=(), description="kinds of control cells: DMSO, PBS, non-targeting")
    n_cells: int = Field(default=0, ge=0, description="cells in the atlas that satisfy the criteria")
    label: str = Field(default="", description="names of the cell types in the atlas; not a criterion")

    @property
    def key(self) -> str:
        """Selection key: equal for equal criteria, used to de-duplicate candidates."""
        parts = (self.atlas, self.dataset, self.perturbation or ("control" if self.is_control else "any"))
        wanted = (self.cell_type_ids or self.cell_type_names, self.donor_ids, self.tissue_ids, self.disease_ids)
        kinds = (self.control_kinds,) if self.control_kinds else ()  # keys of before these existed stay the same
        return "|".join([*parts, *(",".join(sorted(group)) for group in (*wanted, *kinds))])


class Candidate(Frozen):
    """A cell set that is proposed as a prompt, its matched control, and the reason."""

    key: str
    strategy: Strategy
    prompt: CellSet
    control: CellSet | None = Field(description="None: no matched control; ``control_reason`` says why")
    control_reason: str = Field(description="how the control was matched, or why there is none")
    donor_matched: bool = Field(default=False, description="every prompt donor also has control cells here")
    relevance: float = Field(ge=0, le=1)
    diversity: float = Field(default=1.0, ge=0, le=1)
    quality: float = Field(default=0.0, ge=0, le=1)
    score: float = Field(
        default=0.0, ge=0, le=1, description="weighted sum of the three above; candidates are sorted by it"
    )
    evidence_distance: EvidenceDistance
    pinned: bool = Field(default=False, description="the user pinned it, so every round includes it")
    reason: str = Field(description="one sentence that is shown to users")


class Choice(Frozen):
    """The candidates that one round pools into its prompt."""

    candidate_keys: tuple[str, ...]
    reason: str
    planner: str = Field(default="offline", description="who chose and wrote the reason; rules, unless it says so")
