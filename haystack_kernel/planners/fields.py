"""What the tables know about the cells and the treatment of a question, as fields of the query.

In: resolutions and the tables. Out: fields of a ``StructuredQuery``, the same for every planner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from haystack_kernel.knowledge import perturbation_of
from haystack_kernel.knowledge.vocabulary import LABEL
from haystack_kernel.schema import Perturbation

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import Resolution


def term_fields(cells: Resolution | None, treatment: Resolution | None, *, knowledge: Knowledge) -> dict[str, Any]:
    """Return the fields of the query that follow from its cells and its treatment.

    Parameters
    ----------
    cells, treatment
        What the words of the question mean; None where it names none.
    knowledge
        The tables.

    Returns
    -------
    Fields of :class:`haystack_kernel.schema.StructuredQuery`: names, ids, markers, expected genes and pathways.

    Examples
    --------
    >>> term_fields(resolution, None, knowledge=knowledge)["cell_type_id"]  # doctest: +SKIP
    'CL:0000236'
    """
    fields: dict[str, Any] = {"cell_type_text": cells.text if cells else None}
    if cells is not None and cells.match is not None:
        known = knowledge.cell_types[cells.match.id]
        fields |= {
            "cell_type_id": None if known.id.startswith(LABEL) else known.id,
            "cell_type_name": known.name,
            "cell_type_synonyms": known.synonyms,
            "marker_genes": known.markers,
        }
    match = treatment.match if treatment else None
    entry = perturbation_of(match.id, knowledge=knowledge) if match is not None else None
    if entry is not None and treatment is not None:
        fields["perturbation"] = Perturbation(
            text=treatment.text,
            name=entry.name,
            type=None if entry.type == "unspecified" else entry.type,
            synonyms=entry.synonyms,
            external_ids=dict(entry.external_ids),
            targets=entry.targets,
        )
        fields |= {"expected_targets": dict(entry.response), "expected_pathways": dict(entry.pathways)}
    return fields
