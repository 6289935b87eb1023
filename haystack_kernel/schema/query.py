"""The parsed question.

In: plain values. Out: resolved terms, the structured query, and pairs that no strategy may see.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from haystack_kernel.schema.base import ControlStrategy, Frozen, TaskType, TermKind


class Match(Frozen):
    """A known term that a text may mean."""

    id: str = Field(description="ontology id (CL:…, UBERON:…, MONDO:…) or the canonical perturbation name")
    name: str
    score: float = Field(ge=0, le=1, description="1 exact name, 0.98 synonym, below that fuzzy similarity")
    how: Literal["id", "name", "synonym", "fuzzy"]


class Resolution(Frozen):
    """The meaning assigned to a piece of text, and other possible meanings.

    ``match`` is None if no known term is close enough; ``alternatives`` then holds the nearest known terms.
    """

    text: str
    kind: TermKind
    match: Match | None = None
    alternatives: tuple[Match, ...] = ()
    ambiguous: bool = Field(default=False, description="a second term is about as close, so the user should choose")
    note: str = Field(
        default="", description="remark on the match: an obsolete id, an abbreviation, a corrected spelling"
    )


class Perturbation(Frozen):
    """The treatment that the question asks about; fields follow the upstream data model."""

    text: str
    name: str = Field(description="canonical name in the knowledge table, e.g. IFN-beta")
    type: Literal["cytokine", "drug", "genetic"] | None = None
    synonyms: tuple[str, ...] = ()
    external_ids: dict[str, str] = Field(default_factory=dict)
    targets: tuple[str, ...] = Field(default=(), description="gene symbols: receptors or direct targets")


class StructuredQuery(Frozen):
    """The parsed question. ``query`` anywhere in the code means this, never an AnnData."""

    question: str
    task_type: TaskType
    cell_type_text: str | None = None
    cell_type_id: str | None = Field(default=None, description="CL id")
    cell_type_name: str | None = None
    cell_type_synonyms: tuple[str, ...] = ()
    perturbation: Perturbation | None = None
    expected_targets: dict[str, int] = Field(
        default_factory=dict, description="downstream gene symbol -> +1 rises, -1 falls under the perturbation"
    )
    expected_pathways: dict[str, int] = Field(
        default_factory=dict, description="pathway name in the knowledge table -> +1 activated, -1 suppressed"
    )
    donor_id: str | None = Field(default=None, description="target donor as written or as in an atlas")
    tissue_id: str | None = Field(default=None, description="UBERON id")
    tissue_name: str | None = None
    disease_id: str | None = Field(default=None, description="MONDO id")
    disease_name: str | None = None
    condition: str | None = None
    reference_donor: str | None = None
    reference_dataset: str | None = None
    target_dataset: str | None = Field(default=None, description="dataset the query cells come from (cross-dataset)")
    marker_genes: tuple[str, ...] = ()
    tissue_genes: tuple[str, ...] = ()
    control_strategy: ControlStrategy = "synthetic_control"
    resolutions: tuple[Resolution, ...] = Field(
        default=(), description="every term found, with alternatives that are about as close"
    )
    unresolved: tuple[Resolution, ...] = Field(default=(), description="unknown terms, with the nearest known ones")
    planner: str = "offline"


class HiddenPair(Frozen):
    """A (cell type, perturbation) pair that no strategy may see, with every descendant and ancestor label."""

    cell_type_id: str
    perturbation: str


class HiddenCells(Frozen):
    """Treated cells of one dataset, treatment and label that a hidden pair kept out of the search."""

    atlas: str
    dataset: str
    perturbation: str = Field(description="as the atlas names it")
    cell_type: str = Field(description="label of the cells")
    n_cells: int
    pair: str = Field(description="the hidden pair, 'CELL TYPE : PERTURBATION'")
