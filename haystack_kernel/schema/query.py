"""The parsed question.

In: plain values. Out: resolved terms, the structured query, and pairs that no strategy may see.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from haystack_kernel.schema.base import ControlStrategy, Frozen, TaskType, TermKind
from haystack_kernel.schema.cells import CellSet

_N_UNUSED_SHOWN = 8


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


ObjectionKind = Literal[
    "inverse",
    "negated",
    "genotype",
    "cells_excluded",
    "resistance",
    "cells_as_treatment",
    "comparison",
    "several",
    "out_of_scope",
]


class Objection(Frozen):
    """A reason why a question cannot be answered as it stands, because the answer would be to another question."""

    kind: ObjectionKind
    text: str = Field(description="the words that raise it")
    reason: str = Field(description="what the question does that stands in the way, as the predicate of a sentence")
    questions: tuple[str, ...] = Field(default=(), description="questions that can be asked instead")


class Clarification(Frozen):
    """One question back to the person who asks; each choice is the question as it would have been asked."""

    text: str
    questions: tuple[str, ...] = Field(description="complete questions, one for each answer")


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
    unused: tuple[str, ...] = Field(
        default=(), description="content words of the question that no part of the query was made from"
    )
    objections: tuple[Objection, ...] = Field(
        default=(), description="why the question is refused; empty in every query that a run works on"
    )
    planner: str = "offline"
    doubts: tuple[str, ...] = Field(default=(), description="what the planner was not sure of, in sentences")
    clarification: Clarification | None = Field(default=None, description="what would settle the doubts")

    @property
    def compared_disease(self) -> str | None:
        """Id of the disease whose patients are compared with healthy donors; None in every other question."""
        is_so = self.task_type == "donor_expression_prediction" and not self.donor_id
        return self.disease_id if is_so else None

    @property
    def reading(self) -> str:
        """What the question was taken as, in one line.

        The condition is noted without being used to choose cells; then come the words that were not used at all.
        """
        parts = [
            self.perturbation.name if self.perturbation else "",
            self.cell_type_name or self.cell_type_text or "",
            f"donor {self.donor_id}" if self.donor_id else "",
            self.tissue_name or "",
            f"{self.disease_name} against healthy donors" if self.compared_disease else self.disease_name or "",
            f"from {self.reference_dataset}" if self.reference_dataset else "",
            f"in {self.target_dataset}" if self.target_dataset else "",
        ]
        taken = [" | ".join(filter(None, parts))]
        taken += [f"noted only: {self.condition}"] if self.condition else []
        taken += [f"not used: {self.unused_text}"] if self.unused else []
        return "; ".join(taken)

    @property
    def unused_text(self) -> str:
        """The words that were not used, the first ones in quotes."""
        named = ", ".join(repr(phrase) for phrase in self.unused[:_N_UNUSED_SHOWN])
        further = len(self.unused) - _N_UNUSED_SHOWN
        return f"{named} and {further} more" if further > 0 else named


class Vocabulary(Frozen):
    """Names that the atlases of a run hold: what can be asked about, whether the knowledge tables know it or not."""

    perturbations: tuple[tuple[str, str], ...] = Field(default=(), description='name and type, "" where not stated')
    cell_types: tuple[str, ...] = Field(default=(), description="labels of cell types that have no ontology id")
    donors: tuple[str, ...] = Field(default=(), description="ids as stored, and without their dataset")


class HiddenPair(Frozen):
    """A (cell type, perturbation) pair that no strategy may see, with every descendant and ancestor label."""

    cell_type_id: str
    perturbation: str


class HiddenCells(Frozen):
    """Cells of one dataset, treatment and label that were kept out of the search.

    They are treated cells of a hidden pair, or the cells of patients that a question about their disease asks for.
    """

    atlas: str
    dataset: str
    perturbation: str = Field(description="as the atlas names it; of patients their disease")
    cell_type: str = Field(description="label of the cells")
    n_cells: int
    pair: str = Field(description="the hidden pair, 'CELL TYPE : PERTURBATION'")
    cells: CellSet | None = Field(default=None, description="of patients: their cells")
    against: CellSet | None = Field(default=None, description="of patients: the cells of healthy donors")
