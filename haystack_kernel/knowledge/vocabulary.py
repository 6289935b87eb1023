"""Names that the atlases of a run hold become terms that can be asked about, although no table knows them.

In: knowledge, the names of the atlases. Out: a ``Knowledge`` with these names; of what they mean it knows nothing.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, get_args

from haystack_kernel.knowledge.entries import perturbation_of, resolve_genetic
from haystack_kernel.knowledge.packed import TermTable
from haystack_kernel.knowledge.resolve import resolve
from haystack_kernel.knowledge.terms import CellType, PerturbationEntry, PerturbationType

if TYPE_CHECKING:
    from haystack_kernel.knowledge.terms import Knowledge
    from haystack_kernel.schema import TermKind, Vocabulary

LABEL = "label:"  # before the label of a cell type that has no ontology id
MIN_LETTERS = 2  # of a name that can be found in a question


@functools.lru_cache(maxsize=8)
def with_vocabulary(knowledge: Knowledge, vocabulary: Vocabulary) -> Knowledge:
    """Add the names of the atlases that the tables do not know.

    Parameters
    ----------
    knowledge
        The tables; not changed.
    vocabulary
        Names that the atlases hold.

    Returns
    -------
    The same knowledge where every name is known. An added treatment has the type that the atlas states, or
    "unspecified", and neither targets nor pathways; an added cell type has an id that begins with ``label:``.

    Examples
    --------
    >>> from haystack_kernel.knowledge import load_knowledge
    >>> from haystack_kernel.schema import Vocabulary
    >>> held = Vocabulary(perturbations=(("XQ-4471", "drug"),))
    >>> with_vocabulary(load_knowledge(), held).perturbations["XQ-4471"].targets
    ()
    """
    treatments = {
        name: _treatment(name, kind)
        for name, kind in vocabulary.perturbations
        if _is_new_treatment(name, kind, knowledge=knowledge)
    }
    new = [label for label in vocabulary.cell_types if _is_new(label, kind="cell_type", knowledge=knowledge)]
    cells = {f"{LABEL}{label}": CellType(f"{LABEL}{label}", label) for label in new}
    donors = frozenset(name.casefold() for name in vocabulary.donors)
    if not (treatments or cells or donors):
        return knowledge
    table = knowledge.cell_types
    with_cells: Any = table.with_rows({**table.over, **cells}) if isinstance(table, TermTable) else {**table, **cells}
    return replace(
        knowledge,
        perturbations={**knowledge.perturbations, **treatments},
        cell_types=with_cells if cells else table,
        donors=donors,
        tables=knowledge.without_vocabulary(),
    )


def _treatment(name: str, kind: str) -> PerturbationEntry:
    stated = kind if kind in get_args(PerturbationType) else "unspecified"
    return PerturbationEntry(
        name=name,
        type=cast("PerturbationType", stated),
        synonyms=(),
        targets=(),
        pathways={},
        response={},
        external_ids={},
        family="",
    )


def _is_new_treatment(name: str, kind: str, *, knowledge: Knowledge) -> bool:
    is_gene = kind == "genetic" and resolve_genetic(name, declared=True) is not None
    if is_gene or perturbation_of(name, knowledge=knowledge) is not None:
        return False
    return _is_new(name, kind="perturbation", knowledge=knowledge)


def _is_new(name: str, *, kind: TermKind, knowledge: Knowledge) -> bool:
    """Whether a name can be found in a question, and no table knows it for certain."""
    if sum(map(str.isalpha, name)) < MIN_LETTERS:
        return False
    match = resolve(name, kind=kind, knowledge=knowledge).match
    return match is None or match.how == "fuzzy"
