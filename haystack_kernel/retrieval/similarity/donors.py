"""Similarity of donors: the tissue, disease, age and sex that they share with the donor or place asked about.

In: a query and the view. Out: the facts of the target, and for each condition which of them agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.retrieval.names import in_dataset, match_donors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery

FACTS = {"tissue": keys.TISSUE_ID, "disease": keys.DISEASE_ID, "age": keys.DONOR_AGE, "sex": keys.DONOR_SEX}
_NAMES = {"tissue": keys.TISSUE, "disease": keys.DISEASE}  # compared where the id is missing
_UNKNOWN = 0.5  # the fact is not recorded on one side, so it counts neither for nor against
_NOT_RECORDED = frozenset({"", "unknown", "na", "nan", "none"})

Facts = dict[str, frozenset[str]]


def target_facts(query: StructuredQuery, view: AtlasView) -> Facts:
    """Tissue, disease, age and sex of the donor (or else the dataset) asked about.

    A tissue or disease that the question names takes precedence over what the atlas records.
    """
    rows = view.controls
    if query.donor_id:
        rows = rows[rows[keys.DONOR].isin(match_donors(query.donor_id, rows))]
    elif query.target_dataset:
        rows = rows[in_dataset(query.target_dataset, rows)]
    else:
        rows = rows.iloc[:0]
    facts = {name: frozenset(_values(rows, name)) - _NOT_RECORDED for name in FACTS}
    said = {"tissue": query.tissue_id, "disease": query.disease_id}
    return {**facts, **{name: frozenset({value.casefold()}) for name, value in said.items() if value}}


def agreement(rows: pd.DataFrame, *, facts: Mapping[str, frozenset[str]]) -> pd.DataFrame:
    """Compare the facts of each row with those of the target.

    Returns
    -------
    One column per fact: 1 where it agrees, 0 where it differs, 0.5 where one side does not record it. The index is
    that of ``rows``.
    """
    columns = {}
    for name in FACTS:
        values = _values(rows, name)
        known = ~values.isin(_NOT_RECORDED) & bool(facts[name])
        columns[name] = np.where(known, values.isin(facts[name]).astype(float), _UNKNOWN)
    return pd.DataFrame(columns, index=rows.index)


def donor_similarity(agreed: pd.DataFrame) -> pd.Series:
    """Similarity of donors: the mean over the four facts, in [0, 1]; 0.5 where nothing is recorded.

    References
    ----------
    Defined here.
    """
    return agreed.mean(axis=1)


def similarity_words(agreed: pd.Series) -> str:
    """Say which facts agree, differ and are not recorded: "same tissue and sex; different age"."""
    parts = []
    for value, form in ((1.0, "same {}"), (0.0, "different {}"), (_UNKNOWN, "{} not recorded")):
        names = [name for name in FACTS if agreed[name] == value]
        if names:
            *others, last = names
            parts.append(form.format(f"{', '.join(others)} and {last}" if others else last))
    return "; ".join(parts)


def _values(rows: pd.DataFrame, name: str) -> pd.Series:
    values = _folded(rows[FACTS[name]])
    return values.where(values != "", _folded(rows[_NAMES[name]])) if name in _NAMES else values


def _folded(texts: pd.Series) -> pd.Series:
    return texts.map({one: one.strip().casefold() for one in texts.unique()})
