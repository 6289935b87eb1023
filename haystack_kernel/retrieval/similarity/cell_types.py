"""Similarity of two cell types: how close the type of some cells is to the type asked for.

In: a query and rows of one cell type. Out: a :class:`TypeSimilarity` with relevance and words for the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from haystack_kernel import keys
from haystack_kernel.knowledge import descendants, distance

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import StructuredQuery

EXACT = 1.0
BY_LABEL = 0.9
FLOOR = 0.2  # for types that the ontology does not connect

Level = Literal["exact", "label", "descendant", "other"]


@dataclass(frozen=True)
class TypeSimilarity:
    """How a cell type compares with the one asked for.

    Attributes
    ----------
    level
        ``exact`` (same ontology id), ``label`` (same name, no id), ``descendant`` (a subtype) or ``other``.
    steps
        Distance in the cell ontology; None where the ontology does not connect the two types.
    words
        The comparison as a phrase for the reason of a candidate.
    """

    level: Level
    steps: int | None
    words: str

    @property
    def same_type(self) -> bool:
        """Whether these are cells of the type asked for."""
        return self.level != "other"

    @property
    def relevance(self) -> float:
        """1 for the exact type, 0.9 for a label or a subtype, otherwise 0.9 / (1 + steps) but at least 0.2."""
        if self.level == "exact":
            return EXACT
        if self.same_type:
            return BY_LABEL
        return FLOOR if self.steps is None else max(FLOOR, BY_LABEL / (1 + self.steps))


def compare_cell_type(query: StructuredQuery, rows: pd.DataFrame, *, knowledge: Knowledge) -> TypeSimilarity:
    """Compare the cell type of ``rows`` (all of one type) with the one asked for."""
    cl_id, label = rows[keys.CELL_TYPE_ID].iloc[0], rows[keys.CELL_TYPE].iloc[0]
    asked = asked_type(query)
    if cl_id and cl_id == query.cell_type_id:
        return TypeSimilarity("exact", 0, "the cell type asked for")
    if not cl_id and label.casefold() in asked_labels(query):
        return TypeSimilarity("label", 0, f"the cell type asked for by its label, {asked}")
    steps = steps_between(query.cell_type_id, cl_id, knowledge=knowledge)
    if cl_id in subtypes(query.cell_type_id, knowledge=knowledge):
        return TypeSimilarity("descendant", steps, f"a subtype of the {asked} asked for")
    if steps is None:
        return TypeSimilarity("other", None, f"not connected with {asked} in the cell ontology within 4 steps")
    return TypeSimilarity(
        "other", steps, f"{steps} {'step' if steps == 1 else 'steps'} from {asked} in the cell ontology"
    )


def asked_type(query: StructuredQuery) -> str:
    """Cell type asked for, in words."""
    return query.cell_type_name or query.cell_type_text or "any cell type"


def asked_labels(query: StructuredQuery) -> frozenset[str]:
    """Every spelling of the cell type asked for, case-folded."""
    texts = (query.cell_type_name, query.cell_type_text, *query.cell_type_synonyms)
    return frozenset(text.casefold() for text in texts if text)


def subtypes(cell_type_id: str | None, *, knowledge: Knowledge) -> frozenset[str]:
    """Descendants; none for an id that the tables lack."""
    known = cell_type_id is not None and cell_type_id in knowledge.cell_types
    return descendants(cell_type_id, knowledge=knowledge) if known and cell_type_id else frozenset()


def steps_between(a: str | None, b: str | None, *, knowledge: Knowledge) -> int | None:
    """Ontology distance; None where an id is missing or the tables do not connect them."""
    if not a or not b or a not in knowledge.cell_types or b not in knowledge.cell_types:
        return None
    return distance(a, b, knowledge=knowledge)
