"""A reverse question: cells, the state that they are to be moved to, and which treatments are searched.

In: plain values. Out: SeekQuery.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from haystack_kernel.schema.base import Frozen

TargetKind = Literal["condition", "cells", "genes", "set", "untreated", "given"]
TreatmentKind = Literal["cytokine", "drug", "genetic"]


class SeekQuery(Frozen):
    """What is sought; ``words`` says it as it was read."""

    question: str
    cell_type: str = Field(description="name of the cells that are to be moved")
    cell_type_id: str = Field(default="", description="CL id; empty where an atlas has a label only")
    start: str = Field(default="", description="treatment that these cells are under now; empty: none")
    sign: Literal[1, -1] = Field(default=1, description="-1: away from the target")
    kinds: tuple[TreatmentKind, ...] = Field(default=(), description="of treatment; empty: all")
    target: str = Field(description="the words that name the target")
    target_kind: TargetKind
    perturbation: str = Field(default="", description="treatment that makes the target state")
    target_cell_type: str = Field(default="", description="name of the cells of the target; empty: those to be moved")
    target_cell_type_id: str = ""
    genes: dict[str, int] = Field(default_factory=dict, description="gene -> +1 or -1, of genes or a set")
    unused: tuple[str, ...] = Field(default=(), description="words that nothing was made from")
    notes: tuple[str, ...] = Field(default=(), description="what was taken for granted, one sentence each")

    @property
    def words(self) -> str:
        """Such as ``which cytokine moves B cell toward IFN-beta in monocyte``."""
        what = " or ".join("knock-out" if kind == "genetic" else kind for kind in self.kinds) or "treatment"
        way = "toward" if self.sign > 0 else "away from"
        start = f" under {self.start}" if self.start else ""
        return f"which {what} moves {self.cell_type}{start} {way} {self.state}"

    @property
    def state(self) -> str:
        """The target in a few words."""
        cells = self.target_cell_type or self.cell_type
        if self.target_kind == "condition":
            return f"{cells} under {self.perturbation}"
        if self.target_kind == "genes":
            named = [f"{gene} {'up' if sign > 0 else 'down'}" for gene, sign in self.genes.items()]
            return ", ".join(named[:6]) + (f" and {len(named) - 6} more genes" if len(named) > 6 else "")
        if self.target_kind == "cells":
            return f"untreated {cells}"
        return "their untreated state" if self.target_kind == "untreated" else self.target
