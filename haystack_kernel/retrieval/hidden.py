"""Held-out (cell type, perturbation) pairs: every label that may contain their treated cells is hidden.

In: the conditions table and the hidden pairs. Out: the pair that hides each row, and what was hidden as a list.

A pair is hidden in all datasets, files and donors. Control cells are never hidden. Where a label does not say what its
cells are, they are hidden: a leak makes a prediction worthless, a missing candidate makes it a little worse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import descendants, resolve
from haystack_kernel.knowledge.vocabulary import LABEL
from haystack_kernel.retrieval.same_treatment import names_treatment
from haystack_kernel.retrieval.type_labels import types_named
from haystack_kernel.schema import HiddenCells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import HiddenPair

CANONICAL = "canonical_perturbation"
HIDDEN_BY = "hidden_by"
_N_CELLS = "n_cells"
_BY_STATE = {  # types defined by what the cells do or where they are: cells of any lineage may be among them
    "CL:0000010": "cultured cell",
    "CL:0000034": "stem cell",
    "CL:0000080": "circulating cell",
    "CL:0000081": "blood cell",
    "CL:0000145": "professional antigen presenting cell",
    "CL:0000219": "motile cell",
    "CL:0000234": "phagocyte",
    "CL:0000473": "defensive cell",
    "CL:0000842": "mononuclear leukocyte",
    "CL:0001061": "abnormal cell",
    "CL:0001063": "neoplastic cell",
    "CL:0001064": "malignant cell",
    "CL:0009002": "inflammatory cell",
    "CL:0011115": "precursor cell",
    "CL:0011026": "progenitor cell",
    "CL:2000001": "peripheral blood mononuclear cell",
}


def hidden_by(conditions: pd.DataFrame, *, pairs: Sequence[HiddenPair], knowledge: Knowledge) -> pd.Series:
    """Find the conditions that may hold treated cells of a hidden pair.

    Parameters
    ----------
    conditions
        Rows with ``is_control``, ``perturbation_name``, ``canonical_perturbation``, ``atlas``, ``dataset``,
        ``cell_type_cl_id`` and ``cell_type_name``; missing text is the empty string.
    pairs
        Pairs to hide; an empty sequence hides nothing.

    Returns
    -------
    Text per row: the first pair that hides it, "" where none does. Hidden are treated rows of the perturbation (under
    any spelling, in any combination or dose, or under a label that does not say which treatment it was) whose cell
    type is the hidden one, an ancestor, a descendant, shares a descendant with it, or carries a label that does not say
    clearly that it is another.

    Raises
    ------
    InvalidInputError
        A pair's cell type is not in the knowledge table, so its ancestors cannot be known.
    """
    found = pd.Series("", index=conditions.index, dtype=object)
    for pair in pairs:
        if pair.cell_type_id not in knowledge.cell_types:
            near = resolve(pair.cell_type_id, kind="cell_type", knowledge=knowledge).alternatives
            hint = f" Nearest known: {', '.join(f'{one.name} ({one.id})' for one in near[:5])}." if near else ""
            msg = (
                f"cannot hide {pair.cell_type_id!r} : {pair.perturbation!r}: the knowledge table has no such cell "
                f"type, so its ancestors and descendants cannot be hidden with it.{hint} Hide a type that "
                "`haystack resolve` knows."
            )
            raise InvalidInputError(msg, cell_type_id=pair.cell_type_id)
        treated = conditions[~conditions[keys.IS_CONTROL]]
        stored = {*treated[keys.PERTURBATION], *treated[CANONICAL]}
        same = {name for name in stored if names_treatment(name, pair.perturbation, knowledge=knowledge)}
        rows = treated[treated[keys.PERTURBATION].isin(same) | treated[CANONICAL].isin(same)]
        hide = _rows_of_type(rows, hidden=pair.cell_type_id, knowledge=knowledge)
        hide = hide.reindex(found.index, fill_value=False) & (found == "")
        found[hide] = pair_in_words(pair, knowledge=knowledge)
    return found


def list_hidden(rows: pd.DataFrame, *, pairs: Sequence[HiddenPair], knowledge: Knowledge) -> tuple[HiddenCells, ...]:
    """List what was hidden: one line per dataset, treatment and label, the largest first.

    Parameters
    ----------
    rows
        Hidden conditions with ``hidden_by``.
    pairs
        The pairs that were to be hidden; one that hides nothing gets a line without cells.
    knowledge
        Tables with the names of cell types.
    """
    by = [keys.ATLAS, keys.DATASET, keys.PERTURBATION, keys.CELL_TYPE, HIDDEN_BY]
    sizes = rows.groupby(by, sort=True)[_N_CELLS].sum()
    names = ("atlas", "dataset", "perturbation", "cell_type", "pair")
    found = [HiddenCells(**dict(zip(names, key, strict=True)), n_cells=int(sizes[key])) for key in sizes.index]
    idle = [words for pair in pairs if (words := pair_in_words(pair, knowledge=knowledge)) not in set(rows[HIDDEN_BY])]
    found += [HiddenCells(atlas="", dataset="", perturbation="", cell_type="", n_cells=0, pair=words) for words in idle]
    return tuple(sorted(found, key=lambda one: -one.n_cells))


def pair_in_words(pair: HiddenPair, *, knowledge: Knowledge) -> str:
    """A pair as ``CELL TYPE : PERTURBATION``, with the name of the cell type where the tables have it."""
    known = knowledge.cell_types.get(pair.cell_type_id)
    return f"{known.name if known else pair.cell_type_id} : {pair.perturbation}"


def may_contain(cell_type_id: str, label: str, *, hidden: str, knowledge: Knowledge) -> bool:
    """Whether cells with this label (and CL id, or "") may be cells of type ``hidden``.

    A CL id of the knowledge table decides alone. Without one the label must say clearly what its cells are, in every
    part ("T/NK") and without a "non-", "depleted", "doublet" or "CD3-"; otherwise the answer is yes.
    """
    tables = knowledge.without_vocabulary()  # a label that only an atlas knows leaves open what it means
    named = {cell_type_id} if cell_type_id in tables.cell_types else types_named(label, knowledge=tables)
    if named is None or hidden == f"{LABEL}{label}":
        return True
    return any(_may_overlap(one, hidden, knowledge=knowledge) for one in named)


def _rows_of_type(rows: pd.DataFrame, *, hidden: str, knowledge: Knowledge) -> pd.Series:
    columns = [keys.CELL_TYPE_ID, keys.CELL_TYPE]
    verdict = {
        (cl_id, label): may_contain(cl_id, label, hidden=hidden, knowledge=knowledge)
        for cl_id, label in rows[columns].drop_duplicates().itertuples(index=False)
    }
    mask = pd.Series([verdict[pair] for pair in rows[columns].itertuples(index=False)], index=rows.index, dtype=bool)
    # Cells are selected by CL id or, without one, by label: one hidden row hides all rows selected along with it.
    for column in columns:
        by = [keys.ATLAS, keys.DATASET, column]
        leaky = set(rows.loc[mask & (rows[column] != ""), by].itertuples(index=False, name=None))
        unmapped = rows[keys.CELL_TYPE_ID] == ""
        comes_along = pd.Series([key in leaky for key in rows[by].itertuples(index=False, name=None)], index=rows.index)
        mask |= comes_along.astype(bool) & (unmapped if column == keys.CELL_TYPE else ~unmapped)
    return mask


def _may_overlap(one: str, other: str, *, knowledge: Knowledge) -> bool:
    """Whether one type descends from the other, or a third from both, or one is no lineage ("malignant cell")."""
    if one == other or one in _BY_STATE:
        return True
    below_one = descendants(one, knowledge=knowledge)
    below_other = descendants(other, knowledge=knowledge)
    return one in below_other or other in below_one or not below_one.isdisjoint(below_other)
