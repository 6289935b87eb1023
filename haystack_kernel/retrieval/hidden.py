"""Held-out (cell type, perturbation) pairs: every label that may contain their treated cells is hidden.

In: the conditions table and the hidden pairs. Out: a mask of the rows that no strategy may see.

A pair is hidden in all datasets, files and donors. Control cells are never hidden.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd
from rapidfuzz import fuzz

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import ancestors, descendants, find_mentions, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import HiddenPair

CANONICAL = "canonical_perturbation"
_DOUBTFUL = frozenset(
    {"ambiguous", "doublet", "immune", "lymphoid", "mixed", "multiplet", "na", "nan", "none", "pbmc", "unassigned"}
    | {"unclassified", "undefined", "uncertain", "unidentified", "unknown", "unlabeled", "unlabelled", "unresolved"}
)
_UNSPECIFIC = frozenset(
    {
        "a",
        "all",
        "and",
        "cell",
        "cluster",
        "high",
        "human",
        "low",
        "mature",
        "negative",
        "of",
        "or",
        "other",
        "positive",
    }
    | {"subset", "the", "type"}
)
_SEPARATORS = re.compile(r"[+&;|_/]|\b(?:and|with|plus)\b", re.IGNORECASE)  # between the parts of a combination
_MIN_PREFIX = 4  # letters: "mono" abbreviates monocyte
_MIN_FUZZY = 85.0  # spelling similarity, 0 to 100


def is_hidden(conditions: pd.DataFrame, *, pairs: Sequence[HiddenPair], knowledge: Knowledge) -> pd.Series:
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
    Boolean per row. True for treated rows of the perturbation (same name or same canonical name, or a name that
    contains it, such as a combination or a dose) whose cell type is the hidden one, an ancestor, a descendant, shares
    a descendant with it, or carries a label that could be one.

    Raises
    ------
    InvalidInputError
        A pair's cell type is not in the knowledge table, so its ancestors cannot be known.
    """
    hide = pd.Series(data=False, index=conditions.index)
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
        wanted = {pair.perturbation.casefold()}
        match = resolve(pair.perturbation, kind="perturbation", knowledge=knowledge).match
        if match is not None and match.how != "fuzzy":  # a similar spelling may be another perturbation
            wanted.add(match.id.casefold())
        same = conditions[CANONICAL].str.casefold().isin(wanted)
        same |= conditions[keys.PERTURBATION].str.casefold().isin(wanted)
        mixed = [name for name in conditions[CANONICAL].unique() if _names_one_of(name, wanted, knowledge=knowledge)]
        same |= conditions[CANONICAL].isin(mixed)
        rows = conditions[~conditions[keys.IS_CONTROL] & same]
        hide |= _rows_of_type(rows, hidden=pair.cell_type_id, knowledge=knowledge).reindex(hide.index, fill_value=False)
    return hide


def may_contain(cell_type_id: str, label: str, *, hidden: str, knowledge: Knowledge) -> bool:
    """Whether cells with this label (and CL id, or "") may be cells of type ``hidden``.

    A CL id of the knowledge table decides alone. Without one, the most specific cell types named in the label decide.
    Where the label names none, the answer is yes for labels of doubt ("unknown"), for shared words ("CD4_TEM" for a CD4
    T cell) and for similar spellings, because a leak is worse than a missing candidate.
    """
    if cell_type_id in knowledge.cell_types:
        return _may_overlap(cell_type_id, hidden, knowledge=knowledge)
    named = {
        mention.resolution.match.id
        for mention in find_mentions(label, knowledge=knowledge)
        if mention.kind == "cell_type" and mention.resolution.match is not None
    }
    specific = {one for one in named if knowledge.cell_types[one].parents}  # the root, "cell", may be any type
    if specific:
        return any(_may_overlap(one, hidden, knowledge=knowledge) for one in specific)
    return _sounds_like(label, hidden=hidden, knowledge=knowledge)


def _names_one_of(name: str, wanted: set[str], *, knowledge: Knowledge) -> bool:
    """Whether a name outside the tables contains a wanted perturbation: "IFN-beta + TNF", "IFNb 6 h"."""
    if not name or name in knowledge.perturbations:
        return False
    named = {
        mention.resolution.match.id.casefold()
        for mention in find_mentions(_SEPARATORS.sub(" , ", name), knowledge=knowledge)
        if mention.kind == "perturbation" and mention.resolution.match is not None
    }
    parts = {part.strip().casefold() for part in re.split(r"[+&;,|/]| and | with | plus ", name, flags=re.IGNORECASE)}
    return not wanted.isdisjoint(named | parts)


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
    """Whether one type descends from the other, or a third from both, as a CD4 memory T cell does."""
    if one == other:
        return True
    below_one = descendants(one, knowledge=knowledge)
    below_other = descendants(other, knowledge=knowledge)
    return one in below_other or other in below_one or not below_one.isdisjoint(below_other)


def _sounds_like(label: str, *, hidden: str, knowledge: Knowledge) -> bool:
    """Whether a label that names no known type may mean the hidden type, an ancestor or a descendant of it."""
    spellings = _spellings_of_lineage(hidden, knowledge=knowledge)
    vocabulary = set(" ".join(spellings).split()) - _UNSPECIFIC
    words = set(_words(label)) - _UNSPECIFIC
    if not words or words & (vocabulary | _DOUBTFUL):
        return True
    abbreviations = tuple(word for word in words if len(word) >= _MIN_PREFIX)
    if any(word.startswith(abbreviations) for word in vocabulary):
        return True
    plain = " ".join(_words(label))
    return any(fuzz.ratio(plain, text) >= _MIN_FUZZY for text in spellings)


def _spellings_of_lineage(cell_type_id: str, *, knowledge: Knowledge) -> list[str]:
    """Names and synonyms of a cell type, its ancestors and its descendants, as plain words."""
    above, below = (walk(cell_type_id, knowledge=knowledge) for walk in (ancestors, descendants))
    lineage = sorted({cell_type_id, *above, *below} & knowledge.cell_types.keys())
    entries = [knowledge.cell_types[one] for one in lineage]
    return [" ".join(_words(text)) for entry in entries for text in (entry.name, *entry.synonyms)]


def _words(text: str) -> list[str]:
    found = re.findall(r"[a-z]+[0-9]*[a-z]*|[0-9]+", text.casefold())
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found]
